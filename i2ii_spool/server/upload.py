"""The form of `POST /edit`. A large picture goes to disk in chunks as it arrives."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial

import aiofiles
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from multipart import MultipartSegment

from i2ii_spool.errors import InvalidRequest, TooSlow, UnsupportedMediaType
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server import charsets
from i2ii_spool.server.limits import MIN_UPLOAD_RATE, LimitedReader, too_large
from i2ii_spool.server.multipart import Event, parameters_of, read_events
from i2ii_spool.spool.submit import Submission

MAX_TEXT = 64 * 1024
MAX_IN_MEMORY = 256 * 1024
"""Bytes of a picture that stays in memory until the thread that publishes the job writes it."""
IMAGE = "image"
IMAGE_NAMES = (IMAGE, "image[]")
"""PHP, and clients of the OpenAI API, name a field `image[]` that they repeat."""
MASK = "mask"
FORM = "multipart/form-data"
FORM_FIELDS = (IMAGE, MASK, *EditRequest.model_fields)
CHARSET = "_charset_"
"""A field that names the charset of the texts (RFC 7578, 4.6). Browsers fill it in."""
BODY_ENCODINGS = ("identity", "gzip", "deflate")
"""Of the whole body: what aiohttp decodes."""


def check_body(request: web.Request, *others: str) -> str:
    """Return the media type that the head of the request announces: a form, or one of `others`.

    Raises `UnsupportedMediaType`.
    """
    # `request.content_type` parses the header as an e-mail's, which takes longer than all the rest.
    media_type = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media_type not in (FORM, *others):
        either = "".join(f" or {other}" for other in others)
        raise UnsupportedMediaType(
            f"send {FORM}{either}, like curl -F image=@photo.jpg -F prompt=..."
        )
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.lower() not in BODY_ENCODINGS:
        raise UnsupportedMediaType(
            f"the body has Content-Encoding: {encoding[:100]}; {', '.join(BODY_ENCODINGS)} are read"
        )
    return media_type


def expected_bytes(request: web.Request, max_bytes: int) -> int:
    """Return how many bytes the form may write to disk. Raises `TooLarge`."""
    length = request.content_length
    if length is None:
        return max_bytes
    if length > max_bytes:
        raise too_large(f"{length} bytes", max_bytes)
    is_encoded = hdrs.CONTENT_ENCODING in request.headers  # it grows when it is decoded
    return max_bytes if is_encoded else length


async def read_form(
    request: web.Request,
    submission: Submission,
    max_bytes: int,
    disk: Executor,
    *,
    known: Sequence[str] = FORM_FIELDS,
) -> dict[str, str]:
    """Add the form's pictures to the submission, in threads of `disk`; return its other fields, of
    those that are `known`.

    Raises `InvalidRequest` at the first error in the form, `TooLarge` behind `max_bytes`, or
    `TooSlow`.
    """
    boundary, charset = parameters_of(request.headers[hdrs.CONTENT_TYPE])
    async with limited_body(request, max_bytes) as body:
        texts = await read_parts(read_events(body, boundary), submission, disk, known)
    named, _ = texts.pop(CHARSET, (b"", None))
    charset = charsets.decode(named, charsets.DEFAULT, CHARSET) or charset or charsets.DEFAULT
    return {
        name: charsets.decode(data, own or charset, name) for name, (data, own) in texts.items()
    }


@asynccontextmanager
async def limited_body(request: web.Request, max_bytes: int) -> AsyncIterator[LimitedReader]:
    """Ask for the body, and yield what reads it. Raises `TooLarge`, `TooSlow`, and `InvalidRequest`
    for one that ends too early."""
    await send_continue(request)
    try:
        async with asyncio.timeout(None) as deadline:
            yield LimitedReader(request.content, max_bytes, deadline)
    except TimeoutError:
        raise TooSlow(
            f"the body arrives at less than {MIN_UPLOAD_RATE} bytes a second; "
            "try again over a faster connection"
        ) from None
    except ConnectionError as error:  # the client has gone: it does not read the answer
        raise InvalidRequest(f"the body ends too early: {error}") from error
    except (HttpProcessingError, web.RequestPayloadError) as error:
        said = " ".join(str(error).split()).removeprefix("400, message: ")
        raise InvalidRequest(f"the body cannot be read: {said}") from error


async def send_continue(request: web.Request) -> None:
    """Ask for the body if the client waits with it (`Expect: 100-continue`)."""
    if request.headers.get(hdrs.EXPECT) and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing is sent yet


async def read_parts(
    events: AsyncIterator[Event], submission: Submission, disk: Executor, known: Sequence[str]
) -> dict[str, tuple[bytes, str | None]]:
    """Add the pictures to the submission; return the texts by name, as bytes and charset."""
    texts: dict[str, tuple[bytes, str | None]] = {}
    async for head in events:
        assert isinstance(head, MultipartSegment)
        name = str(head.name)
        first = await anext(events)
        if not first and head.filename == "":  # a file input without a file
            continue
        chunks = data_of(first, events)
        if name in IMAGE_NAMES or name == MASK:
            await save_picture(chunks, submission, disk, is_mask=name == MASK)
            continue
        check_field(name, texts, known)
        texts[name] = await read_text(chunks, name), head.charset
    return texts


async def data_of(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[bytes | bytearray]:
    """Yield the data of a part, up to the None that ends it."""
    event = first
    while event is not None:
        assert not isinstance(event, MultipartSegment)
        yield event
        event = await anext(rest)


def check_field(name: str, texts: Mapping[str, object], known: Sequence[str]) -> None:
    """Raise `InvalidRequest` for a field that is unknown, or came before."""
    if name in texts:
        raise InvalidRequest(f"{name} is given twice", field=name)
    if name != CHARSET and name not in known:
        names = ", ".join(known)
        raise InvalidRequest(f"{name} is not a field; the fields are {names}", field=name)


async def save_picture(
    chunks: AsyncIterator[bytes | bytearray],
    submission: Submission,
    disk: Executor,
    *,
    is_mask: bool,
) -> None:
    """Add the data of a part to the submission as its next picture, or as its mask."""
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > MAX_IN_MEMORY:
            break
    else:
        submission.add_picture(bytes(data), is_mask=is_mask)
        return
    add_file = partial(submission.add_file, is_mask=is_mask)
    path = await asyncio.get_running_loop().run_in_executor(disk, add_file)
    async with aiofiles.open(path, "wb", executor=disk) as file:
        await file.write(data)
        del data
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
