"""A JSON body, whose pictures are `data:` URLs: they leave it as it arrives.

No JSON parser streams a string, and a picture of 50 MB would stand in memory three times. What is
left of the body without its pictures is small, and is parsed as one.
"""

import base64
import binascii
import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor

from aiohttp import web

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.text import repeated_key
from i2ii_spool.server.limits import LimitedReader
from i2ii_spool.server.upload import IMAGE, MASK, MAX_TEXT, check_field, limited_body, save_picture
from i2ii_spool.spool.submit import Submission

MEDIA_TYPE = "application/json"
IMAGES = "images"
PICTURES = (IMAGE, IMAGES, MASK)
CHUNK = 256 * 1024
MAX_DEPTH = 8
MAX_HEAD = 256
_HEAD = re.compile(rb'data:(?:[^,"\\]|\\/)*;base64,', re.IGNORECASE)
_STRING = re.compile(rb'(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPES = {
    rb"\/": b"/",
    rb"\n": b"",
    rb"\r": b"",
    rb"\t": b"",
    rb"\u002B": b"+",
    rb"\u002b": b"+",
    rb"\u002F": b"/",
    rb"\u002f": b"/",
    rb"\u003D": b"=",
    rb"\u003d": b"=",
}
"""What encoders of JSON write in base64, which may be wrapped into lines."""
_WHITE = b" \t\r\n"
_URL_KEYS = ("image_url", "url")
_CURE = 'send a data: URL, like {"image_url": "data:image/png;base64,..."}'


async def read_json(
    request: web.Request,
    submission: Submission,
    max_bytes: int,
    disk: Executor,
    *,
    known: Sequence[str],
) -> dict[str, str]:
    """Add the pictures of the body to the submission, as `read_form` does; return its other fields,
    of those that are `known`, as a form has them.

    Raises `InvalidRequest` that names the field at fault, `TooLarge` behind `max_bytes`, or
    `TooSlow`.
    """
    async with limited_body(request, max_bytes) as body:
        scanner = Scanner(body)
        async for key in scanner.pictures():
            is_mask = key == MASK
            await save_picture(scanner.picture(key), submission, disk, is_mask=is_mask)
    return _fields(bytes(scanner.rest), scanner.mark, known)


class Scanner:
    """Takes the pictures out of a body. `rest` is the body with `mark` in their place."""

    def __init__(self, body: LimitedReader) -> None:
        self._body = body
        self._data = b""
        self._at = 0
        self._key = b""
        self._depth = 0
        self.rest = bytearray()
        self.mark = secrets.token_hex(8)

    async def pictures(self) -> AsyncIterator[str]:
        """Yield the key of the body that each picture belongs to. Read its `picture` then."""
        last = b""
        while True:
            await self._between_strings(last)
            if self._left() == 0:
                return
            self._take(1)
            while self._left() < MAX_HEAD and self._to_quote() is None and await self._fill():
                pass
            head = _HEAD.match(self._data, self._at, self._at + MAX_HEAD)
            if head is None:
                last = await self._string()
                continue
            self._take(len(head[0]))
            self._keep(b'"%s"' % self.mark.encode())
            key = self._key.decode(errors="replace")
            if key not in PICTURES:
                raise InvalidRequest(f"{key[:100]} takes no picture", field=key[:100] or None)
            yield key

    async def picture(self, key: str) -> AsyncIterator[bytes]:
        """Yield the bytes of a picture in chunks. Raises `InvalidRequest` if it is not base64."""
        text = b""
        is_at_end = False
        while not is_at_end:
            count = self._to_quote()
            is_at_end = count is not None
            piece = self._take(self._left() if count is None else count)
            if not is_at_end:
                escape = piece.rfind(b"\\", max(0, len(piece) - len(r"\u002")))
                if escape >= 0:  # it may go on in the next chunk
                    self._at -= len(piece) - escape
                    piece = piece[:escape]
                if not await self._fill():
                    raise _malformed(f"it ends within {key}")
            text += _unescaped(piece)
            usable = len(text) if is_at_end else len(text) // 4 * 4
            yield _decoded(text[:usable], key, is_at_end=is_at_end)
            text = text[usable:]
        self._take(1)

    async def _between_strings(self, last: bytes) -> None:
        """Go to the next string, or to the end of the body. A string at the first level with a
        colon behind it is a key."""
        while True:
            count = self._to_quote()
            text = self._take(self._left() if count is None else count)
            if self._depth == 1 and text.lstrip(_WHITE).startswith(b":"):
                self._key = last
            self._depth += len(re.findall(rb"[\[{]", text)) - len(re.findall(rb"[\]}]", text))
            if self._depth > MAX_DEPTH:
                raise _malformed(f"it is nested deeper than {MAX_DEPTH}")
            self._keep(text)
            if count is not None or not await self._fill():
                return

    async def _string(self) -> bytes:
        """Keep the string that begins here; return its contents, as they are written."""
        while (whole := _STRING.match(self._data, self._at)) is None:
            if self._left() > MAX_TEXT:
                raise self._too_long()
            if not await self._fill():
                raise _malformed("it ends within a string")
        text = self._take(len(whole[0]))
        self._keep(b'"' + text)
        return text[:-1]

    def _keep(self, text: bytes) -> None:
        self.rest += text
        if len(self.rest) > MAX_TEXT:
            raise self._too_long()

    def _too_long(self) -> InvalidRequest:
        key = self._key.decode(errors="replace")[:100]
        return InvalidRequest(
            f"the body must be at most {MAX_TEXT} bytes besides its pictures; {_CURE}",
            field=key or None,
        )

    def _take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def _left(self) -> int:
        return len(self._data) - self._at

    def _to_quote(self) -> int | None:
        """How many bytes have arrived before the next quotation mark; None if it has not."""
        quote = self._data.find(b'"', self._at)
        return None if quote < 0 else quote - self._at

    async def _fill(self) -> bool:
        chunk = await self._body.read(CHUNK)
        self._data, self._at = self._data[self._at :] + chunk, 0
        return bool(chunk)


def _unescaped(piece: bytes) -> bytes:
    if b"\\" in piece:
        for escape, meant in _ESCAPES.items():
            piece = piece.replace(escape, meant)
    return piece.translate(None, _WHITE)


def _decoded(text: bytes, key: str, *, is_at_end: bool) -> bytes:
    try:
        if is_at_end:
            text += b"=" * (-len(text) % 4)  # some leave them out
        elif text.endswith(b"="):
            raise binascii.Error("it goes on behind its padding")
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{key} is not base64: {error}", field=key) from None


def _malformed(reason: object) -> InvalidRequest:
    return InvalidRequest(f"the body is not well-formed JSON: {reason}")


def _fields(rest: bytes, mark: str, known: Sequence[str]) -> dict[str, str]:
    """Return the fields of a body as a form has them; check what stands for its pictures."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        if (key := repeated_key(items)) is not None:
            raise InvalidRequest(f"{key[:100]} is given twice", field=key[:100])
        return dict(items)

    try:
        body = json.loads(rest, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None
    if not isinstance(body, dict):
        raise _malformed("it is no object")
    fields: dict[str, str] = {}
    for key, value in body.items():
        if key in PICTURES:
            _check_pictures(value, key, mark)
        elif value is not None:
            check_field(key, fields, known)
            fields[key] = _as_text(key, value)
    return fields


def _check_pictures(value: object, key: str, mark: str) -> None:
    """Raise `InvalidRequest` unless the value is pictures, in a form that clients send."""
    match value:
        case None:
            return
        case list():
            for each in value:
                _check_pictures(each, key, mark)
        case dict() if len(value) == 1 and (url := next(iter(value))) in _URL_KEYS:
            _check_pictures(value[url], key, mark)
        case str() if value == mark:
            return
        case str() if re.match(r"https?:", value, re.IGNORECASE):
            raise InvalidRequest(f"{key} is a URL, which is not fetched; {_CURE}", field=key)
        case _:
            raise InvalidRequest(f"{key} is no picture; {_CURE}", field=key)


def _as_text(key: str, value: object) -> str:
    match value:
        case str():
            return value
        case bool() | int() | float():
            return json.dumps(value)
        case _:
            raise InvalidRequest(f"{key} must be a text or a number", field=key)
