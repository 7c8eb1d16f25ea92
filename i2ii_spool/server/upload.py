"""The form of `POST /edit`. Its pictures go to disk in chunks; none is in memory as a whole."""

import asyncio
from collections.abc import AsyncIterator

import aiofiles
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from multipart import MultipartSegment

from i2ii_spool.errors import InvalidRequest, TooSlow, UnsupportedMediaType
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server import charsets
from i2ii_spool.server.limits import MIN_UPLOAD_RATE, LimitedReader, too_large
from i2ii_spool.server.multipart import Event, malformed, parameters_of, read_events
from i2ii_spool.spool.submit import Submission

MAX_TEXT = 64 * 1024
IMAGE = "image"
IMAGE_NAMES = (IMAGE, "image[]")
"""PHP, and clients of the OpenAI API, name a field `image[]` that they repeat."""
FORM_FIELDS = (IMAGE, *EditRequest.model_fields)
CHARSET = "_charset_"
"""A field that names the charset of the texts (RFC 7578, 4.6). Browsers fill it in."""
BODY_ENCODINGS = ("identity", "gzip", "deflate")
"""Of the whole body: what aiohttp decodes."""


def check_is_form(request: web.Request) -> None:
    """Raise `UnsupportedMediaType` unless the head of the request announces a form."""
    # `request.content_type` parses the header as an e-mail's, which takes longer than all the rest.
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0]
    if media_type.strip().lower() != "multipart/form-data":
        raise UnsupportedMediaType(
            "send multipart/form-data, like curl -F image=@photo.jpg -F prompt=..."
        )
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.lower() not in BODY_ENCODINGS:
        raise UnsupportedMediaType(
            f"the body has Content-Encoding: {encoding[:100]}; {', '.join(BODY_ENCODINGS)} are read"
        )


async def read_form(request: web.Request, submission: Submission, max_bytes: int) -> dict[str, str]:
    """Write the form's pictures into the submission; return its other fields by name.

    Raises `InvalidRequest` at the first error in the form, `TooLarge`, or `TooSlow`.
    """
    if (request.content_length or 0) > max_bytes:
        raise too_large(f"{request.content_length} bytes", max_bytes)
    boundary, charset = parameters_of(request.headers[hdrs.CONTENT_TYPE])
    await send_continue(request)
    try:
        async with asyncio.timeout(None) as deadline:
            body = LimitedReader(request.content, max_bytes, deadline)
            texts = await read_parts(read_events(body, boundary), submission)
    except TimeoutError:
        raise TooSlow(
            f"the body arrives at less than {MIN_UPLOAD_RATE} bytes a second; "
            "try again over a faster connection"
        ) from None
    except ConnectionError as error:  # the client has gone: it does not read the answer
        raise InvalidRequest(f"the body ends too early: {error}") from error
    except (HttpProcessingError, web.RequestPayloadError) as error:
        said = " ".join(str(error).split()).removeprefix("400, message: ")
        raise malformed(said) from error
    named, _ = texts.pop(CHARSET, (b"", None))
    charset = charsets.decode(named, charsets.DEFAULT, CHARSET) or charset or charsets.DEFAULT
    return {
        name: charsets.decode(data, own or charset, name) for name, (data, own) in texts.items()
    }


async def send_continue(request: web.Request) -> None:
    """Ask for the body if the client waits with it (`Expect: 100-continue`)."""
    if request.headers.get(hdrs.EXPECT) and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing is sent yet


async def read_parts(
    events: AsyncIterator[Event], submission: Submission
) -> dict[str, tuple[bytes, str | None]]:
    """Write the pictures into the submission; return the texts by name, as bytes and charset."""
    texts: dict[str, tuple[bytes, str | None]] = {}
    async for head in events:
        assert isinstance(head, MultipartSegment)
        name = str(head.name)
        first = await anext(events)
        if not first and head.filename == "":  # a file input without a file
            continue
        chunks = data_of(first, events)
        if name in IMAGE_NAMES:
            await save_picture(chunks, submission.add_image())
            continue
        check_field(name, texts)
        texts[name] = await read_text(chunks, name), head.charset
    return texts


async def data_of(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[bytes | bytearray]:
    """Yield the data of a part, up to the None that ends it."""
    event = first
    while event is not None:
        assert not isinstance(event, MultipartSegment)
        yield event
        event = await anext(rest)


def check_field(name: str, texts: dict[str, tuple[bytes, str | None]]) -> None:
    """Raise `InvalidRequest` for a field that is unknown, or came before."""
    if name in texts:
        raise InvalidRequest(f"{name} is given twice", field=name)
    if name != CHARSET and name not in EditRequest.model_fields:
        known = ", ".join(FORM_FIELDS)
        raise InvalidRequest(f"{name} is not a field; the fields are {known}", field=name)


async def save_picture(chunks: AsyncIterator[bytes | bytearray], path: str) -> None:
    """Write the data of a part into a new file."""
    async with aiofiles.open(path, "wb") as file:
        async for chunk in chunks:
            await file.write(chunk)


async def read_text(chunks: AsyncIterator[bytes | bytearray], name: str) -> bytes:
    """Return the data of a part. Raises `InvalidRequest` if they are too long for a text."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_TEXT:
            raise InvalidRequest(f"{name} must be at most {MAX_TEXT} bytes", field=name)
    return bytes(data)
