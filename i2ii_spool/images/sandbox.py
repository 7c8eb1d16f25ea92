"""Decode the picture on standard input, in a process with limits on memory and CPU time.

    python -m i2ii_spool.images.sandbox PIXELS FORMAT... < picture

The process prints the picture's format, width and height. It decodes the whole picture if that has
at most PIXELS pixels. Its exit code is 0 for an intact picture, 1 for a damaged one (standard error
gives the reason), and 2 if the picture has none of the formats.

A crafted picture can exhaust the memory of its decoder or crash it (CVE-2023-4863 was a WebP). Here
this ends only the process that decodes it. `probe` starts the process; this module imports little,
since each start pays for its imports.
"""

import resource
import sys

from PIL import Image, UnidentifiedImageError

CPU_SECONDS = 30
MEMORY_TO_OPEN = 2**33  # bytes of address space, most of which is never touched
BASE_MEMORY = 2**29
BYTES_PER_PIXEL = 16
"""Decoders hold a picture several times: that of WebP holds two canvases beside the result
(benchmarks/pictures.py)."""

DAMAGED, UNKNOWN = 1, 2


def main(pixels: int, formats: list[str]) -> int:
    """Return the exit code."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, CPU_SECONDS)
    _limit(resource.RLIMIT_AS, MEMORY_TO_OPEN)
    Image.MAX_IMAGE_PIXELS = None  # the caller checks the size
    try:
        with Image.open(sys.stdin.buffer, formats=formats) as image:
            print(image.format, image.width, image.height, flush=True)
            if image.width * image.height <= pixels:
                _limit(resource.RLIMIT_AS, BASE_MEMORY + BYTES_PER_PIXEL * pixels)
                # A JPEG is read to its end all the same, but decoded at an eighth of its size.
                image.draft("RGB", (image.width // 8, image.height // 8))
                image.load()
    except UnidentifiedImageError:
        return UNKNOWN
    except MemoryError:
        print("it takes too much memory to decode", file=sys.stderr)
        return DAMAGED
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, EOFError...
        print(error, file=sys.stderr)
        return DAMAGED
    return 0


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
