"""What the effects share: the type of a stage, and papers, grains, curves and lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageChops, ImageFilter

Size = tuple[int, int]


@dataclass(frozen=True)
class Touch:
    """How one effect is applied to one picture."""

    original: Image.Image
    """The RGB picture before this effect: later stages use it, too."""
    strength: float
    """1 is the full effect; less is subtler. For rotations: degrees clockwise."""
    chance: Random
    """The random generator of a picture, seeded with the seed of the picture."""


Stage = Callable[[Image.Image, Touch], Image.Image]
"""Returns a new picture, made from the result of the stage before."""

Effect = tuple[Stage, ...]
"""Stages in their order. After each, progress is reported and the edit can be cancelled."""


def unit(image: Image.Image) -> float:
    """Return a thousandth of the longer side, in pixels: the unit in which an effect looks the same
    at every size."""
    return max(image.size) / 1000


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """Return `image` under a Gaussian blur of `radius` units."""
    return image.filter(ImageFilter.GaussianBlur(radius * unit(image)))


def simplified(image: Image.Image, detail: int, passes: int = 1) -> Image.Image:
    """Return `image` without detail finer than its longer side / `detail`, but with its edges.

    The median filter runs on a small copy. A large window on a large picture looks the same and
    takes seconds.
    """
    small = image.copy()
    small.thumbnail((detail, detail))
    for _ in range(passes):
        small = small.filter(ImageFilter.MedianFilter(5))
    return small.resize(image.size, Image.Resampling.BICUBIC)


# --- tones ----------------------------------------------------------------------------------------


def graded(
    image: Image.Image, red: Sequence[float], green: Sequence[float], blue: Sequence[float]
) -> Image.Image:
    """Return RGB `image` through one curve for each channel; see `curve`."""
    return image.point(curve(red) + curve(green) + curve(blue))


def curve(outputs: Sequence[float]) -> list[int]:
    """A lookup table: linear between `outputs`, which are evenly spaced from black to white."""
    return [round(_between(outputs, value * (len(outputs) - 1) / 255)) for value in range(256)]


def _between(outputs: Sequence[float], position: float) -> float:
    left = min(int(position), len(outputs) - 2)
    return outputs[left] + (outputs[left + 1] - outputs[left]) * (position - left)


def inked(image: Image.Image, ink: Image.Image) -> Image.Image:
    """Return `image` multiplied by the grey picture `ink`: unchanged where that is white, black
    where it is black."""
    return ImageChops.multiply(image, ink.convert("RGB"))


def downwards(size: Size) -> Image.Image:
    """A grey picture, black at the top to white at the bottom."""
    return Image.linear_gradient("L").resize(size)


def outwards(size: Size) -> Image.Image:
    """A grey picture, black in the middle to white in the corners."""
    return Image.radial_gradient("L").resize(size)


# --- textures: grey pictures with a mean of about 128 ---------------------------------------------


def noise(size: Size, chance: Random, cell: float = 1) -> Image.Image:
    """Noise with spots of about `cell` pixels."""
    width, height = (max(2, round(side / max(cell, 1))) for side in size)
    spots = Image.frombytes("L", (width, height), chance.randbytes(width * height))
    return spots.resize(size, Image.Resampling.BICUBIC)


def clouds(size: Size, chance: Random) -> Image.Image:
    """Soft clouds, from as large as a third of the picture down to a fortieth."""
    longest = max(size)
    drift = noise(size, chance, longest / 3)
    for part, weight in ((8, 0.4), (18, 0.25), (40, 0.15)):
        drift = Image.blend(drift, noise(size, chance, longest / part), weight)
    return drift


def paper(size: Size, chance: Random) -> Image.Image:
    """The tooth of rough paper, lit from the upper left."""
    scale = max(size) / 1000
    tooth = Image.blend(noise(size, chance, 5 * scale), noise(size, chance, 2 * scale), 0.45)
    return tooth.filter(ImageFilter.GaussianBlur(0.7 * scale)).filter(ImageFilter.EMBOSS)


def textured(image: Image.Image, texture: Image.Image, amount: float) -> Image.Image:
    """Return `image` lightened and darkened by `texture`, whose contrast is scaled by `amount`."""
    calm = texture.point(curve((128 - 128 * min(amount, 1), 128 + 127 * min(amount, 1))))
    return ImageChops.hard_light(image, calm.convert("RGB"))


# --- lines ----------------------------------------------------------------------------------------


def contours(image: Image.Image, width: float, floor: float, gain: float) -> Image.Image:
    """Ink lines, black on white, where `image` is darker than its surroundings.

    `width` is in units. A difference of up to `floor` levels stays white; each level more is `gain`
    levels darker.
    """
    grey = image.convert("L")
    difference = ImageChops.subtract(blurred(grey, 2.2 * width), blurred(grey, width))
    return difference.point(
        [round(max(0, min(255, 255 - gain * (level - floor)))) for level in range(256)]
    )
