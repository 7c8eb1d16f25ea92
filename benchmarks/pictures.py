"""Measure what pictures cost: PNG compression levels, output formats, inspecting and reading.

    python -m benchmarks.pictures [--quick] [--json]

Its figures are the reason for PNG level 1 (`i2ii_spool.images.codec.encode`) and for the memory
limit of the sandbox (`i2ii_spool.images.sandbox`).
"""

import io
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from PIL import Image

from benchmarks.common import Figure, Options, new_spool, options, report
from i2ii_spool.images.codec import encode, read
from i2ii_spool.images.probe import inspect
from i2ii_spool.images.sandbox import limits
from i2ii_spool.ops.loadtest.photo import photograph

LEVELS = (0, 1, 3, 6, 9)
SIDE = 1024
INPUTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("JPEG", "JPEG", {"quality": 92}),
    ("progressive JPEG", "JPEG", {"quality": 92, "progressive": True}),
    ("PNG", "PNG", {"compress_level": 1}),
    ("WebP", "WEBP", {"quality": 92}),
)
DECODED = (
    *(("WEBP", "RGBA"), ("AVIF", "RGBA"), ("TIFF", "RGBA"), ("GIF", "P")),
    *(("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "I;16")),
)
READ = """
import sys
from i2ii_spool.images import pixels
path, kind, most = sys.argv[1:]
with open(path, "rb") as file:
    pixels.read(file, name=kind, max_pixels=int(most), field="image").tobytes()
print(open("/proc/self/status").read())
"""


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
    """Time to inspect an input at submit, and to decode it for the engine."""
    spool = new_spool(options.folder)
    path = spool.root / "photo"
    for size in ((64, 64), (SIDE, SIDE), (4 * SIDE, 3 * SIDE)):  # up to 12 million pixels
        if options.quick and size[0] > SIDE:
            continue
        for name, kind, saving in INPUTS:
            _picture().resize(size).save(path, kind, **saving)
            yield _timed(
                options, f"inspect a {name}", partial(inspect, path, max_pixels=10**8), size
            )
            yield _timed(options, f"read a {name}", partial(read, path, max_pixels=10**8), size)


def decoding(options: Options) -> Iterator[Figure]:
    """Peak memory of the sandbox for the largest picture that the default settings allow."""
    side = 400 if options.quick else 8000
    limit = (limits.BASE_MEMORY + limits.BYTES_PER_PIXEL * side * side) / 2**20
    for kind, mode in DECODED:
        yield Figure(
            f"read a {kind} of {side}x{side}, {mode}, peak memory",
            _peak_of(kind, mode, side),
            "MiB",
            at_most=limit,
        )


def _peak_of(kind: str, mode: str, side: int) -> float:
    """Return the peak of a process's address space, which is what the limit counts, in MiB."""
    with tempfile.NamedTemporaryFile() as file:
        Image.effect_noise((side, side), 80).convert("RGB").convert(mode).save(file, kind)
        command = [sys.executable, "-c", READ, file.name, kind, str(side * side)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
    (peak,) = re.findall(r"VmPeak:\s+(\d+) kB", said.stdout)
    return int(peak) / 1024


def _picture() -> Image.Image:
    return Image.open(io.BytesIO(photograph(SIDE, SIDE, seed=1))).convert("RGB")


def _png(picture: Image.Image, level: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def _timed(
    options: Options, name: str, call: Callable[[], object], size: tuple[int, int] = (SIDE, SIDE)
) -> Figure:
    seconds = []
    for _ in range(1 if options.quick else 9):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return Figure(f"{name}, {size[0]}x{size[1]}", 1000 * statistics.median(seconds), "ms")


if __name__ == "__main__":
    report(options(__doc__), png_levels, formats, reading, decoding)
