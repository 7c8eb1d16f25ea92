"""Text from other processes: decoded, and made fit to be shown."""

import codecs
import unicodedata
from collections.abc import Iterable

from i2ii_spool.errors import InvalidRequest

# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_text(data: bytes, name: str) -> str:
    """Return the text of a file called `name`: UTF-8, or what its byte order mark says.

    Raises `InvalidRequest` for bytes that are no such text, which an editor has saved in another
    encoding: none of them is guessed.
    """
    encoding = next((each for mark, each in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not text in UTF-8: its byte {error.start + 1} is "
            f"0x{data[error.start]:02x}; save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InvalidRequest(f"{name} is not text in UTF-8: it holds NUL bytes; save it as UTF-8")
    return text


def repeated_key(pairs: Iterable[tuple[str, object]]) -> str | None:
    """Return the first key that an object of JSON has again, of which only one would count."""
    seen = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    return None


def folded(text: str) -> str:
    """Return a text as it is searched: without upper case, and in one form of each character."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def has_control_characters(text: str) -> bool:
    """Whether a name holds control characters, or bytes that are not UTF-8."""
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def printable(text: str) -> str:
    """Return `text` with every character that cannot be printed replaced.

    Surrogates, which stand for bytes that are not UTF-8, could not be encoded again. Control
    characters would split a log line, or steer the terminal of the operator who reads it.
    """
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
