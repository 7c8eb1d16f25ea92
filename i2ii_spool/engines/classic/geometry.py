"""Effects that move pixels and change none of their colours."""

import math
from itertools import pairwise

from PIL import Image, ImageOps

from i2ii_spool.engines.classic.materials import Size, Stage, Touch

MAX_GROWTH = 4
"""Turned by 45 degrees a square has twice its pixels, a picture of 5:1 has 3.6 times."""
QUARTER_TURNS = {
    90: Image.Transpose.ROTATE_270,  # Pillow counts counter-clockwise
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def turn_right(image: Image.Image, touch: Touch) -> Image.Image:
    """Rotate clockwise by the strength, in degrees. The picture grows to contain its corners; the
    new area is white. A long one is made smaller before."""
    degrees = touch.strength % 360
    if degrees == 0:
        return image.copy()
    if degrees in QUARTER_TURNS:
        return image.transpose(QUARTER_TURNS[int(degrees)])
    image = _shrunk(image, degrees)
    # In an alpha channel, 0: the new area is transparent.
    blank = "white" if image.mode == "RGB" else 0
    return image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=blank)


def _shrunk(image: Image.Image, degrees: float) -> Image.Image:
    """Return `image`, made smaller if it would have more than `MAX_GROWTH` times its pixels once it
    is turned, as a panorama has."""
    width, height = image.size
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    growth = (width * cos + height * sin) * (width * sin + height * cos) / (width * height)
    if growth <= MAX_GROWTH:
        return image
    scale = math.sqrt(MAX_GROWTH / growth)
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))))


def turn_left(image: Image.Image, touch: Touch) -> Image.Image:
    """Rotate counter-clockwise by the strength, in degrees."""
    return turn_right(image, Touch(touch.original, -touch.strength, touch.chance))


def mirror(image: Image.Image, _: Touch) -> Image.Image:
    """Swap left and right."""
    return ImageOps.mirror(image)


def flip(image: Image.Image, _: Touch) -> Image.Image:
    """Swap top and bottom."""
    return ImageOps.flip(image)


def four_panels(image: Image.Image, _: Touch) -> Image.Image:
    """Show the picture four times, two by two."""
    sheet = Image.new(image.mode, image.size)
    for left, top, right, bottom in panels(image.size):
        sheet.paste(image.resize((right - left, bottom - top)), (left, top))
    return sheet


def panels(size: Size) -> list[tuple[int, int, int, int]]:
    """The four quarters of a picture, as boxes."""
    width, height = size
    columns, rows = pairwise((0, width // 2, width)), list(pairwise((0, height // 2, height)))
    return [(left, top, right, bottom) for left, right in columns for top, bottom in rows]


MOVES: frozenset[Stage] = frozenset((turn_right, turn_left, mirror, flip, four_panels))
"""The stages that also apply to the alpha channel of a picture."""
