"""The routes of jobs: submit, status, list, cancel or delete, retry."""

import asyncio
import logging
from functools import partial
from typing import Any

from aiohttp import web

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.jobs.request import EditRequest, parse
from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.limits import LIMITS
from i2ii_spool.server.long_poll import long_poll, wait_seconds
from i2ii_spool.server.query import number_parameter
from i2ii_spool.server.state import (
    COUNTS,
    QUEUE,
    SETTINGS,
    SPOOL,
    WORKERS,
    eta_seconds,
    insert,
)
from i2ii_spool.server.upload import check_is_form, read_form
from i2ii_spool.settings import Settings
from i2ii_spool.spool import actions
from i2ii_spool.spool.capacity import check_queue
from i2ii_spool.spool.idempotency import check_key
from i2ii_spool.spool.layout import State, parse_state
from i2ii_spool.spool.liveness import max_images, seconds_between_completions
from i2ii_spool.spool.lookup import list_jobs
from i2ii_spool.spool.status import status_of
from i2ii_spool.spool.submit import Submission

log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_LISTED = 1000


async def edit(request: web.Request) -> web.Response:
    """Submit a job. 202 once it is on disk, durably."""
    check_is_form(request)
    key = idempotency_key(request)
    settings = request.app[SETTINGS].settings
    caller: Caller = request[CALLER]
    queue, workers = await request.app[QUEUE].get(), await request.app[WORKERS].get()
    pace = seconds_between_completions(workers)
    check_queue(len(queue), max_queue=settings.max_queue, seconds_between_completions=pace)
    counts = await request.app[COUNTS].get()
    with request.app[LIMITS].upload_slot(caller.name, settings):
        id, is_new = await _receive(request, settings, key=key, owner=caller.owner)
    workers = await request.app[WORKERS].get()
    if is_new:
        counts[State.INCOMING] += 1  # for all handlers, until the jobs are counted again
        position = insert(await request.app[QUEUE].get(), id)
        log.info("job %s submitted by %s", id, caller, extra=fields(JobEvent.SUBMITTED, id))
    else:
        position = (await load_authorized(request, id)).position or 0
        log.info("job %s submitted again by %s", id, caller, extra=fields(JobEvent.RESUBMITTED, id))
    answer = {
        "request_id": id,
        "status": "submitted",
        "message": "the job is in the queue, on disk; poll status_url until it ends",
        "ready_workers": sum(worker.ready for worker in workers),
        "total_requests": sum(counts.values()),
        "estimated_position": position,
        "status_url": f"/status/{id}",
        "result_url": f"/result/{id}",
        "eta_seconds": eta_seconds(position, workers),
    }
    return json_response(answer, status=202, headers={"Location": f"/status/{id}"})


def idempotency_key(request: web.Request) -> str | None:
    """Return the key of a submit, if it has one. Raises `InvalidRequest`."""
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if len(keys) > 1:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY} is given twice", field=IDEMPOTENCY_KEY)
    return check_key(keys[0]) if keys else None


async def _receive(
    request: web.Request, settings: Settings, *, key: str | None, owner: str
) -> tuple[str, bool]:
    """Read the form into a submission and publish it; leave nothing behind if that fails.

    Return the job's id, and whether the job is new: `key` may name an earlier one.
    """
    min_free, max_bytes, max_pixels = settings.min_free, settings.max_bytes, settings.max_pixels
    most = max_images(await request.app[WORKERS].get())
    submission = await asyncio.to_thread(
        Submission, request.app[SPOOL], min_free=min_free, max_images=most
    )
    try:
        form = await read_form(request, submission, max_bytes)
        publish = partial(submission.publish, max_pixels=max_pixels, key=key, owner=owner)
        id = await asyncio.to_thread(publish, parse(EditRequest, form))
    except BaseException:
        await asyncio.shield(asyncio.to_thread(submission.discard))
        raise
    return id, id == submission.id


async def status(request: web.Request) -> web.Response:
    """Return the status of a job; with `?wait=30`, once it has ended, or after 30 seconds."""
    seconds, id = wait_seconds(request), check_id(request.match_info["id"])
    job = await long_poll(request, id, seconds)
    return json_response(job.to_dict())


async def list_all(request: web.Request) -> web.Response:
    """Return the jobs that the caller may see, newest first, and where the next page begins."""
    query = request.query
    state = parse_state(query.get("state"))
    limit = number_parameter(query, "limit", 100, least=1, most=MAX_LISTED)
    after = check_id(query["after"], "after") if "after" in query else None
    queue = await request.app[QUEUE].get()
    spool = request.app[SPOOL]
    caller: Caller = request[CALLER]
    # The owner is known only once the job is read, so more jobs are read than are shown.
    read_at_most = limit if caller.may_see_all else MAX_LISTED

    def read() -> tuple[list[dict[str, Any]], str | None]:
        places = list_jobs(spool, state, limit=read_at_most, after=after)
        shown: list[dict[str, Any]] = []
        for index, place in enumerate(places):
            if len(shown) == limit:
                return shown, places[index - 1].id
            job = status_of(spool, place, queue=queue)
            if job is not None and caller.may_see(job.owner):
                shown.append(job.to_dict())
        return shown, places[-1].id if len(places) == read_at_most else None

    shown, following = await asyncio.to_thread(read)
    return json_response({"jobs": shown, "next": following})


async def delete(request: web.Request) -> web.Response:
    """Cancel a job that waits or runs; delete one that has ended."""
    spool, caller, id = request.app[SPOOL], request[CALLER], check_id(request.match_info["id"])
    job = await load_authorized(request, id)
    if job.has_ended:
        await asyncio.to_thread(actions.delete_job, spool, id)
        log.info("job %s deleted by %s", id, caller, extra=fields(JobEvent.DELETED, id))
        return json_response({"request_id": id, "status": "deleted"})
    state = await asyncio.to_thread(actions.cancel, spool, id)
    if state is State.RUNNING:
        event = fields(JobEvent.CANCEL_REQUESTED, id)
        log.info("job %s: cancellation requested by %s", id, caller, extra=event)
        message = "the job stops at its next step"
        return json_response(
            {"request_id": id, "status": "running", "message": message}, status=202
        )
    log.info("job %s cancelled by %s", id, caller, extra=fields(JobEvent.CANCELLED, id))
    return json_response({"request_id": id, "status": "cancelled"})


async def retry(request: web.Request) -> web.Response:
    """Put a failed job back into the queue."""
    spool, caller, id = request.app[SPOOL], request[CALLER], check_id(request.match_info["id"])
    await load_authorized(request, id)
    await asyncio.to_thread(actions.retry, spool, id)
    log.info("job %s retried by %s", id, caller, extra=fields(JobEvent.RETRIED, id))
    return json_response(
        {"request_id": id, "status": "queued"}, status=202, headers={"Location": f"/status/{id}"}
    )
