"""What pictures cost: PNG compression levels, each output format, and each step of reading one.

    python -m benchmarks.pictures [--quick] [--json]

It is why results are written as PNG level 1: `i2ii_spool.pictures.encode`.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from benchmarks.common import Figure, Options, new_spool, options, report
from i2ii_spool.bench import photograph
from i2ii_spool.pictures import encode, inspect, read

LEVELS = (0, 1, 3, 6, 9)
SIDE = 1024


def png_levels(options: Options) -> Iterator[Figure]:
    """Time and size of a picture at each compression level."""
    picture = _picture()
    for level in LEVELS:
        yield _timed(options, f"PNG level {level}", partial(_png, picture, level))
        yield Figure(f"PNG level {level}, size", len(_png(picture, level)) / 1024, "KiB")


def formats(options: Options) -> Iterator[Figure]:
    """Time and size of a result in each output format."""
    picture = _picture()
    for kind in ("png", "jpeg", "webp"):
        yield _timed(options, f"encode as {kind}", partial(encode, picture, kind))
        yield Figure(f"encode as {kind}, size", len(encode(picture, kind)) / 1024, "KiB")


def reading(options: Options) -> Iterator[Figure]:
    """Time to judge an input at the door, and to decode it for the engine."""
    spool = new_spool(options.folder)
    path = spool.root / "photo.jpg"
    path.write_bytes(photograph(SIDE, SIDE, seed=1))
    yield _timed(options, "judge a JPEG at the door", lambda: inspect(path, max_pixels=SIDE * SIDE))
    yield _timed(options, "read a JPEG for the engine", lambda: read(path, max_pixels=SIDE * SIDE))


def _picture() -> Image.Image:
    return Image.open(io.BytesIO(photograph(SIDE, SIDE, seed=1))).convert("RGB")


def _png(picture: Image.Image, level: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def _timed(options: Options, name: str, call: Callable[[], object]) -> Figure:
    seconds = []
    for _ in range(1 if options.quick else 9):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return Figure(f"{name}, {SIDE}x{SIDE}", 1000 * statistics.median(seconds), "ms")


if __name__ == "__main__":
    report(options(__doc__), png_levels, formats, reading)
