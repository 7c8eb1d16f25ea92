"""Decode the picture on standard input, in a process with limits on memory and CPU time.

    python -P -m i2ii_spool.images.sandbox PIXELS FORMAT < picture

The process prints the picture's width and height. It decodes the whole picture if that has at most
PIXELS pixels. Its exit code is 0 for an intact picture, 1 for a damaged one (standard error gives
the reason), 2 if it does not have the format, and 3 if it is of a kind that is not read (standard
error says which).

A crafted picture can exhaust the memory of its decoder or crash it (CVE-2023-4863 was a WebP). Here
this ends only the process that decodes it. `probe` starts the process; this module imports little,
since each start pays for its imports.
"""

import resource
import sys
import zlib
from io import BufferedReader
from typing import cast

from PIL import Image, UnidentifiedImageError

from i2ii_spool.images import jpeg
from i2ii_spool.images.decoders import check_samples, open_decoder, walk
from i2ii_spool.images.excerpt import Damaged, NotRead, Parts

CPU_SECONDS = 30
MEMORY_TO_OPEN = 2**33  # bytes of address space, most of which is never touched
BASE_MEMORY = 2**29
BYTES_PER_PIXEL = 16
"""Decoders hold a picture several times: that of WebP holds two canvases beside the result
(benchmarks/pictures.py)."""

DAMAGED, UNKNOWN, NOT_READ = 1, 2, 3


def main(pixels: int, name: str) -> int:
    """Return the exit code."""
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CPU, CPU_SECONDS)
    _limit(resource.RLIMIT_AS, MEMORY_TO_OPEN)
    try:
        _decode(cast(BufferedReader, sys.stdin.buffer), name, pixels)
    except UnidentifiedImageError:
        return UNKNOWN
    except NotRead as error:
        print(error, file=sys.stderr)
        return NOT_READ
    except MemoryError:
        print("it takes too much memory to decode", file=sys.stderr)
        return DAMAGED
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, EOFError...
        print(error, file=sys.stderr)
        return DAMAGED
    return 0


def _decode(file: BufferedReader, name: str, pixels: int) -> None:
    parts = walk(file, name)
    with open_decoder(file, name, parts.pieces if parts else None) as image:
        print(image.width, image.height, flush=True)
        if image.width * image.height > pixels:
            return
        _limit(resource.RLIMIT_AS, BASE_MEMORY + BYTES_PER_PIXEL * pixels)
        image.load()
        check_samples(image)
        if name == "JPEG" and parts and not parts.is_whole:
            _check_end(file, parts, _checksum(image))


def _check_end(file: BufferedReader, parts: Parts, decoded: int) -> None:
    """Raise `Damaged` if pixels of a JPEG without an end depend on what follows."""
    for pieces in jpeg.continuations(parts.pieces):
        with open_decoder(file, "JPEG", pieces) as image:
            if _checksum(image) != decoded:
                raise Damaged("its last pixels are missing")


def _checksum(image: Image.Image) -> int:
    return zlib.crc32(image.tobytes())


def _limit(what: int, most: int) -> None:
    resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
