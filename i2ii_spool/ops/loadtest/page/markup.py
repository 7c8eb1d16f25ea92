"""Markup that cannot be broken by the text in it, and numbers as the page writes them.

    tag("p", "1 < 2", class_="note")     # <p class="note">1 &lt; 2</p>

Only what `tag` and `join` return is `Html`. All other text is escaped, also in attributes.
"""

import math
import re
from collections.abc import Iterable
from html import escape

from i2ii_spool.jobs.text import printable

VOID = frozenset({"img", "rect", "path", "line"})


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def tag(name: str, *inside: str, **attributes: object) -> Html:
    """Return an element. `class_` is its class, `aria_label` its aria-label; None is left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID and not inside:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(inside)}</{name}>")


def join(parts: Iterable[str]) -> Html:
    """Return the parts as markup: those that are not yet are escaped."""
    return Html("".join(map(markup, parts)))


def markup(text: str) -> Html:
    """Return text as markup: a line break is a space, and what cannot be shown is replaced."""
    if isinstance(text, Html):
        return text
    return Html(escape(printable(" ".join(text.split("\n")))))


def of_a_job(text: str, limit: int = 300) -> Html:
    """Return text of a client or a worker: cut, and with a direction of its own."""
    return tag("bdi", text if len(text) <= limit else text[: limit - 1] + "…")


def seconds(value: float) -> str:
    """Return a duration with three digits, or so: `0.52`, `21.6`, `315`."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def clock(value: float) -> str:
    """Return a time within the run: `5:15`, or `1:05:15`."""
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(count: int, noun: str) -> str:
    """Return `1 job`, `10 000 jobs`."""
    return f"{grouped(count)} {noun}{'s' * (count != 1)}"


def grouped(count: int) -> str:
    """Return a number with spaces between the thousands."""
    return f"{count:,}".replace(",", " ")


def nice(value: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, ... (or 0.5, 0.2, ...) that is not below `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(each * power for each in (1, 2, 5, 10) if each * power >= value * (1 - 1e-9))


def nice_seconds(value: float) -> float:
    """Like `nice`, and above 10 s what a clock shows well."""
    steps = (10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)
    if value <= 5:
        return nice(value)
    return next((float(step) for step in steps if step >= value), 3600 * math.ceil(value / 3600))


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts gpu10 behind gpu2."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
