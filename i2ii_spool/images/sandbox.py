"""Judges the picture on standard input, in a process of its own with limits of its own.

    python -m i2ii_spool.images.sandbox PIXELS FORMAT... < picture

It prints the picture's format, width and height, and decodes it whole if it has no more than so
many pixels. The exit code is 0 if it is whole, 1 if it is not (standard error says why), and 2 if
it is none of these formats.

A picture can be made to exhaust or to crash whoever decodes it (CVE-2023-4863 was a WebP): here
that takes down nobody.
"""

import resource
import sys

from PIL import Image, UnidentifiedImageError

SECONDS = 30
MEMORY_TO_OPEN = 2**33  # address space that is asked for, and mostly never touched
BASE_MEMORY = 2**29
BYTES_PER_PIXEL = 16
"""Decoders hold a picture several times over: WebP's as two canvases beside the result
(benchmarks/pictures.py)."""

DAMAGED, UNKNOWN = 1, 2


def main(pixels: int, formats: list[str]) -> int:
    """Return the exit code."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, SECONDS)
    _limit(resource.RLIMIT_AS, MEMORY_TO_OPEN)
    Image.MAX_IMAGE_PIXELS = None  # whoever calls judges the size
    try:
        with Image.open(sys.stdin.buffer, formats=formats) as image:
            print(image.format, image.width, image.height, flush=True)
            if image.width * image.height <= pixels:
                _limit(resource.RLIMIT_AS, BASE_MEMORY + BYTES_PER_PIXEL * pixels)
                image.draft(
                    "RGB", (image.width // 8, image.height // 8)
                )  # a JPEG is read whole, at an eighth
                image.load()
    except UnidentifiedImageError:
        return UNKNOWN
    except MemoryError:
        print("it takes too much memory to decode", file=sys.stderr)
        return DAMAGED
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError...
        print(error, file=sys.stderr)
        return DAMAGED
    return 0


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
