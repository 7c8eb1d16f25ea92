"""Drawings: pencil, cartoon and comic."""

import math

from PIL import Image, ImageChops, ImageEnhance, ImageMath, ImageOps

from i2ii_spool.engines.classic.darkroom import by_strength
from i2ii_spool.engines.classic.materials import (
    Effect,
    Size,
    Touch,
    blurred,
    contours,
    curve,
    graded,
    inked,
    paper,
    simplified,
    textured,
)

# --- pencil ---------------------------------------------------------------------------------------


def draw_edges(image: Image.Image, touch: Touch) -> Image.Image:
    """Dodge the greys with their own blur: flat areas turn to paper, edges stay."""
    grey = image.convert("L")
    light: Image.Image = ImageMath.lambda_eval(
        lambda its: its["min"](its["grey"] * 255 / (its["soft"] + 1), 255),
        grey=grey,
        soft=blurred(grey, 8),
    )
    deep = light.convert("L").point(
        [round(255 * (level / 255) ** (1.7 * max(1, touch.strength))) for level in range(256)]
    )
    return deep.convert("RGB")


def shade(image: Image.Image, touch: Touch) -> Image.Image:
    """Hatch the shadows: the darker a place, the more strokes are visible there."""
    shadow = ImageOps.autocontrast(blurred(touch.original.convert("L"), 3), cutoff=1)
    for slant, tone in (
        (48, (70, 255, 255, 255)),
        (42, (120, 165, 255, 255)),
        (-30, (90, 255, 255, 255)),
    ):
        dark = shadow.point(curve(tone))
        strokes = _hatching(image.size, touch, slant).point(curve((0, 40, 200, 255)))
        image = inked(image, ImageChops.screen(dark, strokes))
    return image


def smudge(image: Image.Image, touch: Touch) -> Image.Image:
    """Rub a little graphite into the dark, so that forms have body."""
    tone = blurred(touch.original.convert("L"), 4).point(curve((150, 205, 246, 255, 255)))
    return inked(image, tone)


def on_drawing_paper(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the pencil catch on the tooth of the paper."""
    tooth = paper(image.size, touch.chance)
    graphite = graded(image, (38, 142, 250), (38, 142, 249), (42, 143, 246))
    return textured(graphite, tooth, 0.2)


def _hatching(size: Size, touch: Touch, slant: float) -> Image.Image:
    """Parallel strokes at `slant` degrees from the horizontal, made of noise stretched along
    them."""
    side = math.ceil(math.hypot(*size))
    scale = max(size) / 1000
    streaks = (max(2, round(side / (45 * scale))), max(2, round(side / (2.2 * scale))))
    drawn = Image.frombytes("L", streaks, touch.chance.randbytes(streaks[0] * streaks[1]))
    # The noise covers a square around the picture, which is turned about its centre. Only what the
    # picture shows of it is made: of a panorama the square has a hundred times the pixels.
    drawn = drawn.resize((4 * streaks[0], 4 * streaks[1]), Image.Resampling.BICUBIC)
    across, down = drawn.width / side, drawn.height / side
    cos, sin = math.cos(math.radians(slant)), math.sin(math.radians(slant))
    x, y, centre = size[0] / 2, size[1] / 2, side / 2
    turned = (
        *(across * cos, -across * sin, across * (centre - cos * x + sin * y)),
        *(down * sin, down * cos, down * (centre - sin * x - cos * y)),
    )
    return drawn.transform(size, Image.Transform.AFFINE, turned, Image.Resampling.BILINEAR)


def colour_in(image: Image.Image, touch: Touch) -> Image.Image:
    """Go over the drawing with coloured pencils, which leave some paper bare."""
    lights = ImageEnhance.Color(simplified(touch.original, 700)).enhance(1.5)
    pale = graded(lights, (70, 165, 255), (70, 165, 255), (70, 165, 255))
    gaps = _hatching(image.size, touch, 46).point(curve((0, 0, 60, 210)))
    return ImageChops.multiply(image, ImageChops.screen(pale, gaps.convert("RGB")))


# --- cartoon --------------------------------------------------------------------------------------


def flatten(image: Image.Image, touch: Touch) -> Image.Image:
    """Run neighbouring colours together."""
    return simplified(image, round(560 / max(0.6, touch.strength)), passes=3)


def few_colours(image: Image.Image, _: Touch) -> Image.Image:
    """Keep the twenty colours that say most, and make them bright."""
    bright = ImageEnhance.Color(
        ImageOps.autocontrast(image, cutoff=0.5).point(curve((0, 84, 158, 214, 255)) * 3)
    ).enhance(1.6)
    return bright.quantize(20, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).convert("RGB")


def clean_borders(image: Image.Image, _: Touch) -> Image.Image:
    """Smooth the borders between colours."""
    return simplified(image, 800)


def ink(image: Image.Image, touch: Touch) -> Image.Image:
    """Draw the forms in black ink."""
    forms = simplified(touch.original.convert("L"), 900)
    return inked(image, contours(forms, 1.3, floor=4, gain=22 * touch.strength))


# --- comic ----------------------------------------------------------------------------------------


def flat_print(image: Image.Image, _: Touch) -> Image.Image:
    """Print in the four levels of each ink that cheap paper takes."""
    flat = simplified(image, 640, passes=2)
    light = ImageOps.autocontrast(flat, cutoff=1).point(curve((20, 110, 185, 235, 255)) * 3)
    return (
        ImageEnhance.Color(light)
        .enhance(2)
        .point([round(level / 85) * 85 for level in range(256)] * 3)
    )


def halftone(image: Image.Image, touch: Touch) -> Image.Image:
    """Screen the shadows with dots: the darker a place, the larger they are."""
    grey = ImageOps.autocontrast(blurred(touch.original.convert("L"), 2), cutoff=1)
    tone = grey.point(curve((70, 120, 190, 255, 255)))
    dots = ImageChops.add(tone, _dot_screen(image.size, touch), scale=1, offset=-128)
    return inked(image, dots.point([max(80, min(255, (level - 112) * 16)) for level in range(256)]))


def _dot_screen(size: Size, touch: Touch) -> Image.Image:
    """Cones with a mean of 128 on a lattice at 45 degrees with a random offset."""
    cell = max(4, round(11 * touch.strength * max(size) / 1000))
    wave = [math.cos(2 * math.pi * step / cell) for step in range(cell)]
    cone = bytes(round(128 + 63 * (across + down)) for down in wave for across in wave)
    tile = Image.frombytes("L", (cell, cell), cone)
    start = touch.chance.randrange(cell), touch.chance.randrange(cell)
    screen = Image.new("L", size)
    for left in range(-start[0], size[0], cell):
        for top in range(-start[1], size[1], cell):
            screen.paste(tile, (left, top))
    return screen


def on_newsprint(image: Image.Image, _: Touch) -> Image.Image:
    """Print on paper that has yellowed."""
    return graded(image, (18, 140, 252), (14, 136, 244), (22, 128, 220))


SKETCH: Effect = (draw_edges, smudge, shade, on_drawing_paper, by_strength)
COLOURED_PENCIL: Effect = (draw_edges, colour_in, shade, on_drawing_paper, by_strength)
CARTOON: Effect = (flatten, few_colours, clean_borders, ink)
COMIC: Effect = (flat_print, halftone, ink, on_newsprint)
