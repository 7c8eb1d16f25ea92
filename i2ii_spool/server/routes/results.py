"""The route of results: the pictures of a completed job."""

import asyncio
import os
from contextlib import ExitStack
from typing import BinaryIO

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from i2ii_spool.errors import InvalidRequest, NotFound, NotReady
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.server.conditional import evaluated, is_not_modified, version_of
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.long_poll import long_poll, wait_seconds
from i2ii_spool.server.query import number_parameter
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import no_result, no_such_picture

CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


async def result(request: web.Request) -> web.StreamResponse:
    """Return the picture; with `?n=2` the second of several.

    Until the job has ended: 202 and the status, or `NotReady` for a client that would take that
    for the picture.
    """
    n = number_parameter(request.query, "n", 1, least=1, most=4)
    seconds = wait_seconds(request)
    spool, id = request.app[SPOOL], check_id(request.match_info["id"])
    job = await long_poll(request, id, seconds)
    if not job.has_ended:
        if "wait" in request.query or accepts_only_pictures(request):
            raise NotReady(f"job {id} is {job.status}; it has no picture yet: try again")
        return json_response(job.to_dict(), status=202, headers={"Retry-After": "1"})
    if job.status != "completed":
        raise no_result(job)
    outputs = job.outputs or ()
    if n > len(outputs):
        raise no_such_picture(job, n)
    name = outputs[n - 1]
    try:
        file = await asyncio.to_thread(open_regular, spool.done / id / name)
    except (FileNotFoundError, InvalidRequest):
        await asyncio.to_thread(find, spool, id)  # raises `Deleted` if that is why
        raise NotFound(f"job {id} no longer has its {name}") from None
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
            "Content-Type": CONTENT_TYPES[name.rpartition(".")[2]],
            "Content-Disposition": f'inline; filename="{id}-{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def accepts_only_pictures(request: web.Request) -> bool:
    """Return whether `Accept` names pictures and nothing else, so that JSON is not understood."""
    header = ",".join(request.headers.getall(hdrs.ACCEPT, []))
    media_types = [part.partition(";")[0].strip().lower() for part in header.split(",")]
    named = list(filter(None, media_types))
    return bool(named) and all(each.startswith("image/") for each in named)


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
