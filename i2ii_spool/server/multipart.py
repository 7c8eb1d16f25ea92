"""Multipart forms (RFC 7578), parsed as they arrive by `multipart`, and what of a part is refused.

aiohttp has a reader, too. It passes over a head that it cannot parse, and logs it; it ends with a
`RuntimeError` at some `_charset_` fields; and it takes a part's encoding for part of the data.
"""

import re
from collections.abc import AsyncIterator
from typing import TypeAlias

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.server.charsets import unknown_charset
from i2ii_spool.server.limits import LimitedReader

CHUNK = 256 * 1024
MAX_PARTS = 100
"""Each takes time to parse. A form has as many as its page has inputs."""
MAX_HEADER = 16 * 1024
"""Bytes of a header of a part: ten times the longest file name, percent-encoded."""
IDENTITY_ENCODINGS = {"7bit", "8bit", "binary", "identity"}
"""Values of `Content-Transfer-Encoding` and `Content-Encoding` that leave the data as they are."""


Event: TypeAlias = MultipartSegment | bytes | bytearray | None
"""The head of a part, a chunk of its data, or its end."""


def parameters_of(content_type: str) -> tuple[str, str | None]:
    """Return the boundary and the charset that the `Content-Type` of a form names."""
    _, options = parse_options_header(content_type)
    if not options.get("boundary"):
        raise malformed("its Content-Type has no boundary; let your client set that header")
    return options["boundary"], options.get("charset")


async def read_events(body: LimitedReader, boundary: str) -> AsyncIterator[Event]:
    """Yield each part's head, then its data in chunks, then None.

    Raises `InvalidRequest` if the form is not well-formed, or if a part cannot be used.
    """
    try:
        parser = PushMultipartParser(
            boundary, max_header_size=MAX_HEADER, max_segment_count=MAX_PARTS
        )
        async for event in parser.parse_async(body.read, CHUNK):
            if isinstance(event, MultipartSegment):
                _check_head(event)
            yield event
    except MultipartError as error:
        raise malformed(str(error)) from error


def malformed(reason: str) -> InvalidRequest:
    """Return the error for a form that cannot be read."""
    return InvalidRequest(f"the body is not a well-formed multipart form: {reason}")


def _check_head(head: MultipartSegment) -> None:
    """Raise `InvalidRequest` for a part that is no field, or whose data nothing would decode."""
    names = [name for name, _ in head.headerlist]
    if len(set(names)) < len(names):
        raise malformed("a header of a part is given twice")
    if (head.content_type or "").startswith("multipart/"):
        raise malformed("a part is itself a multipart form; send plain fields")
    if not head.name:
        raise malformed('a part has no name; send `Content-Disposition: form-data; name="prompt"`')
    charset = re.search(r"(?i);\s*charset\s*=\s*(.*)", head.header("Content-Type", ""))
    if head.charset is None and charset is not None:  # it is not even a token
        raise unknown_charset(charset[1], head.name)
    for header in ("Content-Transfer-Encoding", "Content-Encoding"):
        encoding = head.header(header, "binary")
        if encoding.lower() not in IDENTITY_ENCODINGS:
            raise InvalidRequest(
                f"{head.name} has {header}: {encoding[:100]}; send its bytes as they are",
                field=head.name,
            )
