"""Pictures to send.

make_picture(tmp_path / "photo.jpg", (64, 48), quality=90)
"""

from pathlib import Path
from typing import Any

from PIL import Image


def make_picture(path: Path, size: tuple[int, int] = (64, 48), **options: Any) -> Path:
    """Write a picture with a gradient, so that every edit changes it; the format follows from the
    suffix."""
    ramp = Image.linear_gradient("L").resize(size)
    Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(path, **options)
    return path
