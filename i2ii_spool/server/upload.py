"""Reading `POST /edit`: a multipart form whose pictures go to disk as they come, and never whole
into memory."""

import asyncio
from functools import lru_cache, partial
from types import TracebackType
from typing import Self, cast

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

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.request import EditRequest, parse
from i2ii_spool.server.limits import LimitedReader, too_large, too_slow
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import check_disk
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import Submission

CHUNK = 256 * 1024
MAX_TEXT = 64 * 1024
IMAGE = "image"


def is_form(request: web.Request) -> bool:
    """Whether the body says that it is a multipart form.

    `request.content_type` would say so too, and take longer for it than for all else in the head:
    it parses an e-mail's header, anew for each boundary.
    """
    media_type, _, _ = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")
    return media_type.strip().lower() == "multipart/form-data"


class EditForm:
    """One form on its way into the spool. Leaving the `async with` without `publish` leaves nothing
    behind."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self._spool = spool
        self._settings = settings
        self._fields: dict[str, str] = {}
        self._is_published = False

    async def __aenter__(self) -> Self:
        self._submission = await asyncio.to_thread(self._open)
        return self

    def _open(self) -> Submission:
        check_disk(self._spool, min_free=self._settings.min_free)
        return Submission(self._spool)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_published:
            await asyncio.shield(asyncio.to_thread(self._submission.discard))

    async def read(self, request: web.Request) -> None:
        """Take the form in. Raises `InvalidRequest` at the first thing that is wrong with it."""
        if (request.content_length or 0) > self._settings.max_bytes:
            raise too_large(f"{request.content_length} bytes", self._settings)
        try:
            async with asyncio.timeout(None) as patience:
                body = LimitedReader(request.content, self._settings, patience)
                async for part in MultipartReader(request.headers, cast(StreamReader, body)):
                    await self._read_part(part)
        except TimeoutError:
            raise too_slow() from None
        except ConnectionError as error:  # nobody will hear of it
            raise InvalidRequest(f"the body ends before it is whole: {error}") from error
        except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as error:
            raise InvalidRequest(
                f"the body is not a well-formed multipart form: {error}"
            ) from error

    async def _read_part(self, part: MultipartReader | BodyPartReader | None) -> None:
        if not isinstance(part, BodyPartReader):
            raise InvalidRequest("the form holds another form; send plain fields")
        name = _name_of(part.headers.get(hdrs.CONTENT_DISPOSITION))
        if name == IMAGE:
            await self._read_image(part)
        elif name in EditRequest.model_fields:
            await self._read_text(part, name)
        else:
            known = ", ".join([IMAGE, *EditRequest.model_fields])
            raise InvalidRequest(f"{name} is not a field; the fields are {known}", field=name)

    async def _read_image(self, part: BodyPartReader) -> None:
        async with aiofiles.open(self._submission.add_image(), "wb") as file:
            while chunk := await part.read_chunk(CHUNK):
                await file.write(chunk)

    async def _read_text(self, part: BodyPartReader, name: str) -> None:
        if name in self._fields:
            raise InvalidRequest(f"{name} is given twice", field=name)
        data = bytearray()
        while chunk := await part.read_chunk(CHUNK):
            data += chunk
            if len(data) > MAX_TEXT:
                raise InvalidRequest(f"{name} must be at most {MAX_TEXT} bytes", field=name)
        try:
            self._fields[name] = data.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"{name} is not UTF-8: {error.reason} at byte {error.start}", field=name
            ) from None

    async def publish(self, key: str | None, owner: str) -> tuple[str, bool]:
        """Put the job into the queue, durably; return its id, and whether it is new: `key` may
        stand for an earlier."""
        request = parse(EditRequest, self._fields)
        max_pixels = self._settings.max_pixels
        publish = partial(
            self._submission.publish, request, max_pixels=max_pixels, key=key, owner=owner
        )
        id = await asyncio.to_thread(publish)
        self._is_published = True
        return id, id == self._submission.id


@lru_cache
def _name_of(disposition: str | None) -> str | None:
    """The field's name: what `BodyPartReader.name` parses anew for each part, of the few that there
    are."""
    _, parameters = parse_content_disposition(disposition)
    return content_disposition_filename(parameters, "name")
