"""Text from elsewhere, made fit to be shown."""

import os


def printable(text: str) -> str:
    """Return text from elsewhere with what cannot be printed replaced: bytes that are no UTF-8, and
    control characters, which would break a log into lines of their own, or steer the terminal of
    whoever reads it."""
    text = os.fsencode(text).decode(errors="replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
