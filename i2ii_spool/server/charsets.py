"""The charsets of text fields: the names that clients use, decoded as browsers encode."""

from encodings import normalize_encoding
from encodings.aliases import aliases

from i2ii_spool.errors import InvalidRequest

AS_BROWSERS_DO = {
    "utf_8": "utf-8-sig",  # a byte order mark is no part of the text
    "ascii": "ascii",
    "latin_1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Browsers encode with the superset of a charset, and name the charset (encoding.spec.whatwg.org).
"""
CHARSETS = {
    **{
        name: name
        for name in (
            *("gb18030", "hz", "big5", "big5hkscs", "cp950", "cp932", "euc_jp", "iso2022_jp"),
            *("cp949", "johab", "koi8_r", "koi8_u", "cp866", "cp874", "tis_620", "mac_roman"),
            *("utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be"),
            *(f"iso8859_{number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
            *(f"cp{number}" for number in range(1250, 1259)),
        )
    },
    **AS_BROWSERS_DO,
    "windows_874": "cp874",
    "iso_8859_8_i": "iso8859_8",
    "x_mac_cyrillic": "mac_cyrillic",
}
"""The codec of each charset. Python has others that decode no text, or are slow on purpose."""
DEFAULT = "utf-8"


def decode(data: bytes, charset: str, field: str) -> str:
    """Return the text. Raises `InvalidRequest` for an unknown charset, and for invalid bytes."""
    name = normalize_encoding(charset.strip().lower()) if charset.isascii() else ""
    codec = CHARSETS.get(aliases.get(name, name))
    if codec is None:
        raise unknown_charset(charset, field)
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        shown = "UTF-8" if codec == "utf-8-sig" else charset
        raise InvalidRequest(
            f"{field} is not {shown}: {error.reason} at byte {error.start}", field=field
        ) from None


def unknown_charset(charset: str, field: str) -> InvalidRequest:
    """Return the error of a text in a charset that is not read."""
    return InvalidRequest(
        f"{field} has the unknown charset {charset[:100]!r}; send it in UTF-8", field=field
    )
