"""Pictures to send.

make_picture(tmp_path / "photo.jpg", (64, 48), quality=90)
"""

import io
import random
from pathlib import Path
from typing import Any

from PIL import Image


def gradient(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A picture that every edit changes."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))


def make_picture(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    """Write a gradient; the format follows from the suffix."""
    gradient(size).save(path, **options)
    return path


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of this format: `PNG`, `JPEG`."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encoded(suffix: str = ".png", size: tuple[int, int] = (64, 48), *, seed: int = 0) -> bytes:
    """The bytes of a file that shows noise: as large as its pixels, so that a cut file lacks
    pixels."""
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    return saved(Image.frombytes("RGB", size, noise), Image.registered_extensions()[suffix])


def is_same_picture(data: bytes, expected: bytes) -> bool:
    """Whether it is the whole picture: the stub engines return what they get."""
    try:
        with Image.open(io.BytesIO(data)) as picture, Image.open(io.BytesIO(expected)) as original:
            return picture.convert("RGB").tobytes() == original.convert("RGB").tobytes()
    except (OSError, SyntaxError):
        return False
