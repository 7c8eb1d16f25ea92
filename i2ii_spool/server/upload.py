"""The form of `POST /edit`. Its pictures go to disk in chunks; none is in memory as a whole."""

import asyncio
from collections.abc import AsyncIterator

import aiofiles
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from i2ii_spool.errors import InvalidRequest, TooSlow, UnsupportedMediaType
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server import charsets
from i2ii_spool.server.limits import MIN_UPLOAD_RATE, LimitedReader, too_large
from i2ii_spool.server.multipart import FormReader, PartHead, malformed, parse_parameters
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
    parameters = parse_parameters(request.headers[hdrs.CONTENT_TYPE])
    boundary = parameters.get("boundary", "").encode(errors="surrogateescape")
    if not boundary:
        raise malformed("its Content-Type has no boundary; let your client set that header")
    await send_continue(request)
    try:
        async with asyncio.timeout(None) as deadline:
            body = LimitedReader(request.content, max_bytes, deadline)
            texts = await read_parts(FormReader(body, boundary), submission)
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
    charset = charsets.decode(named, charsets.DEFAULT, CHARSET) or parameters.get("charset")
    charset = charset or charsets.DEFAULT
    return {
        name: charsets.decode(data, own or charset, name) for name, (data, own) in texts.items()
    }


async def send_continue(request: web.Request) -> None:
    """Ask for the body if the client waits with it (`Expect: 100-continue`)."""
    if request.headers.get(hdrs.EXPECT) and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing is sent yet


async def read_parts(
    form: FormReader, submission: Submission
) -> dict[str, tuple[bytes, str | None]]:
    """Write the pictures into the submission; return the texts by name, as bytes and charset."""
    texts: dict[str, tuple[bytes, str | None]] = {}
    while head := await form.next_part():
        chunks = form.chunks()
        first = await anext(chunks, b"")
        if not first and head.filename == "":  # a file input without a file
            continue
        if head.name in IMAGE_NAMES:
            await save_picture(first, chunks, submission.add_image())
            continue
        check_field(head, texts)
        texts[head.name] = await read_text(first, chunks, head.name), head.charset
    return texts


def check_field(head: PartHead, texts: dict[str, tuple[bytes, str | None]]) -> None:
    """Raise `InvalidRequest` for a field that is unknown, or came before."""
    name = head.name
    if name in texts:
        raise InvalidRequest(f"{name} is given twice", field=name)
    if name != CHARSET and name not in EditRequest.model_fields:
        known = ", ".join(FORM_FIELDS)
        raise InvalidRequest(f"{name} is not a field; the fields are {known}", field=name)


async def save_picture(first: bytes, rest: AsyncIterator[bytes], path: str) -> None:
    """Write the data of a part into a new file."""
    async with aiofiles.open(path, "wb") as file:
        await file.write(first)
        async for chunk in rest:
            await file.write(chunk)


async def read_text(first: bytes, rest: AsyncIterator[bytes], name: str) -> bytes:
    """Return the data of a part. Raises `InvalidRequest` if they are too long for a text."""
    data = bytearray(first)
    async for chunk in rest:
        data += chunk
        if len(data) > MAX_TEXT:
            break
    if len(data) > MAX_TEXT:
        raise InvalidRequest(f"{name} must be at most {MAX_TEXT} bytes", field=name)
    return bytes(data)
