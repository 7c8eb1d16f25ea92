"""Paintings that are put down touch by touch: oil and pointillism."""

import math
from collections.abc import Callable
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from i2ii_spool.engines.classic.materials import Effect, Size, Touch, blurred, paper, textured, unit

Dab = tuple[float, float, float]
"""A touch of the brush: x and y in pixels, and the direction of the form there in radians."""


def prime(image: Image.Image, _: Touch) -> Image.Image:
    """Stain the canvas with a blurred and browned version of the picture."""
    return Image.blend(blurred(image, 12), Image.new("RGB", image.size, "#7a5636"), 0.25)


def broad_strokes(image: Image.Image, touch: Touch) -> Image.Image:
    """Cover the canvas with a broad brush."""
    return _brushed(image, touch, width=16, detail=0)


def middle_strokes(image: Image.Image, touch: Touch) -> Image.Image:
    """Go over what has some detail with a middle brush."""
    return _brushed(image, touch, width=8, detail=5)


def fine_strokes(image: Image.Image, touch: Touch) -> Image.Image:
    """Pick out what has much detail with a fine brush."""
    return _brushed(image, touch, width=4, detail=12)


def ridges(image: Image.Image, touch: Touch) -> Image.Image:
    """Light the ridges that the brush has left, and the weave of the canvas where the paint is
    thin."""
    thick = blurred(image.convert("L"), 0.6).filter(ImageFilter.EMBOSS)
    lit = textured(image, thick, min(0.6, 0.35 * touch.strength))
    return textured(lit, paper(image.size, touch.chance), 0.12)


def _brushed(image: Image.Image, touch: Touch, width: float, detail: int) -> Image.Image:
    """Return `image` painted over with a brush of `width` units where the original has `detail`
    levels of detail or more."""
    brush = width * unit(image) * (0.4 + 0.6 * touch.strength)

    def stroke(draw: ImageDraw.ImageDraw, dab: Dab, colour: tuple[int, ...]) -> None:
        x, y, direction = dab
        reach = brush * touch.chance.uniform(1, 1.9)
        turned = direction + touch.chance.gauss(0, 0.2)
        dx, dy = reach * math.cos(turned), reach * math.sin(turned)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=max(1, round(brush)))

    colours = ImageEnhance.Color(blurred(touch.original, width / 4)).enhance(1.4)
    return _dabbed(image, colours, _dabs(touch, brush, detail), touch.chance, stroke)


# --- pointillism ----------------------------------------------------------------------------------


def tone_ground(image: Image.Image, _: Touch) -> Image.Image:
    """Lay a pale wash that shows between the dots."""
    return Image.blend(blurred(image, 10), Image.new("RGB", image.size, "#efe6d2"), 0.3)


def large_dots(image: Image.Image, touch: Touch) -> Image.Image:
    """Fill the picture with large dots."""
    return _dotted(image, touch, width=9, spread=13)


def small_dots(image: Image.Image, touch: Touch) -> Image.Image:
    """Set small, purer dots between them."""
    return _dotted(image, touch, width=6.5, spread=20)


def _dotted(image: Image.Image, touch: Touch, width: float, spread: float) -> Image.Image:
    size = width * unit(image) * (0.4 + 0.6 * touch.strength)

    def dot(draw: ImageDraw.ImageDraw, dab: Dab, colour: tuple[int, ...]) -> None:
        x, y, _ = dab
        reach = size * touch.chance.uniform(0.4, 0.62)
        mixed = tuple(round(level + touch.chance.gauss(0, spread)) for level in colour)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=mixed)

    colours = ImageEnhance.Color(blurred(touch.original, width / 4)).enhance(1.6)
    return _dabbed(image, colours, _dabs(touch, size, detail=0), touch.chance, dot)


# --- dabs -----------------------------------------------------------------------------------------


def _dabs(touch: Touch, spacing: float, detail: int) -> list[Dab]:
    """Dabs about `spacing` pixels apart, in random order, where the original has `detail` levels of
    detail or more."""
    image, chance = touch.original, touch.chance
    columns, rows = (max(1, round(side / spacing)) for side in image.size)
    directions, busy = _directions(image, (columns, rows)), _busyness(image, (columns, rows))
    dabs = [
        (
            (column + chance.random()) * image.width / columns,
            (row + chance.random()) * image.height / rows,
            direction,
        )
        for row in range(rows)
        for column in range(columns)
        if busy[row * columns + column] >= detail
        for direction in (directions[row * columns + column],)
    ]
    chance.shuffle(dabs)
    return dabs


def _directions(image: Image.Image, grid: Size) -> list[float]:
    """For each cell of `grid`, the direction along the edge that runs through it."""
    grey = blurred(image.convert("L"), 6).resize(grid, Image.Resampling.BOX)
    # Sobel gradients, halved, with an offset of 128.
    across = grey.filter(
        ImageFilter.Kernel((3, 3), (-1, 0, 1, -2, 0, 2, -1, 0, 1), 2, 128)
    ).tobytes()
    down = grey.filter(ImageFilter.Kernel((3, 3), (-1, -2, -1, 0, 0, 0, 1, 2, 1), 2, 128)).tobytes()
    return [math.atan2(y - 128, x - 128) + math.pi / 2 for x, y in zip(across, down, strict=True)]


def _busyness(image: Image.Image, grid: Size) -> bytes:
    """For each cell of `grid`, the mean difference between its detail and its surroundings, in
    levels."""
    grey = image.convert("L")
    detail = ImageChops.difference(grey, blurred(grey, 5))
    return blurred(detail, 2).resize(grid, Image.Resampling.BOX).tobytes()


def _dabbed(
    image: Image.Image,
    colours: Image.Image,
    dabs: list[Dab],
    chance: Random,
    put: Callable[[ImageDraw.ImageDraw, Dab, tuple[int, ...]], None],
) -> Image.Image:
    """Return `image` with every dab in the colour of `colours` at its place, a little lighter or
    darker."""
    canvas = image.copy()
    draw = ImageDraw.Draw(canvas)
    for x, y, direction in dabs:
        light = chance.gauss(0, 6)
        seen = colours.getpixel((int(x), int(y)))
        assert isinstance(
            seen, tuple
        )  # `colours` is RGB; a picture of one channel would give a float
        put(draw, (x, y, direction), tuple(round(level + light) for level in seen))
    return canvas


OIL: Effect = (prime, broad_strokes, middle_strokes, fine_strokes, ridges)
POINTILLISM: Effect = (tone_ground, large_dots, small_dots)
