"""Which instructions the classic engine finds in a prompt."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from i2ii_spool.engines.classic import MAX_INSTRUCTIONS, ClassicEngine
from i2ii_spool.engines.classic.instructions import INSTRUCTIONS, Instruction
from i2ii_spool.engines.classic.language import DEGREES, understand
from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.request import EditRequest
from tests.engines.classic import (
    NAMES,
    edit,
    english,
    landscape,
    nothing,
    phrases,
    said,
    same,
)
from tests.support import ROOT

DOCS = ROOT / "docs" / "engines" / "classic.md"


def test_every_phrase_is_understood() -> None:
    wrong = [phrase for phrase, instruction in phrases() if not is_understood(phrase, instruction)]
    assert not wrong


def is_understood(phrase: str, instruction: Instruction) -> bool:
    """Whether a sentence with the phrase means the instruction, with its number."""
    frame = "把这张图片变成{}的样子"
    if phrase.isascii() or phrase.endswith(" N°"):
        frame = "make it {} please"
    wishes = understand(frame.format(phrase.replace("N°", "37°")))
    return (
        len(wishes) == 1
        and wishes[0].instruction is instruction
        and ("N°" not in phrase or wishes[0].strength == 37)
    )


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
        english(i) for i in INSTRUCTIONS
        if not same(edit(english(i), seed=1), edit(english(i), seed=2))
    }  # fmt: skip


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
    st.text(min_size=1, max_size=440)  # one character may become 18
    | st.lists(st.sampled_from([p for p, _ in phrases()])).map(" not ".join)
)
def test_any_text_is_understood_or_passed_over(prompt: str) -> None:
    assert all(wish.strength == wish.strength for wish in understand(prompt))  # not even a NaN


def test_prompt_that_explodes_when_it_is_normalised_is_refused() -> None:
    understand("½" * 2000 + " sepia")
    with pytest.raises(InvalidRequest, match=r"72000 characters .* at most 8000") as refusal:
        edit("\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}" * 4000)
    assert refusal.value.field == "prompt"


def test_other_pictures_and_presets_are_refused() -> None:
    request = EditRequest(prompt="blur")
    for images in ([], [landscape(), landscape()]):
        with pytest.raises(
            InvalidRequest, match=f"classic takes one picture, got {len(images)}"
        ) as refusal:
            ClassicEngine().edit(images, request, nothing)
        assert refusal.value.field == "image"
    with pytest.raises(InvalidRequest) as refusal:
        edit("blur", preset="lightning")
    assert refusal.value.field == "preset"
