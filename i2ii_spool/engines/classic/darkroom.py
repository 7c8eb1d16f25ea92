"""Effects of the darkroom: light and colour, sharpness, grain and glow."""

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from i2ii_spool.engines.classic.materials import (
    Effect,
    Touch,
    blurred,
    clouds,
    contours,
    curve,
    graded,
    inked,
    noise,
    outwards,
    textured,
    unit,
)


def by_strength(image: Image.Image, touch: Touch) -> Image.Image:
    """Blend a subtle effect with the original; keep a full effect as it is."""
    return Image.blend(touch.original, image, min(touch.strength, 1))


# --- light and colour -----------------------------------------------------------------------------


def brighten(image: Image.Image, touch: Touch) -> Image.Image:
    """Lift the middle tones most; white stays white, so that nothing is burnt out."""
    return _bent(image, 1 / (1 + 0.5 * touch.strength))


def darken(image: Image.Image, touch: Touch) -> Image.Image:
    """Lower the middle tones most."""
    return _bent(image, 1 + 0.6 * touch.strength)


def _bent(image: Image.Image, gamma: float) -> Image.Image:
    return image.point([round(255 * (value / 255) ** gamma) for value in range(256)] * 3)


def warm(image: Image.Image, touch: Touch) -> Image.Image:
    """Shift white towards candle light."""
    return Image.blend(
        image, graded(image, (0, 142, 255), (0, 128, 246), (0, 105, 208)), touch.strength
    )


def cool(image: Image.Image, touch: Touch) -> Image.Image:
    """Shift white towards an overcast sky."""
    return Image.blend(
        image, graded(image, (0, 105, 212), (0, 126, 246), (0, 146, 255)), touch.strength
    )


def add_contrast(image: Image.Image, touch: Touch) -> Image.Image:
    """Spread the tones about their own mean."""
    return ImageEnhance.Contrast(image).enhance(1 + 0.45 * touch.strength)


def take_contrast(image: Image.Image, touch: Touch) -> Image.Image:
    """Draw the tones together about their mean."""
    return ImageEnhance.Contrast(image).enhance(max(0.1, 1 - 0.4 * touch.strength))


def add_colour(image: Image.Image, touch: Touch) -> Image.Image:
    """Make every colour purer."""
    return ImageEnhance.Color(image).enhance(1 + 0.6 * touch.strength)


def take_colour(image: Image.Image, touch: Touch) -> Image.Image:
    """Mute every colour."""
    return ImageEnhance.Color(image).enhance(max(0.0, 1 - 0.5 * touch.strength))


def greyscale(image: Image.Image, touch: Touch) -> Image.Image:
    """Keep the light and drop the colour."""
    return by_strength(image.convert("L").convert("RGB"), touch)


def sepia(image: Image.Image, touch: Touch) -> Image.Image:
    """Tone the greys as old silver prints were: brown shadows, cream highlights."""
    toned = ImageOps.colorize(image.convert("L"), "#1d1108", "#fff3d9", "#9c7650")
    return by_strength(toned, touch)


def invert(image: Image.Image, touch: Touch) -> Image.Image:
    """Turn the picture into its negative."""
    # Halfway between a picture and its negative everything is grey, so blend further.
    return Image.blend(image, ImageOps.invert(image), 1 if touch.strength >= 1 else 0.75)


# --- sharpness ------------------------------------------------------------------------------------


def blur(image: Image.Image, touch: Touch) -> Image.Image:
    """Put the picture out of focus."""
    return blurred(image, 6 * touch.strength)


def sharpen(image: Image.Image, touch: Touch) -> Image.Image:
    """Strengthen edges, at the scale of the finest detail and at one coarser."""
    percent = round(110 * touch.strength)
    fine = image.filter(ImageFilter.UnsharpMask(max(0.8, 0.8 * unit(image)), percent, 2))
    return fine.filter(ImageFilter.UnsharpMask(max(1.5, 2.5 * unit(image)), percent // 2, 3))


def emboss(image: Image.Image, touch: Touch) -> Image.Image:
    """Press the picture into grey metal, lit from the upper left."""
    grey = blurred(image.convert("L"), 0.8)
    step = max(1, round(unit(image)))
    lit = ImageChops.offset(grey, step, step)
    relief = ImageChops.subtract(grey, lit, scale=1, offset=128)
    gain = 2.4 * touch.strength
    return relief.point(
        [round(max(0, min(255, 128 + gain * (level - 128)))) for level in range(256)]
    ).convert("RGB")


def outline(image: Image.Image, touch: Touch) -> Image.Image:
    """Keep nothing but the edges: dark lines on white."""
    lines = contours(image, 0.9, floor=2, gain=14 * max(1, touch.strength))
    return by_strength(lines.convert("RGB"), touch)


# --- film -----------------------------------------------------------------------------------------


def vignette(image: Image.Image, touch: Touch) -> Image.Image:
    """Darken towards the corners."""
    shade = outwards(image.size).point(curve((255, 255, 255, 225, 175, 110, 60)))
    return Image.blend(image, inked(image, shade), min(1, 0.75 * touch.strength))


def film_grain(image: Image.Image, touch: Touch) -> Image.Image:
    """Sprinkle the silver grain of fast film."""
    coarse = noise(image.size, touch.chance, 1.8 * unit(image))
    grain = Image.blend(noise(image.size, touch.chance), coarse, 0.5)
    return textured(image, grain, 0.28 * touch.strength)


def age(image: Image.Image, touch: Touch) -> Image.Image:
    """Fade the print: blacks to brown, whites to cream, blues first."""
    soft = ImageEnhance.Color(blurred(image, 0.5)).enhance(0.75)
    faded = graded(soft, (38, 90, 160, 218, 250), (26, 74, 136, 194, 232), (34, 66, 106, 148, 186))
    return Image.blend(image, faded, touch.strength)


def stain(image: Image.Image, touch: Touch) -> Image.Image:
    """Lay the unevenness of old paper over the print."""
    return textured(image, clouds(image.size, touch.chance), 0.13 * touch.strength)


def bloom(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the light spill softly over the edges of things."""
    haze = ImageChops.screen(image, blurred(image, 14).point(curve((0, 30, 140)) * 3))
    return Image.blend(image, haze, min(1, 0.85 * touch.strength))


def soften(image: Image.Image, touch: Touch) -> Image.Image:
    """Mix in an unsharp copy, as a lens with a breath on it does."""
    return Image.blend(image, blurred(image, 5), min(0.8, 0.45 * touch.strength))


def dream(image: Image.Image, touch: Touch) -> Image.Image:
    """Lift the shadows towards rose."""
    return Image.blend(
        image, graded(image, (26, 145, 255), (14, 132, 250), (28, 142, 250)), touch.strength
    )


GLOW: Effect = (soften, bloom, dream)
OLD_FILM: Effect = (film_grain,)
VINTAGE: Effect = (age, stain, film_grain, vignette)
