"""Answers with a picture of a job: its media type by its content, parts of it, and conditions."""

import os
from contextlib import ExitStack
from typing import BinaryIO

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from i2ii_spool.errors import NotFound
from i2ii_spool.images.formats import HEAD_BYTES, identify
from i2ii_spool.server.conditional import CACHE_CONTROL, evaluated, is_not_modified, version_of
from i2ii_spool.server.query import Parameter
from i2ii_spool.spool.pictures import OpenPicture

MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "HEIC": "image/heic",
}
"""Of the formats that are read (`images.formats`)."""
CONDITION_HEADERS = tuple(
    Parameter(name, meaning, {"type": "string"})
    for name, meaning in {
        hdrs.RANGE: "A part of the picture: one range of bytes.",
        hdrs.IF_RANGE: "The `ETag` or date of the picture of which a part is wanted.",
        hdrs.IF_MATCH: "The `ETag` that the picture must have.",
        hdrs.IF_NONE_MATCH: "The `ETag` of the picture that the client has.",
        hdrs.IF_MODIFIED_SINCE: "The `Last-Modified` of the picture that the client has.",
        hdrs.IF_UNMODIFIED_SINCE: "The `Last-Modified` that the picture must have.",
    }.items()
)


def media_type_of(picture: OpenPicture) -> str:
    """Return the media type of a picture, by its first bytes. Raises `NotFound` for others."""
    kind = identify(os.pread(picture.file.fileno(), HEAD_BYTES, 0))
    if kind not in MEDIA_TYPES:
        raise NotFound(f"{picture.name} of the job is no picture of a format that is read")
    return MEDIA_TYPES[kind]


def answer_file(
    request: web.Request, file: BinaryIO, *, media_type: str, name: str
) -> web.StreamResponse:
    """Return the answer that sends an open file as a picture called `name`, and closes it."""
    with ExitStack() as stack:
        stack.enter_context(file)
        status = os.fstat(file.fileno())
        version = version_of(status)
        if is_not_modified(request, version):
            return web.Response(status=304, headers=version.headers())
        request = evaluated(request, version, status.st_size)
        stack.pop_all()  # the response closes it
    return OpenFileResponse(
        file,
        request,
        headers={
            "Content-Type": media_type,
            "Content-Disposition": f'inline; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": CACHE_CONTROL,
        },
    )


class OpenFileResponse(web.FileResponse):
    """Sends a file that is open already: its path may name another file by now.

    `request` is what `evaluated` returned.
    """

    def __init__(self, file: BinaryIO, request: web.Request, headers: dict[str, str]) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers)
        self._file = file
        self._request = request

    async def prepare(self, _request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the file, and close it."""
        with self._file:
            return await super().prepare(self._request)
