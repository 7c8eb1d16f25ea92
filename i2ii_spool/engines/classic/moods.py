"""Moods: seasons, weather and hours of the day."""

import math
from itertools import pairwise
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageOps

from i2ii_spool.engines.classic.darkroom import bloom, vignette
from i2ii_spool.engines.classic.materials import (
    Effect,
    Size,
    Touch,
    blurred,
    clouds,
    contours,
    curve,
    downwards,
    graded,
    inked,
    noise,
    unit,
)

# --- the hours ------------------------------------------------------------------------------------


def evening_sky(image: Image.Image, touch: Touch) -> Image.Image:
    """Colour the light from violet above through orange to wine red below."""
    low_sun = graded(image, (16, 140, 255), (2, 78, 196), (34, 74, 130))
    sky = ImageOps.colorize(downwards(image.size), "#5a2f92", "#6d1f3a", "#ff8236", midpoint=130)
    lit = Image.blend(low_sun, ImageChops.overlay(low_sun, sky), 0.65)
    return Image.blend(image, lit, touch.strength)


def setting_sun(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the sun stand behind the picture, a third from its top."""
    lamp = _lamp(image.size, centre=(0.5, 0.36), reach=0.75)
    return _add_light(image, lamp, "#ff8a2a", 0.75 * touch.strength)


def late_light(image: Image.Image, touch: Touch) -> Image.Image:
    """The hour before sunset: golden lights, warm shadows."""
    golden = graded(image, (8, 82, 168, 230, 255), (3, 56, 124, 190, 236), (4, 34, 74, 122, 176))
    return Image.blend(image, golden, touch.strength)


def sun_from_the_side(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the sun in from the upper right corner."""
    lamp = _lamp(image.size, centre=(0.98, 0.05), reach=1.1)
    return _add_light(image, lamp, "#ffbe5c", 0.6 * touch.strength)


def nightfall(image: Image.Image, touch: Touch) -> Image.Image:
    """Take the light and most of the colour; what is left is blue."""
    pale = ImageEnhance.Color(image).enhance(0.4)
    dark = graded(pale, (1, 9, 22, 40, 74), (3, 15, 33, 55, 92), (12, 36, 64, 92, 138))
    return Image.blend(image, dark, min(1, 0.9 * touch.strength))


def lamps(image: Image.Image, touch: Touch) -> Image.Image:
    """Light what was brightest and warmest in the daylight, as windows and street lamps are."""
    red, _, blue = touch.original.split()
    warmth = ImageChops.subtract(red, blue).point(curve((0, 90, 255, 255)))
    bright = touch.original.convert("L").point(curve((0, 0, 0, 60, 200)))
    light = ImageChops.multiply(warmth, bright)
    halo = ImageChops.add(light, blurred(light, 12))
    return _add_light(image, halo, "#ffb04a", 0.8 * touch.strength)


def silver(image: Image.Image, touch: Touch) -> Image.Image:
    """Moonlight has hardly a colour: blue-black shadows, silver lights."""
    toned = ImageOps.colorize(image.convert("L"), "#02040b", "#b4c9e6", "#22344f", midpoint=150)
    cold = Image.blend(
        toned, ImageChops.multiply(image, Image.new("RGB", image.size, "#6f8fbf")), 0.25
    )
    return Image.blend(image, cold, min(1, 0.95 * touch.strength))


def moon(image: Image.Image, touch: Touch) -> Image.Image:
    """Let the moon in from the upper left."""
    lamp = _lamp(image.size, centre=(0.15, 0.05), reach=0.9)
    return _add_light(image, lamp, "#b9d2f5", 0.6 * touch.strength)


def _lamp(size: Size, centre: tuple[float, float], reach: float) -> Image.Image:
    """A round light that fades to nothing at `reach` longer sides from `centre`, which is in
    fractions of the sides."""
    disc = ImageOps.invert(Image.radial_gradient("L")).point(curve((0, 6, 26, 70, 140, 220, 255)))
    # Only what the picture shows of it is made: of a panorama it has a hundred times the pixels.
    scale = disc.width / (2 * reach * max(size))
    left, top = (disc.width / 2 - scale * at * side for at, side in zip(centre, size, strict=True))
    shown = (scale, 0, left, 0, scale, top)
    return disc.transform(size, Image.Transform.AFFINE, shown, Image.Resampling.BILINEAR)


def _add_light(image: Image.Image, light: Image.Image, colour: str, amount: float) -> Image.Image:
    """Return `image` lit in `colour` where the grey picture `light` is bright."""
    beam = ImageOps.colorize(light.point(curve((0, 255 * min(amount, 1)))), "black", colour)
    return ImageChops.screen(image, beam)


# --- the seasons ----------------------------------------------------------------------------------


def frost(image: Image.Image, touch: Touch) -> Image.Image:
    """Whiten leaves and lights, and turn the shadows blue."""
    # Green counts double: grass and leaves hold snow.
    snowy = image.convert("RGB", (0.3, 0.7, 0.0, 8, 0.1, 0.8, 0.1, 10, 0.05, 0.65, 0.3, 18))
    pale = graded(
        ImageEnhance.Color(snowy).enhance(0.4), (24, 136, 248), (34, 148, 251), (54, 168, 255)
    )
    return Image.blend(image, pale, min(1.2, 0.9 * touch.strength))


def settled_snow(image: Image.Image, touch: Touch) -> Image.Image:
    """Lay snow on what faces up: where the picture is lighter than what is below it."""
    grey = blurred(touch.original.convert("L"), 2)
    step = max(1, round(5 * unit(image)))
    below = ImageChops.offset(grey, 0, -step)
    ledges = ImageChops.subtract(grey, below).point(curve((0, 255, 255, 255, 255)))
    cover = blurred(ledges, 1).point(curve((0, 255 * min(1, 0.8 * touch.strength))))
    return Image.composite(Image.new("RGB", image.size, "#f4f8ff"), image, cover)


def far_flakes(image: Image.Image, touch: Touch) -> Image.Image:
    """Let it snow: many small flakes."""
    return _falling(image, touch, count=700, radius=2, blur=0.5)


def near_flakes(image: Image.Image, touch: Touch) -> Image.Image:
    """Let it snow: few large flakes, out of focus."""
    return _falling(image, touch, count=70, radius=6, blur=2.0)


def _falling(
    image: Image.Image, touch: Touch, count: int, radius: float, blur: float
) -> Image.Image:
    flakes = Image.new("L", image.size)
    draw = ImageDraw.Draw(flakes)
    for _ in range(round(count * touch.strength)):
        x, y, light, size = _anywhere(touch.chance, image.size)
        reach = size * radius * unit(image)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=light)
    return Image.composite(Image.new("RGB", image.size, "white"), image, blurred(flakes, blur))


def _anywhere(chance: Random, size: Size) -> tuple[float, float, int, float]:
    """Return a random x and y in the picture, a level of grey, and a relative size."""
    place = chance.uniform(0, size[0]), chance.uniform(0, size[1])
    return *place, chance.randint(150, 255), chance.uniform(0.5, 1.3)


def turning_leaves(image: Image.Image, touch: Touch) -> Image.Image:
    """Shift the greens to orange and red; sky and skin stay."""
    return Image.blend(
        image,
        _hues(image, ((18, 10), (30, 14), (50, 18), (90, 24), (120, 50))),
        min(touch.strength, 1),
    )


def autumn_light(image: Image.Image, touch: Touch) -> Image.Image:
    """Thin, warm light."""
    warm = graded(image, (10, 146, 255), (4, 120, 238), (6, 92, 200))
    return Image.blend(image, ImageEnhance.Color(warm).enhance(1.5), 0.85 * touch.strength)


def fresh_leaves(image: Image.Image, touch: Touch) -> Image.Image:
    """Shift dull and yellowish greens to the green of young leaves."""
    return Image.blend(
        image,
        _hues(image, ((24, 24), (34, 44), (60, 64), (90, 74), (120, 100))),
        min(touch.strength, 1),
    )


def spring_light(image: Image.Image, touch: Touch) -> Image.Image:
    """Light the shadows, and colour the lights like blossom."""
    fresh = graded(
        image, (22, 100, 172, 226, 255), (20, 104, 172, 218, 246), (20, 92, 156, 214, 250)
    )
    return Image.blend(image, ImageEnhance.Color(fresh).enhance(1.3), touch.strength)


def petals(image: Image.Image, touch: Touch) -> Image.Image:
    """Let petals drift through the picture."""
    layer, cover = Image.new("RGB", image.size, "#ffd3e2"), Image.new("L", image.size)
    draw, tints = ImageDraw.Draw(cover), ImageDraw.Draw(layer)
    for _ in range(round(60 * touch.strength)):
        x, y, light, size = _anywhere(touch.chance, image.size)
        shape = _petal(x, y, 11 * size * unit(image), touch.chance.uniform(0, 2 * math.pi))
        draw.polygon(shape, fill=light)
        tints.polygon(shape, fill=touch.chance.choice(("#ffc1d6", "#ffdbe8", "#ff9fc0")))
    return Image.composite(layer, image, blurred(cover, 0.7))


def _petal(x: float, y: float, length: float, angle: float) -> list[tuple[float, float]]:
    outline = (
        (-1, 0),
        (-0.5, 0.35),
        (0.3, 0.45),
        (0.9, 0.25),
        (0.75, 0),
        (0.9, -0.25),
        (0.3, -0.45),
        (-0.5, -0.35),
    )
    sine, cosine = math.sin(angle) * length, math.cos(angle) * length
    return [
        (x + across * cosine - down * sine, y + across * sine + down * cosine)
        for across, down in outline
    ]


def _hues(image: Image.Image, moves: tuple[tuple[int, int], ...]) -> Image.Image:
    """Return `image` with its hues (0-255, green is 85) moved along straight lines between the
    pairs in `moves`."""
    hue, saturation, value = image.convert("HSV").split()
    return Image.merge(
        "HSV", (hue.point([_moved(old, moves) for old in range(256)]), saturation, value)
    ).convert("RGB")


def _moved(hue: int, moves: tuple[tuple[int, int], ...]) -> int:
    for (left, left_to), (right, right_to) in pairwise(moves):
        if left <= hue < right:
            return round(left_to + (right_to - left_to) * (hue - left) / (right - left))
    return hue


# --- air and water --------------------------------------------------------------------------------


def haze(image: Image.Image, touch: Touch) -> Image.Image:
    """Wash out contrast and colour with distance: more above than below."""
    soft = ImageEnhance.Color(blurred(image, 1)).enhance(0.55)
    depth = ImageOps.invert(downwards(image.size)).point(curve((70, 150, 205)))
    return _overlaid(soft, "#d9dee3", depth, touch.strength)


def drifts(image: Image.Image, touch: Touch) -> Image.Image:
    """Let banks of fog lie across the picture."""
    width, height = image.size
    # Squeezed, because banks of fog are flat.
    banks = clouds((width, height * 3), touch.chance).resize(image.size)
    return _overlaid(
        image, "#e4e8eb", banks.point(curve((0, 20, 110, 210, 255))), 0.75 * touch.strength
    )


def _overlaid(image: Image.Image, colour: str, cover: Image.Image, amount: float) -> Image.Image:
    """Return `image` under `colour`, which is as opaque as `cover` is white, times `amount`."""
    thick = cover.point([min(255, round(level * amount)) for level in range(256)])
    return Image.composite(Image.new("RGB", image.size, colour), image, thick)


def water(image: Image.Image, touch: Touch) -> Image.Image:
    """Take the red out, as a few metres of sea do, and the light with depth."""
    sea = graded(
        blurred(image, 0.8), (0, 20, 46, 84, 150), (18, 66, 116, 172, 226), (44, 98, 146, 196, 238)
    )
    deep = ImageChops.multiply(
        sea, ImageOps.colorize(downwards(image.size), "#ffffff", "#1f5a86", "#a6d8e6")
    )
    return Image.blend(image, deep, min(1, 0.92 * touch.strength))


def sunbeams(image: Image.Image, touch: Touch) -> Image.Image:
    """Let shafts of light down from the surface."""
    width, height = image.size
    comb = noise((width, 2), touch.chance, max(1, 40 * unit(image))).resize((width * 2, height * 2))
    shafts = comb.rotate(-14, Image.Resampling.BILINEAR).crop(
        (width // 2, height // 2, 3 * width // 2, 3 * height // 2)
    )
    fading = ImageOps.invert(downwards(image.size)).point(curve((0, 30, 120, 255)))
    light = ImageChops.multiply(shafts.point(curve((0, 0, 0, 110, 255))), fading)
    return _add_light(image, light, "#c8fff4", 0.7 * touch.strength)


def bubbles(image: Image.Image, touch: Touch) -> Image.Image:
    """Let air rise through the water."""
    layer = Image.new("L", image.size)
    draw = ImageDraw.Draw(layer)
    for _ in range(round(45 * touch.strength)):
        x, y, light, size = _anywhere(touch.chance, image.size)
        reach = 6 * size * size * unit(image)
        draw.ellipse(
            (x - reach, y - reach, x + reach, y + reach),
            outline=light,
            width=max(1, round(unit(image))),
        )
        glint = reach / 4
        draw.ellipse((x - 2 * glint, y - 2 * glint, x - glint, y - glint), fill=255)
    return _add_light(image, blurred(layer, 0.6), "#d8fbff", 0.7)


# --- the city -------------------------------------------------------------------------------------


def city_night(image: Image.Image, touch: Touch) -> Image.Image:
    """Grade shadows to ink blue, middle tones to magenta, lights to cyan."""
    tones = image.convert("L").point(curve((0, 14, 44, 84, 190)))
    duotone = ImageOps.colorize(tones, "#07031c", "#6ff2ff", "#7c1f9e", midpoint=110)
    dark = graded(ImageEnhance.Color(image).enhance(1.5), (2, 40, 120), (0, 16, 80), (18, 62, 150))
    return Image.blend(image, Image.blend(dark, duotone, 0.6), min(1, touch.strength))


def neon_tubes(image: Image.Image, touch: Touch) -> Image.Image:
    """Draw the strongest edges as neon tubes, magenta on the left to cyan on the right, with their
    glow."""
    edges = ImageOps.invert(contours(touch.original, 1.3, floor=4, gain=16))
    glow = ImageChops.add(blurred(edges, 4), blurred(edges, 14))
    across = downwards(image.size[::-1]).transpose(Image.Transpose.ROTATE_90)
    gas = ImageOps.colorize(across, "#ff2bb8", "#12e6ff", "#5f7bff")
    for light, amount in ((glow, 0.8), (edges, 1.0)):
        lit = light.point(curve((0, 255 * min(1, amount * touch.strength))))
        image = ImageChops.screen(image, inked(gas, lit))
    return image


def wet_air(image: Image.Image, _: Touch) -> Image.Image:
    """Let every light bleed into the damp air."""
    lights = image.point(curve((0, 0, 30, 150)) * 3)
    return ImageChops.screen(image, blurred(lights, 20))


SUNSET: Effect = (evening_sky, setting_sun, bloom)
GOLDEN_HOUR: Effect = (late_light, sun_from_the_side, bloom)
NIGHT: Effect = (nightfall, lamps, vignette)
MOONLIGHT: Effect = (silver, moon, bloom, vignette)
WINTER: Effect = (frost, settled_snow, far_flakes, near_flakes)
AUTUMN: Effect = (turning_leaves, autumn_light, vignette)
SPRING: Effect = (fresh_leaves, spring_light, petals)
FOG: Effect = (haze, drifts)
UNDERWATER: Effect = (water, sunbeams, bubbles, vignette)
NEON: Effect = (city_night, neon_tubes, wet_air, vignette)
