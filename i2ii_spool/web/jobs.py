"""The routes of jobs: submit, status, result, list, cancel or delete, retry."""

import asyncio
import logging
import os
import time
from contextlib import ExitStack
from typing import Any, BinaryIO, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from i2ii_spool.errors import InvalidRequest, NotFound
from i2ii_spool.job import check_id, open_regular
from i2ii_spool.spool import actions
from i2ii_spool.spool.keys import check_key
from i2ii_spool.spool.layout import State, parse_state
from i2ii_spool.spool.lookup import find, list_jobs
from i2ii_spool.spool.status import JobStatus, no_result, no_such_picture, read_status, status_of
from i2ii_spool.spool.submit import check_queue
from i2ii_spool.web.access import client_of
from i2ii_spool.web.errors import json_response
from i2ii_spool.web.limits import LIMITS
from i2ii_spool.web.upload import Upload, is_form
from i2ii_spool.web.views import ENDINGS, LIVE, SPOOL, VIEW

log = logging.getLogger(__name__)

routes = web.RouteTableDef()

Number = TypeVar("Number", int, float)

MAX_WAIT = 300.0
MAX_LISTED = 1000
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}


@routes.post("/edit")
async def edit(request: web.Request) -> web.Response:
    """Take a job in: 202 once it is on disk."""
    if not is_form(request):
        raise web.HTTPUnsupportedMediaType(text="send multipart/form-data, like curl -F image=@photo.jpg -F prompt=...")
    key = request.headers.get("Idempotency-Key")
    if key is not None:
        check_key(key)
    client, settings = client_of(request), request.app[LIVE].settings
    await _check_queue(request)
    before = await request.app[VIEW].counts()
    with request.app[LIMITS].upload(client.name, settings):
        async with Upload(request.app[SPOOL], settings) as upload:
            await upload.read(request)
            id, is_new = await upload.publish(key, client.owner)
    if not is_new:
        log.info("job %s submitted again by %s", id, client)
        return await _accepted(request, id, before, (await _status(request, id)).position or 0)
    log.info("job %s submitted by %s", id, client)
    return await _accepted(request, id, before, await request.app[VIEW].submitted(id, before))


async def _check_queue(request: web.Request) -> None:
    settings, view = request.app[LIVE].settings, request.app[VIEW]
    waiting, seconds_per_job = len(await view.queue()), await view.seconds_per_job()
    check_queue(waiting, max_queue=settings.max_queue, seconds_per_job=seconds_per_job)


async def _accepted(request: web.Request, id: str, counts: dict[State, int], position: int) -> web.Response:
    view = request.app[VIEW]
    seconds_per_job = await view.seconds_per_job()
    answer = {
        "request_id": id,
        "status": "submitted",
        "message": "the job is in the queue, on disk; poll status_url until it ends",
        "ready_workers": sum(worker.ready for worker in await view.workers()),
        "total_requests": sum(counts.values()),
        "estimated_position": position,
        "status_url": f"/status/{id}",
        "result_url": f"/result/{id}",
        "eta_seconds": None if seconds_per_job is None else round(position * seconds_per_job, 1),
    }
    return json_response(answer, status=202, headers={"Location": f"/status/{id}"})


@routes.get("/status/{id}")
async def status(request: web.Request) -> web.Response:
    """What there is to say of a job; with `?wait=30`, once it has ended or 30 seconds are over."""
    query = _query(request, "wait")
    until = time.monotonic() + _number(query, "wait", 0.0, most=MAX_WAIT)
    id = check_id(request.match_info["id"])
    endings = request.app[ENDINGS]
    with endings.awaited(id) as ended:
        while True:
            now = await _status(request, id)
            remaining = until - time.monotonic()
            if now.has_ended or remaining <= 0 or endings.closed:
                return json_response(now.shown())
            await _wait(ended, min(1.0, remaining))
            ended.clear()  # a job that has ended and was retried ends once more


async def _wait(ended: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:  # the event is a hint: look again
        return


async def _status(request: web.Request, id: str) -> JobStatus:
    view = request.app[VIEW]
    now = await asyncio.to_thread(read_status, request.app[SPOOL], id, queue=await view.queue())
    client_of(request).check_sees(id, now.owner)
    if now.position is None:
        return now
    seconds_per_job = await view.seconds_per_job()
    eta = None if seconds_per_job is None else round(now.position * seconds_per_job, 1)
    return now.model_copy(update={"eta_seconds": eta})


@routes.get("/result/{id}")
async def result(request: web.Request) -> web.StreamResponse:
    """The picture; `?n=2` for the second of several. 202 with the status while there is none yet."""
    n = _number(_query(request, "n"), "n", 1, least=1, most=4)
    id = check_id(request.match_info["id"])
    now = await _status(request, id)
    if not now.has_ended:
        return json_response(now.shown(), status=202, headers={"Retry-After": "1"})
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
    raise web.HTTPRequestRangeNotSatisfiable(
        reason="Range Not Satisfiable",
        headers={"Content-Range": f"bytes */{size}"},
        text=f"the picture has {size} bytes; ask for some of those",
    )


@routes.get("/jobs")
async def jobs(request: web.Request) -> web.Response:
    """The newest jobs, newest first; `next`, where there is one, is the `after` that continues the list."""
    query = _query(request, "state", "limit", "after")
    state = parse_state(query.get("state"))
    limit = _number(query, "limit", 100, least=1, most=MAX_LISTED)
    after = check_id(query["after"], "after") if "after" in query else None
    queue = await request.app[VIEW].queue()
    spool, client = request.app[SPOOL], client_of(request)
    looked_at = limit if client.sees_all else MAX_LISTED  # whose a job is stands in the job

    def read() -> tuple[list[dict[str, Any]], str | None]:
        places = list_jobs(spool, state, limit=looked_at, after=after)
        shown: list[dict[str, Any]] = []
        for index, place in enumerate(places):
            if len(shown) == limit:
                return shown, places[index - 1].id
            now = status_of(spool, place, queue=queue)
            if now is not None and client.sees(now.owner):
                shown.append(now.shown())
        return shown, places[-1].id if len(places) == looked_at else None

    listed, following = await asyncio.to_thread(read)
    return json_response({"jobs": listed, "next": following})


@routes.delete("/jobs/{id}")
async def delete(request: web.Request) -> web.Response:
    """Cancel a job that waits or runs; delete one that has ended."""
    spool, client, id = request.app[SPOOL], client_of(request), check_id(request.match_info["id"])
    if (await _status(request, id)).has_ended:
        await asyncio.to_thread(actions.remove, spool, id)
        log.info("job %s deleted by %s", id, client)
        return json_response({"request_id": id, "status": "deleted"})
    state = await asyncio.to_thread(actions.cancel, spool, id)
    log.info("job %s cancelled by %s", id, client)
    if state is State.RUNNING:
        message = "the job stops at its next step"
        return json_response({"request_id": id, "status": "running", "message": message}, status=202)
    return json_response({"request_id": id, "status": "cancelled"})


@routes.post("/jobs/{id}/retry")
async def retry(request: web.Request) -> web.Response:
    """Send a failed job back to the queue."""
    spool, client, id = request.app[SPOOL], client_of(request), check_id(request.match_info["id"])
    await _status(request, id)
    await asyncio.to_thread(actions.retry, spool, id)
    log.info("job %s sent back to the queue by %s", id, client)
    return json_response({"request_id": id, "status": "queued"}, status=202, headers={"Location": f"/status/{id}"})


def _query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's parameters. Raises `InvalidRequest` for one that is not known, or given twice."""
    for name in request.query:
        if name not in known:
            raise InvalidRequest(f"{name} is not a parameter here; {', '.join(known)} is", field=name)
        if len(request.query.getall(name)) > 1:
            raise InvalidRequest(f"{name} is given twice", field=name)
    return dict(request.query)


def _number(query: dict[str, str], name: str, default: Number, *, least: float = 0, most: float) -> Number:
    """A parameter of the kind that its default is."""
    kind = type(default)
    try:
        number = kind(query.get(name, default))
    except ValueError:
        number = kind(least - 1)
    if not least <= number <= most:
        what = "a whole number" if kind is int else "a number"
        raise InvalidRequest(f"{name} must be {what} from {least:g} to {most:g}, got {query[name]!r}", field=name)
    return number
