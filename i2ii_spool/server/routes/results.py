"""The route of results: the pictures of a completed job."""

import asyncio
import os
from contextlib import ExitStack
from typing import BinaryIO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from i2ii_spool.errors import InvalidRequest, NotFound, RangeNotSatisfiable
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.query import number_parameter, query_parameters
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import no_result, no_such_picture

CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


async def result(request: web.Request) -> web.StreamResponse:
    """Return the picture; with `?n=2` the second of several. 202 and the status until the job has
    ended."""
    n = number_parameter(query_parameters(request, "n"), "n", 1, least=1, most=4)
    spool, id = request.app[SPOOL], check_id(request.match_info["id"])
    job = await load_authorized(request, id)
    if not job.has_ended:
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
        _check_range(request, os.fstat(file.fileno()).st_size)
        stack.pop_all()  # the response closes it
    return OpenFileResponse(
        file,
        headers={
            "Content-Type": CONTENT_TYPES[name.rpartition(".")[2]],
            "Content-Disposition": f'inline; filename="{id}-{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def _check_range(request: web.Request, size: int) -> None:
    """Raise `RangeNotSatisfiable` for a `Range` that starts behind the last of `size` bytes."""
    try:
        # With If-Range, a range counts only if the picture is unchanged; FileResponse checks that.
        if request.if_range is not None or (request.http_range.start or 0) < size:
            return
    except ValueError:  # not a range of bytes
        pass
    raise RangeNotSatisfiable(f"the picture has {size} bytes; request some of those", size=size)


class OpenFileResponse(web.FileResponse):
    """Sends a file that is open already: its path may name another file by now."""

    def __init__(self, file: BinaryIO, headers: dict[str, str]) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers)
        self._file = file

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the file, and close it."""
        with self._file:
            return await super().prepare(request)
