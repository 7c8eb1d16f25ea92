"""What the commands write to a terminal, of any encoding and with text of any client.

A character that the terminal's encoding does not have is written as its escape (`\\u6c34`), and one
that would steer the terminal is not written.
"""

import io
import json
import sys
from typing import Any

import click

from i2ii_spool.jobs.text import printable


def prepare() -> None:
    """Let standard output take every character."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def echo(text: object, *, err: bool = False) -> None:
    """Write text, which may be of a client, and end the line."""
    shown = "\n".join(printable(line) for line in str(text).split("\n"))
    # Where the encoding is ASCII and no file is named, click would write UTF-8.
    click.echo(shown, file=sys.stderr if err else sys.stdout)


def echo_json(value: Any, *, indent: int | None = None) -> None:
    """Write a value as JSON, with escapes for what the terminal cannot show."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    text = json.dumps(value, indent=indent, ensure_ascii=encoding.lower() not in ("utf-8", "utf8"))
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]
        for letter in text
    )
    click.echo(shown, file=sys.stdout)
