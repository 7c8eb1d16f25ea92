"""What the edits of the classic engine look like."""

from collections.abc import Callable

import pytest
from PIL import Image, ImageOps

from i2ii_spool.engines.classic import MAX_AUTO_SIDE, MAX_INSTRUCTIONS
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS
from tests.engines.classic import (
    TURNS,
    colour,
    contrast,
    distance,
    edges,
    edit,
    english,
    landscape,
    light,
    mean,
    same,
    shades,
    warmth,
)

Look = Callable[[Image.Image, Image.Image], bool]


def grey(image: Image.Image) -> bool:
    return colour(image) == 0


LOOKS: dict[str, Look] = {
    "watercolour": lambda old, new: (
        light(new.crop((0, 0, 160, 2))) > 225 and light(new) > light(old) + 30
    ),
    "oil painting": lambda old, new: colour(new) > colour(old) and distance(old, new) > 15,
    "pointillism": lambda old, new: edges(new) > 1.5 * edges(old),
    "ink wash": lambda old, new: colour(new) < 25 and contrast(new) > 1.5 * contrast(old),
    "pencil sketch": lambda old, new: colour(new) < 12 and light(new) > light(old),
    "coloured pencil": lambda old, new: light(new) > light(old) and colour(new) > 12,
    "cartoon": lambda old, new: colour(new) > colour(old) and shades(new) < shades(old),
    "comic": lambda old, new: edges(new) > 1.5 * edges(old) and colour(new) > colour(old),
    "pop art": lambda old, new: shades(new) <= 16 and colour(new) > colour(old),
    "poster": lambda old, new: shades(new) < shades(old) / 10 and colour(new) > colour(old),
    "pixel art": lambda _, new: shades(new) <= 24,
    "mosaic": lambda old, new: edges(new) > edges(old),
    "line drawing": lambda _, new: grey(new) and light(new) > 170,
    "emboss": lambda _, new: grey(new) and abs(light(new) - 128) < 4 and contrast(new) > 5,
    "black and white": lambda old, new: grey(new) and abs(light(new) - light(old)) < 1,
    "sepia": lambda _, new: mean(new)[0] > mean(new)[1] > mean(new)[2] and warmth(new) > 30,
    "invert": lambda old, new: same(new, ImageOps.invert(old)),
    "brighter": lambda old, new: light(new) > light(old) + 15,
    "darker": lambda old, new: light(new) < light(old) - 15,
    "warmer": lambda old, new: warmth(new) > warmth(old) + 15,
    "cooler": lambda old, new: warmth(new) < warmth(old) - 15,
    "more contrast": lambda old, new: contrast(new) > 1.2 * contrast(old),
    "less contrast": lambda old, new: contrast(new) < 0.8 * contrast(old),
    "more saturated": lambda old, new: colour(new) > 1.2 * colour(old),
    "less saturated": lambda old, new: colour(new) < 0.8 * colour(old),
    "blur": lambda old, new: edges(new) < 0.8 * edges(old),
    "sharpen": lambda old, new: edges(new) > 1.2 * edges(old),
    "vignette": lambda old, new: (
        corner(new) < 0.7 * corner(old) and distance(middle(old), middle(new)) < 8
    ),
    "film grain": lambda old, new: (
        edges(new) > 1.2 * edges(old) and abs(light(new) - light(old)) < 4
    ),
    "soft glow": lambda old, new: light(new) > light(old) + 10 and edges(new) < edges(old),
    "vintage": lambda old, new: warmth(new) > warmth(old) + 30 and colour(new) < 0.8 * colour(old),
    "sunset": lambda old, new: warmth(new) > warmth(old) + 60,
    "golden hour": lambda old, new: warmth(new) > warmth(old) + 30,
    "night": lambda old, new: light(new) < 0.5 * light(old) and warmth(new) < 0,
    "moonlight": lambda old, new: light(new) < light(old) and warmth(new) < 0 and colour(new) < 140,
    "winter": lambda old, new: (
        light(new) > light(old) and colour(new) < 0.6 * colour(old) and warmth(new) < 0
    ),
    "autumn": lambda old, new: warmth(hill(new)) > warmth(hill(old)) + 40,
    "spring": lambda old, new: light(new) > light(old) + 10,
    "misty": lambda old, new: (
        contrast(new) < 0.6 * contrast(old) and colour(new) < 0.6 * colour(old)
    ),
    "underwater": lambda _, new: mean(new)[2] > mean(new)[1] > mean(new)[0],
    "neon": lambda old, new: (
        light(new) < light(old) and mean(new)[1] < min(mean(new)[0], mean(new)[2])
    ),
    "mirror": lambda old, new: same(new, old.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "flip upside down": lambda old, new: same(new, old.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    "upside down": lambda old, new: same(new, old.transpose(Image.Transpose.ROTATE_180)),
    "rotate right": lambda old, new: same(new, old.transpose(Image.Transpose.ROTATE_270)),
    "rotate left": lambda old, new: same(new, old.transpose(Image.Transpose.ROTATE_90)),
    "tilt right": lambda old, new: distance(middle(new, old.size), middle(old.rotate(-5))) < 12,
    "tilt left": lambda old, new: distance(middle(new, old.size), middle(old.rotate(5))) < 12,
}


def corner(image: Image.Image) -> float:
    return light(image.crop((0, 0, 16, 12)))


def middle(image: Image.Image, size: tuple[int, int] | None = None) -> Image.Image:
    """The middle of a picture, half as wide and high as one of `size`."""
    width, height = size or image.size
    left, top = (image.width - width // 2) // 2, (image.height - height // 2) // 2
    return image.crop((left, top, left + width // 2, top + height // 2))


def hill(image: Image.Image) -> Image.Image:
    return image.crop((20, 95, 100, 115))


def test_every_instruction_has_a_look() -> None:
    assert list(LOOKS) == [english(instruction) for instruction in INSTRUCTIONS]


@pytest.mark.parametrize("prompt", LOOKS)
def test_each_instruction_looks_as_documented(prompt: str) -> None:
    assert LOOKS[prompt](landscape(), edit(prompt))


@pytest.mark.parametrize("prompt", [name for name in LOOKS if name not in TURNS])
def test_modifier_a_bit_weakens_an_instruction(prompt: str) -> None:
    image = landscape()
    subtle, full = edit(f"a bit {prompt}", image), edit(prompt, image)
    assert 0 < distance(image, subtle) < distance(image, full)


@pytest.mark.parametrize(
    "prompt", ["brighter", "darker", "warmer", "blur", "more contrast", "sunset", "film grain"]
)
def test_modifier_very_strengthens_an_instruction(prompt: str) -> None:
    image = landscape()
    assert distance(image, edit(f"very {prompt}", image)) > distance(image, edit(prompt, image))


def test_instructions_are_carried_out_in_their_order() -> None:
    once = edit("pixel art")
    assert same(edit("pixel art, blur"), edit("blur", once))
    assert not same(edit("pixel art, blur"), edit("blur, pixel art"))


def test_odd_rotation_grows_the_picture_with_white_corners() -> None:
    turned = edit("rotate 45 degrees")
    assert turned.width > 160
    assert turned.height > 120
    assert turned.getpixel((0, 0)) == (255, 255, 255)
    assert same(edit("rotate 360 degrees"), landscape())
    assert same(edit("rotate -90 degrees"), edit("rotate left"))


def test_rotations_one_after_another_do_not_grow_without_end() -> None:
    assert max(edit("rotate 45 degrees " * MAX_INSTRUCTIONS).size) <= MAX_AUTO_SIDE
