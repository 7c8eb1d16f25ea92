"""Find the instructions in a prompt, their order, and the strength of each.

A prompt is split into clauses at punctuation and at words like "but". In a clause, everything after
a negation is ignored ("don't blur or sharpen it, just make it warmer" means only warmer). A
complaint counts as a negation ("it is too dark, make it brighter"). Clauses are split into parts at
words like "and". In a part, a word of degree applies to the instruction after it, or else to the
one before it. All other words are ignored.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from i2ii_spool.engines.classic.instructions import INSTRUCTIONS, Instruction
from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.request import MAX_PROMPT

Kind = Literal["instruction", "subtle", "subtle_behind", "strong", "not", "join", "stop", "other"]

WORDS: dict[Kind, str] = {
    "subtle": "a bit | a little | a little bit | slightly | somewhat | a touch | subtle | subtly | "
    "gently | lightly | 稍微 | 稍稍 | 稍 | 略微 | 略 | 轻微 | 轻轻 | 微微 | 有点 | 有一点",
    # In Chinese these follow the instruction: 亮一点.
    "subtle_behind": "一点 | 一点点 | 一点儿 | 一些 | 些",
    "strong": "very | much | strong | strongly | a lot | really | extremely | heavy | heavily | "
    "intense | intensely | super | highly | dramatic | dramatically | "
    "非常 | 很 | 十分 | 特别 | 极其 | 极度 | 强烈 | 大幅 | 大大 | 超级 | 得多",
    "not": "not | don't | dont | doesn't | isn't | shouldn't | mustn't | won't | can't | never | "
    "no | without | avoid | instead of | rather than | remove | reduce | less | too | "
    "不 | 别 | 勿 | 没有 | 无需 | 避免 | 去掉 | 去除 | 减少 | 太 | 过于 | 过度",
    "join": "and | or | nor | plus | also | with | 和 | 与 | 及 | 或 | 、 | 并 | 再 | 也 | 同时",
    "stop": ", | . | ; | : | ! | ? | ( | ) | / | but | then | and then | and make | and turn | "
    "instead | 。 | 但 | 然后 | 而是 | 接着 | 改为",
    # These contain an instruction or a negation by coincidence.
    "other": "not only | no matter | 漂亮 | 不但 | 不仅 | 不只 | 特别是 | 区别 | 分别 | 太阳",
}
DEGREES: dict[Kind, float] = {"subtle": 0.5, "subtle_behind": 0.5, "strong": 1.6}

# Spellings, and those that the tables use instead.
SPELLINGS = (
    (r"[’‘]", "'"),
    (r"color", "colour"),
    (r"gray", "grey"),
    (r"iz(e|ed|ing)\b", r"is\1"),
    (r"(anti|counter)[\s-]?clockwise", "left"),
    (r"clockwise", "right"),
    (r"一百八十", "180"),
    (r"九十", "90"),
    (r"四十五", "45"),
    (r"[\s_]+|-(?!\d)", " "),
    (r" +", " "),
)
MAX_NORMALISED = 2 * MAX_PROMPT
"""One character, such as U+FDFA, may become 18, and reading takes a second for 10 000."""
NUMBER = r"-?\d{1,4}(?:\.\d+)?(?!\d) ?(?:degrees?|deg|°|度)?"
# "rotate the picture by 90 degrees to the left" is "rotate N° left" with these between.
FILLERS = (
    r"(?: (?:a|an|the|this|that|it|its|my|our|image|picture|photo|photograph|by|to|of|all|"
    r"towards)){0,4}"
)


@dataclass(frozen=True)
class RequestedEffect:
    """An instruction with the strength that a prompt gives it."""

    instruction: Instruction
    strength: float
    """1 without a word of degree; for rotations, degrees."""


@dataclass(frozen=True)
class Word:
    """A word or phrase of a prompt that is in the tables."""

    kind: Kind
    requested: RequestedEffect | None = None


def understand(prompt: str) -> list[RequestedEffect]:
    """Return what `prompt` asks for, in its order; an empty list if it has no known instruction.

    Raises `InvalidRequest` if it is too long once it is normalised.
    """
    requested: list[RequestedEffect] = []
    for clause in _split(_words(prompt), "stop"):
        before_negation = list(takewhile(lambda word: word.kind != "not", clause))
        for part in _split(before_negation, "join"):
            requested += _scaled_effects(part)
    return _deduplicated(requested)


def _deduplicated(requested: list[RequestedEffect]) -> list[RequestedEffect]:
    """Drop repetitions ("a watercolour, in soft watercolours"), except rotations, which add up."""
    first: dict[object, RequestedEffect] = {}
    for position, each in enumerate(requested):
        first.setdefault(each.instruction if each.instruction.angle is None else position, each)
    return list(first.values())


def _split(words: Iterable[Word], kind: Kind) -> Iterator[list[Word]]:
    """Yield the runs of `words` between those of `kind`."""
    run: list[Word] = []
    for word in words:
        if word.kind == kind:
            yield run
            run = []
        else:
            run.append(word)
    yield run


def _scaled_effects(part: list[Word]) -> list[RequestedEffect]:
    """Return the effects in `part`, each scaled by the word of degree that applies to it."""
    requested: list[RequestedEffect] = []
    ahead = 1.0
    for word in part:
        if word.requested is not None:
            requested.append(_scaled(word.requested, ahead))
            ahead = 1.0
        elif word.kind == "subtle_behind" and requested:
            requested[-1] = _scaled(requested[-1], DEGREES[word.kind])
        else:
            ahead = DEGREES.get(word.kind, ahead)
    if requested and ahead != 1:
        requested[-1] = _scaled(requested[-1], ahead)  # "blur it slightly": the degree comes last
    return requested


def _scaled(requested: RequestedEffect, degree: float) -> RequestedEffect:
    # A word of degree does not change an angle.
    if requested.instruction.angle is not None:
        return requested
    return RequestedEffect(requested.instruction, degree)


# --- from text to words ---------------------------------------------------------------------------


def _words(prompt: str) -> Iterator[Word]:
    for match in PHRASES.finditer(_normalised(prompt)):
        meaning = MEANINGS[int(str(match.lastgroup)[1:])]
        if isinstance(meaning, Instruction):
            yield Word("instruction", RequestedEffect(meaning, _strength(meaning, match[0])))
        else:
            yield Word(meaning)


def _strength(instruction: Instruction, phrase: str) -> float:
    if instruction.angle is None:
        return 1.0
    number = re.search(r"-?\d+(\.\d+)?", phrase)
    return float(number[0]) if number else instruction.angle


def _normalised(prompt: str) -> str:
    """Return `prompt` in lower case and British spelling, with single spaces for hyphens and line
    breaks."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    if len(text) > MAX_NORMALISED:
        raise InvalidRequest(
            f"prompt has {len(text)} characters when its ligatures are spelt out; the classic "
            f"engine reads at most {MAX_NORMALISED}",
            field="prompt",
        )
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text)
    return text


def _meanings() -> Iterator[tuple[str, Kind | Instruction]]:
    """Yield every phrase of the tables with its meaning."""
    for instruction in INSTRUCTIONS:
        for phrase in f"{instruction.english} | {instruction.chinese}".split(" | "):
            yield phrase, instruction
    for kind, phrases in WORDS.items():
        for phrase in phrases.split(" | "):
            yield phrase, kind


# The first alternative that matches wins, so the longest come first: "less contrast" must not match
# as "less" and "contrast".
_LONGEST_FIRST = sorted(_meanings(), key=lambda meaning: -len(meaning[0]))
MEANINGS = [meaning for _, meaning in _LONGEST_FIRST]


def _any(which: Callable[[str], bool]) -> str:
    """Return a pattern for all phrases whose first character is `which`; group p7 is that of
    `MEANINGS[7]`."""
    return "|".join(
        f"(?P<p{i}>{_pattern(phrase)})"
        for i, (phrase, _) in enumerate(_LONGEST_FIRST)
        if which(phrase[0])
    )


def _pattern(phrase: str) -> str:
    words = (
        NUMBER if word == "N°" else re.escape(word).replace("N°", f" ?{NUMBER}")
        for word in phrase.split()
    )
    return f"{FILLERS} ?".join(words)


def _latin(character: str) -> bool:
    return character.isascii() and character.isalnum()


# An English phrase must not be a part of a longer word: "ink" is not in "pink". Chinese characters
# may be next to it.
PHRASES = re.compile(
    rf"(?<![a-z0-9])(?:{_any(_latin)})(?![a-z0-9])|{_any(lambda first: not _latin(first))}"
)
