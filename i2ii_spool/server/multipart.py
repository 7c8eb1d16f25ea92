"""Multipart forms (RFC 7578), read as they arrive: the head of each part, then its data.

aiohttp has a reader, too. It passes over a head that it cannot parse, and logs it; it ends with a
`RuntimeError` at some `_charset_` fields; and it takes a part's encoding for part of the data.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.server.limits import LimitedReader

CHUNK = 256 * 1024
MAX_PARTS = 100
"""Each takes time to parse. A form has as many as its page has inputs."""
MAX_HEAD = 16 * 1024
"""Bytes of the head of a part: ten times the longest file name, percent-encoded."""
IDENTITY_ENCODINGS = {"7bit", "8bit", "binary", "identity"}
"""Values of `Content-Transfer-Encoding` and `Content-Encoding` that leave the data as they are."""
PARAMETER = re.compile(
    r"""\s*;\s* (?P<name>[^\s=;"]+) \s*=\s* (?:
        " (?P<escaped>(?:[^"\\]|\\.)*) " (?=\s*(?:;|$))
      | " (?P<quoted>.*?) " (?=\s*(?:;\s*[\w*-]+\s*=|$))
      | (?P<token>[^;"]*)
    )""",
    re.VERBOSE | re.DOTALL,
)
"""`; name=value`. Some clients escape quotes and backslashes in a file name, and some do not."""


@dataclass(frozen=True)
class PartHead:
    """The head of one part."""

    name: str
    filename: str | None
    """None for a text; "" for a file input that the user left empty."""
    charset: str | None


class FormReader:
    """Reads the parts of a form: `next_part`, then `chunks` of its data, until there is none.

    Raises `InvalidRequest` if the form is not well-formed.
    """

    def __init__(self, body: LimitedReader, boundary: bytes) -> None:
        self._body = body
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first delimiter may begin the body
        self._parts = 0
        self._is_in_part = True  # what precedes the first delimiter is skipped like a part

    async def next_part(self) -> PartHead | None:
        """Return the head of the next part, or None behind the last."""
        async for _ in self.chunks():
            pass
        while len(self._buffer) < 2:
            await self._fill()
        if self._buffer.startswith(b"--"):
            return None
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise malformed(f"it has more than {MAX_PARTS} parts")
        while (end := self._buffer.find(b"\r\n\r\n", 0, MAX_HEAD)) < 0:
            if len(self._buffer) >= MAX_HEAD:
                raise malformed(f"the head of a part is longer than {MAX_HEAD} bytes")
            await self._fill()
        head = self._buffer[:end].decode(errors="backslashreplace")
        del self._buffer[: end + 2]  # the second CRLF may begin the delimiter behind an empty part
        self._is_in_part = True
        return parse_head(head)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the data of the part that `next_part` returned."""
        skipped = 2  # the CRLF before the data
        while self._is_in_part:
            at = self._buffer.find(self._delimiter)
            end = at if at >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
            if data := bytes(self._buffer[skipped:end]):
                yield data
            skipped = max(0, skipped - end)
            if at >= 0:
                self._is_in_part = False
                end += len(self._delimiter)
            del self._buffer[:end]
            if self._is_in_part:
                await self._fill()

    async def _fill(self) -> None:
        chunk = await self._body.read(CHUNK)
        if not chunk:
            boundary = self._delimiter[2:].decode(errors="backslashreplace")
            raise malformed(f"it ends without the line {boundary}--, after a CRLF")
        self._buffer += chunk


def malformed(reason: str) -> InvalidRequest:
    """Return the error for a form that cannot be read."""
    return InvalidRequest(f"the body is not a well-formed multipart form: {reason}")


def parse_head(text: str) -> PartHead:
    """Parse the lines of a head. Raises `InvalidRequest`; the message names the part if it can."""
    padding, *lines = re.sub(r"\r\n[ \t]+", " ", text).split("\r\n")
    if padding.strip():
        raise malformed(f"{padding[:100]!r} follows a boundary")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or name in headers:
            what = "is given twice in" if colon else "is not a header of"
            raise malformed(f"{(name if colon else line)[:100]!r} {what} a part")
        headers[name] = value.strip()
    if headers.get("content-type", "").lower().startswith("multipart/"):
        raise malformed("a part is itself a multipart form; send plain fields")
    disposition = headers.get("content-disposition", "")
    parameters = parse_parameters(disposition)
    name = parameters.get("name", "")
    if not name:
        raise malformed('a part has no name; send `Content-Disposition: form-data; name="prompt"`')
    _check_is_plain(name, headers)
    return PartHead(
        name=name,
        filename=parameters.get("filename*", parameters.get("filename")),
        charset=_charset_in(headers.get("content-type", "")),
    )


def parse_parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header such as `form-data; name="image"`.

    Raises `InvalidRequest` if it cannot be read, or gives one twice.
    """
    at = end if (end := header.find(";")) >= 0 else len(header)
    parameters: dict[str, str] = {}
    while match := PARAMETER.match(header, at):
        name = match["name"].lower()
        if name in parameters:
            raise malformed(f"{name} is given twice in {header[:200]!r}")
        escaped = match["escaped"]
        parameters[name] = (
            re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL)
            if escaped is not None
            else match["quoted"] or (match["token"] or "").strip()
        )
        at = match.end()
    if header[at:].strip(" \t;"):
        raise malformed(f"{header[:200]!r} cannot be read")
    return parameters


def _check_is_plain(field: str, headers: Mapping[str, str]) -> None:
    """Raise `InvalidRequest` for a part whose data are encoded: nothing would decode them."""
    for header in ("Content-Transfer-Encoding", "Content-Encoding"):
        encoding = headers.get(header.lower(), "binary")
        if encoding.lower() not in IDENTITY_ENCODINGS:
            raise InvalidRequest(
                f"{field} has {header}: {encoding[:100]}; send its bytes as they are", field=field
            )


def _charset_in(content_type: str) -> str | None:
    has_one = "charset" in content_type.lower()  # else it does not matter how it is written
    return parse_parameters(content_type).get("charset") if has_one else None
