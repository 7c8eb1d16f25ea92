"""The classic engine: what it understands, what its pictures look like, and how it keeps the
engine's promises."""

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps, ImageStat

from i2ii_spool.engines.classic import MAX_AUTO_SIDE, MAX_INSTRUCTIONS, ClassicEngine
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS, Instruction
from i2ii_spool.engines.classic.language import DEGREES, understand
from i2ii_spool.errors import Cancelled, InvalidRequest
from i2ii_spool.jobs.request import EditRequest

DOCS = Path(__file__).parents[2] / "docs" / "classic.md"
NAMES = [instruction.name for instruction in INSTRUCTIONS]
TURNS = {
    "mirror",
    "flip upside down",
    "upside down",
    "rotate right",
    "rotate left",
    "tilt right",
    "tilt left",
}


def nothing(*_: object) -> None:
    """Hears the steps, and does nothing."""


def english(instruction: Instruction) -> str:
    return instruction.english.split(" | ")[0]


def landscape(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A sky that fades to the horizon, a green hill, a red house with a lit window: no two quarters
    alike."""
    width, height = size
    image = ImageOps.colorize(Image.linear_gradient("L").resize(size), "#4f86c6", "#f3e2c0")
    draw = ImageDraw.Draw(image)
    draw.ellipse((-width // 4, height // 2, width, height * 2), fill="#4c8a3a")
    draw.rectangle((width // 6, height // 3, width // 2, height * 3 // 4), fill="#a8402c")
    draw.rectangle((width // 4, height // 2, width // 3, height * 2 // 3), fill="#fff0a0")
    grain = Image.frombytes("L", size, Random(7).randbytes(width * height)).point(
        lambda level: 112 + level // 8
    )
    return ImageChops.soft_light(image, grain.convert("RGB"))


def edit(prompt: str, image: Image.Image | None = None, **fields: object) -> Image.Image:
    request = EditRequest.model_validate({"prompt": prompt, **fields})
    return ClassicEngine().edit([image or landscape()], request, nothing)[0]


def said(prompt: str) -> list[tuple[str, float]]:
    return [(english(wish.instruction), wish.strength) for wish in understand(prompt)]


def mean(image: Image.Image) -> list[float]:
    return ImageStat.Stat(image).mean


def light(image: Image.Image) -> float:
    return mean(image.convert("L"))[0]


def colour(image: Image.Image) -> float:
    return mean(image.convert("HSV"))[1]


def contrast(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L")).stddev[0]


def edges(image: Image.Image) -> float:
    return mean(image.convert("L").filter(ImageFilter.FIND_EDGES))[0]


def warmth(image: Image.Image) -> float:
    red, _, blue = mean(image)
    return red - blue


def shades(image: Image.Image) -> int:
    return len(image.getcolors(image.width * image.height) or ())


def distance(one: Image.Image, other: Image.Image) -> float:
    return sum(mean(ImageChops.difference(one, other)))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


# --- the table ------------------------------------------------------------------------------------


def phrases() -> list[tuple[str, Instruction]]:
    return [
        (phrase, instruction)
        for instruction in INSTRUCTIONS
        for phrase in f"{instruction.english} | {instruction.chinese}".split(" | ")
    ]


@pytest.mark.parametrize(
    ("phrase", "instruction"), phrases(), ids=[phrase for phrase, _ in phrases()]
)
def test_every_phrase_is_understood(phrase: str, instruction: Instruction) -> None:
    frame = (
        "make it {} please"
        if phrase.isascii() or phrase.endswith(" N°")
        else "把这张图片变成{}的样子"
    )
    (wish,) = understand(frame.format(phrase.replace("N°", "37°")))
    assert wish.instruction is instruction
    if "N°" in phrase:
        assert wish.strength == 37


def test_no_phrase_stands_for_two_instructions() -> None:
    known = [phrase for phrase, _ in phrases()]
    assert len(known) == len(set(known))


def test_docs_list_exactly_the_table() -> None:
    rows = [
        f"| {i.english.replace(' | ', ', ')} | {i.chinese.replace(' | ', '、')} | {i.does} |"
        for i in INSTRUCTIONS
    ]
    table = [line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| ")]
    assert [re.sub(r" (seed )?\|$", "", row) for row in table[1:]] == rows


def test_docs_mark_exactly_the_rows_in_which_the_seed_matters() -> None:
    marked = {
        line.split("|")[1].split(",")[0].strip()
        for line in DOCS.read_text("utf-8").splitlines()
        if "| seed |" in line
    }
    assert marked == {
        english(i) for i in INSTRUCTIONS if not same(edit(english(i), seed=1), edit(english(i), seed=2))
    }  # fmt: skip


# --- prompts --------------------------------------------------------------------------------------

SUBTLE, STRONG = DEGREES["subtle"], DEGREES["strong"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("turn this into a watercolour", [("watercolour", 1)]),
        ("in the style of an oil painting", [("oil painting", 1)]),
        ("Convert to BLACK-and-WHITE!", [("black and white", 1)]),
        (
            "watercolor, warmer and a bit brighter",
            [("watercolour", 1), ("warmer", 1), ("brighter", SUBTLE)],
        ),
        ("make it look like a vintage photo and mirror it", [("vintage", 1), ("mirror", 1)]),
        ("mirror it and make it look vintage", [("mirror", 1), ("vintage", 1)]),
        ("grayscale, posterized", [("black and white", 1), ("poster", 1)]),
        ("blur it slightly and sharpen", [("blur", SUBTLE), ("sharpen", 1)]),
        ("very much less contrast", [("less contrast", STRONG)]),
        ("将图像转换为水彩画风格，再亮一点", [("watercolour", 1), ("brighter", SUBTLE)]),
        ("把图片变成素描", [("pencil sketch", 1)]),
        ("稍微暖，非常暗", [("warmer", SUBTLE), ("darker", STRONG)]),
        ("亮一点暖一点", [("brighter", SUBTLE), ("warmer", SUBTLE)]),
        ("特别亮", [("brighter", STRONG)]),
        ("对比度低一点", [("less contrast", SUBTLE)]),
        ("turn the brightness down", [("darker", 1)]),
        ("a watercolour, in soft watercolours", [("watercolour", 1)]),
        ("rotate, rotate", [("rotate right", 90), ("rotate right", 90)]),
        ("左右翻转", [("mirror", 1)]),
        ("漂亮的月亮", [("moonlight", 1)]),
    ],
)
def test_prompt_is_understood(prompt: str, expected: list[tuple[str, float]]) -> None:
    assert said(prompt) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("rotate", ("rotate right", 90)),
        ("rotate by 180 degrees", ("rotate right", 180)),
        ("rotate the picture by 12.5° to the left", ("rotate left", 12.5)),
        ("rotate it 30 degrees counter-clockwise", ("rotate left", 30)),
        ("rotate 30 clockwise", ("rotate right", 30)),
        ("turn it anticlockwise", ("rotate left", 90)),
        ("rotate -90 degrees", ("rotate right", -90)),
        ("rotate slightly to the left", ("tilt left", 5)),
        ("turn it upside down", ("upside down", 180)),
        ("flip it upside down", ("flip upside down", 1)),
        ("向右旋转90度", ("rotate right", 90)),
        ("逆时针旋转４５度", ("rotate left", 45)),
        ("旋转一百八十度", ("rotate right", 180)),
        ("very much rotate by 90 degrees", ("rotate right", 90)),
    ],
)
def test_rotation_is_understood(prompt: str, expected: tuple[str, float]) -> None:
    assert said(prompt) == [expected]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("don't blur", []),
        ("don’t make it blurry or dark", []),
        ("without blur", []),
        ("not too dark", []),
        ("不要模糊", []),
        ("不太亮", []),
        ("别变成素描", []),
        ("don't blur or sharpen it, just make it warmer", ["warmer"]),
        ("make it warm but not dark", ["warmer"]),
        ("a sketch instead of a watercolour", ["pencil sketch"]),
        ("it is too dark, brighten it", ["brighter"]),
        ("太暗了，调亮", ["brighter"]),
        ("不要模糊，变成油画", ["oil painting"]),
        ("not only warmer", ["warmer"]),
    ],
)
def test_what_is_negated_is_left_out(prompt: str, expected: list[str]) -> None:
    assert [name for name, _ in said(prompt)] == expected


@pytest.mark.parametrize(
    "prompt",
    ["pink", "scold him", "someone on a chair", "swarmed", "darkness999", "coolant", "brightly2"],
)
def test_words_are_not_found_inside_words(prompt: str) -> None:
    assert said(prompt) == []


def test_the_longest_phrase_counts() -> None:
    assert said("less contrast") == [("less contrast", 1)]
    assert said("black and white") == [("black and white", 1)]
    assert said("暗角") == [("vignette", 1)]


def test_unknown_instruction_is_refused_with_the_list() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        edit("put a hat on the cat")
    assert refusal.value.code == "unknown_instruction"
    assert refusal.value.field == "prompt"
    assert all(name in refusal.value.message for name in NAMES)
    assert "qwen" in refusal.value.message


def test_too_many_instructions_are_refused() -> None:
    edit("rotate " * MAX_INSTRUCTIONS)
    with pytest.raises(InvalidRequest) as refusal:
        edit("rotate " * (MAX_INSTRUCTIONS + 1))
    assert refusal.value.field == "prompt"


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=4000)
    | st.lists(st.sampled_from([p for p, _ in phrases()])).map(" not ".join)
)
def test_any_text_is_understood_or_passed_over(prompt: str) -> None:
    assert all(wish.strength == wish.strength for wish in understand(prompt))  # not even a NaN


def test_other_pictures_and_presets_are_refused() -> None:
    request = EditRequest(prompt="blur")
    for images in ([], [landscape(), landscape()]):
        with pytest.raises(
            InvalidRequest, match=f"edits one picture, {len(images)} were given"
        ) as refusal:
            ClassicEngine().edit(images, request, nothing)
        assert refusal.value.field == "image"
    with pytest.raises(InvalidRequest) as refusal:
        edit("blur", preset="lightning")
    assert refusal.value.field == "preset"


# --- looks ----------------------------------------------------------------------------------------

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
def test_it_looks_like_what_it_says(prompt: str) -> None:
    assert LOOKS[prompt](landscape(), edit(prompt))


@pytest.mark.parametrize("prompt", [name for name in LOOKS if name not in TURNS])
def test_less_is_less(prompt: str) -> None:
    image = landscape()
    subtle, full = edit(f"a bit {prompt}", image), edit(prompt, image)
    assert 0 < distance(image, subtle) < distance(image, full)


@pytest.mark.parametrize(
    "prompt", ["brighter", "darker", "warmer", "blur", "more contrast", "sunset", "film grain"]
)
def test_more_is_more(prompt: str) -> None:
    image = landscape()
    assert distance(image, edit(f"very {prompt}", image)) > distance(image, edit(prompt, image))


def test_instructions_are_carried_out_in_their_order() -> None:
    once = edit("pixel art")
    assert same(edit("pixel art, blur"), edit("blur", once))
    assert not same(edit("pixel art, blur"), edit("blur, pixel art"))


def test_rotation_by_an_odd_angle_grows_the_picture_and_leaves_white_corners() -> None:
    turned = edit("rotate 45 degrees")
    assert turned.width > 160
    assert turned.height > 120
    assert turned.getpixel((0, 0)) == (255, 255, 255)
    assert same(edit("rotate 360 degrees"), landscape())
    assert same(edit("rotate -90 degrees"), edit("rotate left"))


def test_rotations_one_after_another_do_not_grow_without_end() -> None:
    assert max(edit("rotate 45 degrees " * MAX_INSTRUCTIONS).size) <= MAX_AUTO_SIDE


# --- seeds, sizes, alpha --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt", ["watercolour", "oil painting", "film grain", "winter", "comic", "misty"]
)
def test_the_seed_decides_the_texture_and_nothing_else(prompt: str) -> None:
    first, again, other = (edit(prompt, seed=seed) for seed in (5, 5, 6))
    assert same(first, again)
    assert 0 < distance(first, other) < 120
    assert abs(light(first) - light(other)) < 10


def test_pictures_of_one_request_have_seeds_that_follow() -> None:
    request = EditRequest(prompt="watercolour", n=3, seed=7)
    pictures = ClassicEngine().edit([landscape()], request, nothing)
    assert all(same(picture, edit("watercolour", seed=7 + i)) for i, picture in enumerate(pictures))


def test_the_largest_seed_is_fine() -> None:
    ClassicEngine().edit([landscape()], EditRequest(prompt="grain", n=2, seed=2**32 - 1), nothing)


@pytest.mark.parametrize(
    ("size", "prompt", "sides", "expected"),
    [
        ("auto", "sepia", (160, 120), (160, 120)),
        ("auto", "rotate", (160, 120), (120, 160)),
        ("auto", "sepia", (MAX_AUTO_SIDE * 2, 300), (MAX_AUTO_SIDE, 150)),
        (
            "auto",
            "rotate 45 degrees",
            (MAX_AUTO_SIDE, MAX_AUTO_SIDE),
            (MAX_AUTO_SIDE, MAX_AUTO_SIDE),
        ),
        ("input", "rotate", (160, 120), (160, 120)),
        ("input", "sepia", (MAX_AUTO_SIDE + 10, 300), (MAX_AUTO_SIDE + 10, 300)),
        ("64x100", "sepia", (160, 120), (64, 100)),
        ("300x200", "rotate 30 degrees", (160, 120), (300, 200)),
    ],
)
def test_size(size: str, prompt: str, sides: tuple[int, int], expected: tuple[int, int]) -> None:
    assert edit(prompt, landscape(sides), size=size).size == expected


def test_size_crops_and_does_not_distort() -> None:
    assert same(edit("invert", size="64x64"), ImageOps.invert(ImageOps.fit(landscape(), (64, 64))))


@pytest.mark.parametrize("prompt", [english(instruction) for instruction in INSTRUCTIONS])
@pytest.mark.parametrize("sides", [(8, 8), (8, 128), (128, 8)])
def test_any_shape_and_mode(prompt: str, sides: tuple[int, int]) -> None:
    image = landscape(sides)
    result = edit(prompt, image)
    assert result.mode == "RGB"
    image.putalpha(Image.linear_gradient("L").resize(sides))
    before = image.copy()
    clear = edit(prompt, image)
    assert same(image, before)
    assert clear.mode == "RGBA"
    assert clear.size == result.size
    if prompt not in TURNS | {"pop art"}:
        assert same(clear.getchannel("A"), image.getchannel("A"))


def test_alpha_moves_along() -> None:
    image = landscape()
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    assert same(edit("flip upside down", image).getchannel("A"), ImageOps.flip(alpha))
    assert same(edit("rotate", image).getchannel("A"), alpha.transpose(Image.Transpose.ROTATE_270))
    assert edit("rotate 45 degrees", image).getchannel("A").getpixel((0, 0)) == 0
    pop = edit("pop art", image).getchannel("A")
    assert same(pop.crop((0, 0, 80, 60)), pop.crop((80, 60, 160, 120)))


# --- the engine's promises ------------------------------------------------------------------------


def test_progress_counts_every_stage_of_every_picture() -> None:
    told: list[tuple[int, int]] = []
    request = EditRequest(prompt="watercolour, then brighter", n=2)
    ClassicEngine().edit([landscape()], request, lambda step, steps: told.append((step, steps)))
    stages = sum(len(wish.instruction.effect) for wish in understand(request.prompt))
    assert told == [(step, 2 * stages) for step in range(1, 2 * stages + 1)]


@pytest.mark.parametrize(
    "prompt", ["watercolour", "oil painting", "ink wash", "pencil sketch", "cartoon", "comic"]
)
def test_paintings_have_enough_stages_to_watch(prompt: str) -> None:
    assert len(understand(prompt)[0].instruction.effect) >= 4


def test_what_on_step_raises_stops_the_edit_and_the_engine_goes_on() -> None:
    engine, steps_done = ClassicEngine(), []

    def stop_at_the_third(step: int, _: int) -> None:
        steps_done.append(step)
        if step == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        engine.edit([landscape()], EditRequest(prompt="watercolour", n=4), stop_at_the_third)
    assert steps_done == [1, 2, 3]
    again = engine.edit([landscape()], EditRequest(prompt="watercolour"), nothing)
    assert same(again[0], edit("watercolour"))


def test_info_says_what_it_is() -> None:
    engine = ClassicEngine()
    engine.load()
    engine.close()
    assert (engine.info.engine, engine.info.model) == ("classic", "classic")
    assert set(engine.info.versions) == {"pillow"}
