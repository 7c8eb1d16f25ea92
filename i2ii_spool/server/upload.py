"""The form of `POST /edit`. Its pictures go to disk in chunks; none is in memory as a whole."""

import asyncio
from functools import lru_cache
from typing import cast

import aiofiles
from aiohttp import (
    BodyPartReader,
    MultipartReader,
    StreamReader,
    content_disposition_filename,
    hdrs,
    parse_content_disposition,
    web,
)
from aiohttp.http_exceptions import HttpProcessingError

from i2ii_spool.errors import InvalidRequest, TooSlow
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.limits import MIN_UPLOAD_RATE, LimitedReader, too_large
from i2ii_spool.spool.submit import Submission

CHUNK = 256 * 1024
MAX_TEXT = 64 * 1024
IMAGE = "image"


async def read_form(request: web.Request, submission: Submission, max_bytes: int) -> dict[str, str]:
    """Write the form's pictures into the submission; return its other fields by name.

    Raises `InvalidRequest` at the first error in the form, `TooLarge`, or `TooSlow`.
    """
    if (request.content_length or 0) > max_bytes:
        raise too_large(f"{request.content_length} bytes", max_bytes)
    fields: dict[str, str] = {}
    try:
        async with asyncio.timeout(None) as deadline:
            body = LimitedReader(request.content, max_bytes, deadline)
            async for part in MultipartReader(request.headers, cast(StreamReader, body)):
                if not isinstance(part, BodyPartReader):
                    raise InvalidRequest("a part is itself a multipart form; send plain fields")
                name = field_name(part.headers.get(hdrs.CONTENT_DISPOSITION))
                if name == IMAGE:
                    await save_picture(part, submission.add_image())
                elif name in fields:
                    raise InvalidRequest(f"{name} is given twice", field=name)
                elif name in EditRequest.model_fields:
                    fields[name] = await read_text(part, name)
                else:
                    known = ", ".join([IMAGE, *EditRequest.model_fields])
                    raise InvalidRequest(
                        f"{name} is not a field; the fields are {known}", field=name
                    )
    except TimeoutError:
        raise TooSlow(
            f"the body arrives at less than {MIN_UPLOAD_RATE} bytes a second; "
            "try again over a faster connection"
        ) from None
    except ConnectionError as error:  # the client has gone: it does not read the answer
        raise InvalidRequest(f"the body ends too early: {error}") from error
    except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as error:
        raise InvalidRequest(f"the body is not a well-formed multipart form: {error}") from error
    return fields


async def save_picture(part: BodyPartReader, path: str) -> None:
    """Write a part into a new file."""
    async with aiofiles.open(path, "wb") as file:
        while chunk := await part.read_chunk(CHUNK):
            await file.write(chunk)


async def read_text(part: BodyPartReader, name: str) -> str:
    """Return the text of a part. Raises `InvalidRequest` if it is too long or not UTF-8."""
    data = bytearray()
    while chunk := await part.read_chunk(CHUNK):
        data += chunk
        if len(data) > MAX_TEXT:
            raise InvalidRequest(f"{name} must be at most {MAX_TEXT} bytes", field=name)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{name} is not UTF-8: {error.reason} at byte {error.start}", field=name
        ) from None


@lru_cache
def field_name(disposition: str | None) -> str | None:
    """Return the name in a `Content-Disposition`. Cached: forms use few names, and
    `BodyPartReader.name` parses each one again."""
    _, parameters = parse_content_disposition(disposition)
    return content_disposition_filename(parameters, "name")
