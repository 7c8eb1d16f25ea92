"""Pictures made of pieces or printed in few colours: pixel art, mosaic, poster, pop art."""

from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageOps

from i2ii_spool.engines.classic.darkroom import by_strength
from i2ii_spool.engines.classic.geometry import four_panels, panels
from i2ii_spool.engines.classic.materials import (
    Effect,
    Size,
    Touch,
    inked,
    simplified,
    textured,
    unit,
)

# --- pixel art ------------------------------------------------------------------------------------


def large_pixels(image: Image.Image, touch: Touch) -> Image.Image:
    """Average over blocks."""
    rich = ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(1.1)).enhance(1.3)
    blocks = rich.resize(
        _blocks(image.size, 10 * touch.strength * unit(image)), Image.Resampling.BOX
    )
    return blocks.resize(image.size, Image.Resampling.NEAREST)


def small_palette(image: Image.Image, _: Touch) -> Image.Image:
    """Keep 24 colours, as the machines of the time could show."""
    return image.quantize(24, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")


def _blocks(size: Size, block: float) -> Size:
    width, height = (max(1, round(side / max(1, block))) for side in size)
    return width, height


# --- mosaic ---------------------------------------------------------------------------------------


def tiles(image: Image.Image, touch: Touch) -> Image.Image:
    """Give each tile one colour, slightly different from that of every other tile."""
    grid = _blocks(image.size, _tile(image, touch))
    colours = ImageEnhance.Color(image.resize(grid, Image.Resampling.BOX)).enhance(1.3)
    uneven = Image.frombytes("L", grid, touch.chance.randbytes(grid[0] * grid[1]))
    return textured(colours, uneven, 0.16).resize(image.size, Image.Resampling.NEAREST)


def grout(image: Image.Image, touch: Touch) -> Image.Image:
    """Set the tiles apart with grout, and light their upper left edges."""
    columns, rows = _blocks(image.size, _tile(image, touch))
    joints, bevels = Image.new("L", image.size, 255), Image.new("L", image.size, 128)
    for draw, shift, colour in (
        (ImageDraw.Draw(bevels), 1, 215),
        (ImageDraw.Draw(bevels), -1, 60),
        (ImageDraw.Draw(joints), 0, 105),
    ):
        width = max(1, round(1.3 * unit(image)))
        for column in range(columns + 1):
            x = column * image.width // columns + shift * width
            draw.line((x, 0, x, image.height), fill=colour, width=width)
        for row in range(rows + 1):
            y = row * image.height // rows + shift * width
            draw.line((0, y, image.width, y), fill=colour, width=width)
    return inked(textured(image, bevels, 0.5), joints)


def _tile(image: Image.Image, touch: Touch) -> float:
    """The side of a tile in pixels, larger than its joints."""
    return max(4, 15 * max(1, touch.strength) * unit(image))


# --- poster and pop art ---------------------------------------------------------------------------


def cut_out(image: Image.Image, _: Touch) -> Image.Image:
    """Reduce to shapes that could be cut from paper."""
    return simplified(image, 420, passes=4)


def spot_colours(image: Image.Image, touch: Touch) -> Image.Image:
    """Print in ten inks."""
    bold = ImageEnhance.Color(ImageOps.autocontrast(image, cutoff=1)).enhance(
        1 + 0.9 * touch.strength
    )
    return bold.quantize(10, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")


def trim(image: Image.Image, _: Touch) -> Image.Image:
    """Smooth the outlines."""
    return simplified(image, 1000)


PALETTES = (
    ("#2b0a57", "#e6007e", "#ffd500", "#fff6c9"),
    ("#00205b", "#0092d1", "#ff8fc7", "#fff27a"),
    ("#5c0029", "#ff4b1f", "#29c7ac", "#f7ffd6"),
    ("#053b2f", "#00a859", "#ffb000", "#ffe9f3"),
)
"""From dark to light: four inks for each of four silkscreens."""


def silkscreen(image: Image.Image, touch: Touch) -> Image.Image:
    """Print each panel in four flat, loud inks of its own, which are chosen at random."""
    # Equalised, each of the four inks covers a quarter of the picture.
    tones = ImageOps.equalize(simplified(image.convert("L"), 1000))
    loud = image.copy()
    for box, inks in zip(panels(image.size), touch.chance.sample(PALETTES, 4), strict=True):
        loud.paste(_printed(tones.crop(box), inks), box)
    return Image.blend(image, loud, min(1, touch.strength))


def _printed(tones: Image.Image, inks: tuple[str, ...]) -> Image.Image:
    colours = [ImageColor.getrgb(ink) for ink in inks]
    tables = [[colours[level // 64][channel] for level in range(256)] for channel in range(3)]
    return Image.merge("RGB", [tones.point(table) for table in tables])


PIXEL_ART: Effect = (large_pixels, small_palette)
MOSAIC: Effect = (tiles, grout, by_strength)
POSTER: Effect = (cut_out, spot_colours, trim)
POP_ART: Effect = (four_panels, silkscreen)
