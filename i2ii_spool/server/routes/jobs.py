"""The routes of jobs: submit, status, result, list, cancel or delete, retry."""

import asyncio
import logging
import time
from typing import Any

from aiohttp import web

from i2ii_spool.errors import UnsupportedMediaType
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.server.auth.middleware import caller_of
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.limits import LIMITS
from i2ii_spool.server.query import _number, _query
from i2ii_spool.server.state import SETTINGS, SNAPSHOT, SPOOL, WAITERS
from i2ii_spool.server.upload import EditForm, is_form
from i2ii_spool.spool import actions
from i2ii_spool.spool.capacity import check_queue
from i2ii_spool.spool.idempotency import check_key
from i2ii_spool.spool.layout import State, parse_state
from i2ii_spool.spool.lookup import list_jobs
from i2ii_spool.spool.status import JobStatus, read_status, status_of

log = logging.getLogger(__name__)

routes = web.RouteTableDef()

MAX_WAIT = 300.0
MAX_LISTED = 1000


@routes.post("/edit")
async def edit(request: web.Request) -> web.Response:
    """Take a job in: 202 once it is on disk."""
    if not is_form(request):
        raise UnsupportedMediaType(
            "send multipart/form-data, like curl -F image=@photo.jpg -F prompt=..."
        )
    key = request.headers.get("Idempotency-Key")
    if key is not None:
        check_key(key)
    caller, settings = caller_of(request), request.app[SETTINGS].settings
    await _check_queue(request)
    before = await request.app[SNAPSHOT].counts()
    with request.app[LIMITS].upload_slot(caller.name, settings):
        async with EditForm(request.app[SPOOL], settings) as upload:
            await upload.read(request)
            id, is_new = await upload.publish(key, caller.owner)
    if not is_new:
        log.info("job %s submitted again by %s", id, caller)
        return await _accepted(
            request, id, before, (await _load_authorized(request, id)).position or 0
        )
    log.info("job %s submitted by %s", id, caller)
    return await _accepted(request, id, before, await request.app[SNAPSHOT].submitted(id, before))


async def _check_queue(request: web.Request) -> None:
    settings, view = request.app[SETTINGS].settings, request.app[SNAPSHOT]
    waiting, seconds_between_completions = (
        len(await view.queue()),
        await view.seconds_between_completions(),
    )
    check_queue(
        waiting,
        max_queue=settings.max_queue,
        seconds_between_completions=seconds_between_completions,
    )


async def _accepted(
    request: web.Request, id: str, counts: dict[State, int], position: int
) -> web.Response:
    view = request.app[SNAPSHOT]
    seconds_between_completions = await view.seconds_between_completions()
    answer = {
        "request_id": id,
        "status": "submitted",
        "message": "the job is in the queue, on disk; poll status_url until it ends",
        "ready_workers": sum(worker.ready for worker in await view.workers()),
        "total_requests": sum(counts.values()),
        "estimated_position": position,
        "status_url": f"/status/{id}",
        "result_url": f"/result/{id}",
        "eta_seconds": None
        if seconds_between_completions is None
        else round(position * seconds_between_completions, 1),
    }
    return json_response(answer, status=202, headers={"Location": f"/status/{id}"})


@routes.get("/status/{id}")
async def status(request: web.Request) -> web.Response:
    """What there is to say of a job; with `?wait=30`, once it has ended or 30 seconds are over."""
    query = _query(request, "wait")
    until = time.monotonic() + _number(query, "wait", 0.0, most=MAX_WAIT)
    id = check_id(request.match_info["id"])
    endings = request.app[WAITERS]
    with endings.awaited(id) as ended:
        while True:
            now = await _load_authorized(request, id)
            remaining = until - time.monotonic()
            if now.has_ended or remaining <= 0 or endings.closed:
                return json_response(now.to_dict())
            await _wait(ended, min(1.0, remaining))
            ended.clear()  # a job that has ended and was retried ends once more


async def _wait(ended: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:  # the event is a hint: look again
        return


async def _load_authorized(request: web.Request, id: str) -> JobStatus:
    view = request.app[SNAPSHOT]
    now = await asyncio.to_thread(read_status, request.app[SPOOL], id, queue=await view.queue())
    caller_of(request).check_may_see(id, now.owner)
    if now.position is None:
        return now
    seconds_between_completions = await view.seconds_between_completions()
    eta = (
        None
        if seconds_between_completions is None
        else round(now.position * seconds_between_completions, 1)
    )
    return now.model_copy(update={"eta_seconds": eta})


@routes.get("/jobs")
async def jobs(request: web.Request) -> web.Response:
    """The newest jobs, newest first; `next`, where there is one, is the `after` that continues the
    list."""
    query = _query(request, "state", "limit", "after")
    state = parse_state(query.get("state"))
    limit = _number(query, "limit", 100, least=1, most=MAX_LISTED)
    after = check_id(query["after"], "after") if "after" in query else None
    queue = await request.app[SNAPSHOT].queue()
    spool, caller = request.app[SPOOL], caller_of(request)
    looked_at = limit if caller.may_see_all else MAX_LISTED  # whose a job is stands in the job

    def read() -> tuple[list[dict[str, Any]], str | None]:
        places = list_jobs(spool, state, limit=looked_at, after=after)
        shown: list[dict[str, Any]] = []
        for index, place in enumerate(places):
            if len(shown) == limit:
                return shown, places[index - 1].id
            now = status_of(spool, place, queue=queue)
            if now is not None and caller.may_see(now.owner):
                shown.append(now.to_dict())
        return shown, places[-1].id if len(places) == looked_at else None

    listed, following = await asyncio.to_thread(read)
    return json_response({"jobs": listed, "next": following})


@routes.delete("/jobs/{id}")
async def delete(request: web.Request) -> web.Response:
    """Cancel a job that waits or runs; delete one that has ended."""
    spool, caller, id = request.app[SPOOL], caller_of(request), check_id(request.match_info["id"])
    if (await _load_authorized(request, id)).has_ended:
        await asyncio.to_thread(actions.delete_job, spool, id)
        log.info("job %s deleted by %s", id, caller)
        return json_response({"request_id": id, "status": "deleted"})
    state = await asyncio.to_thread(actions.cancel, spool, id)
    log.info("job %s cancelled by %s", id, caller)
    if state is State.RUNNING:
        message = "the job stops at its next step"
        return json_response(
            {"request_id": id, "status": "running", "message": message}, status=202
        )
    return json_response({"request_id": id, "status": "cancelled"})


@routes.post("/jobs/{id}/retry")
async def retry(request: web.Request) -> web.Response:
    """Send a failed job back to the queue."""
    spool, caller, id = request.app[SPOOL], caller_of(request), check_id(request.match_info["id"])
    await _load_authorized(request, id)
    await asyncio.to_thread(actions.retry, spool, id)
    log.info("job %s sent back to the queue by %s", id, caller)
    return json_response(
        {"request_id": id, "status": "queued"}, status=202, headers={"Location": f"/status/{id}"}
    )
