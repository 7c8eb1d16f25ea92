"""Text from other processes, made fit to be shown."""

import os


def printable(text: str) -> str:
    """Return `text` with every character that cannot be printed replaced.

    Bytes that are not UTF-8 could not be encoded again. Control characters would split a log line,
    or steer the terminal of the operator who reads it.
    """
    text = os.fsencode(text).decode(errors="replace")
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
