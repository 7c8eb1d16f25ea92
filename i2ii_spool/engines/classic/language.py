"""Reads a prompt: which instructions are in it, in which order, and how strongly each is meant.

A prompt is cut into clauses at punctuation and at words like "but". In a clause, nothing that
follows a negation counts ("don't blur or sharpen it, just make it warmer" is warmer alone), and a
complaint is a negation ("it is too dark, make it brighter"). Clauses are cut into parts at words
like "and"; in a part, a word of degree is about the instruction that follows it, or else about the
one before it. Everything else in a prompt is passed over.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from i2ii_spool.engines.classic.instructions import INSTRUCTIONS, Instruction

Kind = Literal["instruction", "subtle", "subtle_behind", "strong", "not", "join", "stop", "other"]

WORDS: dict[Kind, str] = {
    "subtle": "a bit | a little | a little bit | slightly | somewhat | a touch | subtle | subtly | gently | lightly | "
    "稍微 | 稍稍 | 稍 | 略微 | 略 | 轻微 | 轻轻 | 微微 | 有点 | 有一点",
    "subtle_behind": "一点 | 一点点 | 一点儿 | 一些 | 些",  # 亮一点: the degree comes after
    "strong": "very | much | strong | strongly | a lot | really | extremely | heavy | heavily | intense | intensely | "
    "super | highly | dramatic | dramatically | "
    "非常 | 很 | 十分 | 特别 | 极其 | 极度 | 强烈 | 大幅 | 大大 | 超级 | 得多",
    "not": "not | don't | dont | doesn't | isn't | shouldn't | mustn't | won't | can't | never | no | without | "
    "avoid | instead of | rather than | remove | reduce | less | too | "
    "不 | 别 | 勿 | 没有 | 无需 | 避免 | 去掉 | 去除 | 减少 | 太 | 过于 | 过度",
    "join": "and | or | nor | plus | also | with | 和 | 与 | 及 | 或 | 、 | 并 | 再 | 也 | 同时",
    "stop": ", | . | ; | : | ! | ? | ( | ) | / | but | then | and then | and make | and turn | instead | "
    "。 | 但 | 然后 | 而是 | 接着 | 改为",
    # In these words an instruction or a negation stands by chance.
    "other": "not only | no matter | 漂亮 | 不但 | 不仅 | 不只 | 特别是 | 区别 | 分别 | 太阳",
}
DEGREES: dict[Kind, float] = {"subtle": 0.5, "subtle_behind": 0.5, "strong": 1.6}

# What is said in several ways, and the one way in which the tables say it.
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
NUMBER = r"-?\d{1,4}(?:\.\d+)?(?!\d) ?(?:degrees?|deg|°|度)?"
# "rotate the picture by 90 degrees to the left" is "rotate N° left" with these between.
FILLERS = r"(?: (?:a|an|the|this|that|it|its|my|our|image|picture|photo|photograph|by|to|of|all|towards)){0,4}"


@dataclass(frozen=True)
class Wish:
    """An instruction as somebody meant it in a prompt."""

    instruction: Instruction
    strength: float
    """1 unless a word of degree says otherwise; for rotations, degrees."""


@dataclass(frozen=True)
class Word:
    """A word or phrase of a prompt that means something here."""

    kind: Kind
    wish: Wish | None = None


def understand(prompt: str) -> list[Wish]:
    """Return what `prompt` asks for, in its order; nothing, if it asks for nothing that is known."""
    wishes: list[Wish] = []
    for clause in _cut(_words(prompt), "stop"):
        asked = list(takewhile(lambda word: word.kind != "not", clause))
        for part in _cut(asked, "join"):
            wishes += _wishes(part)
    return _once(wishes)


def _once(wishes: list[Wish]) -> list[Wish]:
    """Drop what is said again ("a watercolour, in soft watercolours"), but not rotations, which add
    up."""
    first: dict[object, Wish] = {}
    for position, wish in enumerate(wishes):
        first.setdefault(wish.instruction if wish.instruction.angle is None else position, wish)
    return list(first.values())


def _cut(words: Iterable[Word], kind: Kind) -> Iterator[list[Word]]:
    """The runs of `words` between those of `kind`."""
    run: list[Word] = []
    for word in words:
        if word.kind == kind:
            yield run
            run = []
        else:
            run.append(word)
    yield run


def _wishes(part: list[Word]) -> list[Wish]:
    """The wishes in `part`, each scaled by the word of degree that is about it."""
    wishes: list[Wish] = []
    ahead = 1.0
    for word in part:
        if word.wish is not None:
            wishes.append(_scaled(word.wish, ahead))
            ahead = 1.0
        elif word.kind == "subtle_behind" and wishes:
            wishes[-1] = _scaled(wishes[-1], DEGREES[word.kind])
        else:
            ahead = DEGREES.get(word.kind, ahead)
    if wishes and ahead != 1:
        wishes[-1] = _scaled(wishes[-1], ahead)  # "blur it slightly": the degree came last
    return wishes


def _scaled(wish: Wish, degree: float) -> Wish:
    # 90 degrees are 90 degrees, however much somebody wants them.
    return wish if wish.instruction.angle is not None else Wish(wish.instruction, degree)


# --- from text to words ---------------------------------------------------------------------------


def _words(prompt: str) -> Iterator[Word]:
    for match in PHRASES.finditer(_plain(prompt)):
        yield _word(MEANINGS[int(str(match.lastgroup)[1:])], match[0])


def _word(meaning: Kind | Instruction, text: str) -> Word:
    if not isinstance(meaning, Instruction):
        return Word(meaning)
    number = re.search(r"-?\d+(\.\d+)?", text) if meaning.angle is not None else None
    return Word("instruction", Wish(meaning, float(number[0]) if number else meaning.angle or 1.0))


def _plain(prompt: str) -> str:
    """Return `prompt` in lower case and British spelling, with single spaces for hyphens and line
    breaks."""
    text = unicodedata.normalize("NFKC", prompt).casefold()
    for spelling, ours in SPELLINGS:
        text = re.sub(spelling, ours, text)
    return text


def _meanings() -> Iterator[tuple[str, Kind | Instruction]]:
    """Every phrase, and what it means."""
    for instruction in INSTRUCTIONS:
        for phrase in f"{instruction.english} | {instruction.chinese}".split(" | "):
            yield phrase, instruction
    for kind, phrases in WORDS.items():
        for phrase in phrases.split(" | "):
            yield phrase, kind


# The first alternative that fits wins, so the longest stand first: "less contrast" is not "less",
# then "contrast".
_LONGEST_FIRST = sorted(_meanings(), key=lambda meaning: -len(meaning[0]))
MEANINGS = [meaning for _, meaning in _LONGEST_FIRST]


def _any(which: Callable[[str], bool]) -> str:
    """A pattern for all phrases that begin with `which`; the group p7 is the phrase of the seventh
    meaning."""
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


# An English word begins and ends where no letter is: "ink" is not in "pink". Chinese around it does
# not matter.
PHRASES = re.compile(
    rf"(?<![a-z0-9])(?:{_any(_latin)})(?![a-z0-9])|{_any(lambda first: not _latin(first))}"
)
