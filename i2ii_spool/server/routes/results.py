"""The route of results: the picture, by name or by part."""

import asyncio
import os
from contextlib import ExitStack
from typing import BinaryIO

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from i2ii_spool.errors import InvalidRequest, NotFound, RangeNotSatisfiable
from i2ii_spool.jobs.folder import open_regular
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.query import _number, _query
from i2ii_spool.server.routes.jobs import _load_authorized
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.status import no_result, no_such_picture

routes = web.RouteTableDef()

CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


@routes.get("/result/{id}")
async def result(request: web.Request) -> web.StreamResponse:
    """The picture; `?n=2` for the second of several. 202 with the status while there is none yet."""
    n = _number(_query(request, "n"), "n", 1, least=1, most=4)
    id = check_id(request.match_info["id"])
    now = await _load_authorized(request, id)
    if not now.has_ended:
        return json_response(now.to_dict(), status=202, headers={"Retry-After": "1"})
    if now.status != "completed":
        raise no_result(now)
    outputs = now.outputs or ()
    if n > len(outputs):
        raise no_such_picture(now, n)
    name = outputs[n - 1]
    try:
        file = await asyncio.to_thread(open_regular, request.app[SPOOL].done / id / name)
    except (FileNotFoundError, InvalidRequest):
        await asyncio.to_thread(find, request.app[SPOOL], id)  # it may have been deleted since
        raise NotFound(f"job {id} no longer has its {name}") from None
    with ExitStack() as stack:
        stack.enter_context(file)
        _check_range(request, os.fstat(file.fileno()).st_size)
        stack.pop_all()  # whoever sends it closes it
    return OpenFileResponse(
        file,
        headers={
            "Content-Type": CONTENT_TYPES[name.rpartition(".")[2]],
            "Content-Disposition": f'inline; filename="{id}-{name}"',
            "X-Content-Type-Options": "nosniff",
        },
    )


class OpenFileResponse(web.FileResponse):
    """Sends a file that is open already: its name may lead elsewhere by now."""

    def __init__(self, file: BinaryIO, headers: dict[str, str]) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", headers=headers)
        self._file = file

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it, and close it."""
        with self._file:
            return await super().prepare(request)


def _check_range(request: web.Request, size: int) -> None:
    try:
        # With If-Range, a range counts only if the picture is still the same; FileResponse knows.
        if request.if_range is not None or (request.http_range.start or 0) < size:
            return
    except ValueError:  # it is no range at all
        pass
    raise RangeNotSatisfiable(f"the picture has {size} bytes; ask for some of those", size=size)
