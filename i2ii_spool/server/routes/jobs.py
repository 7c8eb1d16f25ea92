"""The routes of jobs: submit, status, list, cancel or delete, retry."""

import asyncio
import logging
from typing import Any

from aiohttp import web

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.ids import check_id
from i2ii_spool.jobs.request import EditRequest, parse
from i2ii_spool.jobs.text import folded
from i2ii_spool.server.answers import Cancellation, Deletion, Requeued, Submitted
from i2ii_spool.server.auth.access import load_authorized, with_eta
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.cursors import CURSORS
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.long_poll import WAIT, long_poll
from i2ii_spool.server.query import Parameter, number, whole_number
from i2ii_spool.server.state import (
    COUNTS,
    DISK_THREADS,
    QUEUE,
    SETTINGS,
    SPOOL,
    WORKERS,
    eta_seconds,
    insert,
)
from i2ii_spool.server.submits import accept
from i2ii_spool.server.upload import check_body, read_form
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import State, parse_state
from i2ii_spool.spool.lookup import list_jobs
from i2ii_spool.spool.status import JobStatus, status_of
from i2ii_spool.spool.submit import Submission

log = logging.getLogger(__name__)

MAX_LISTED = 1000
LIMIT = Parameter(
    "limit",
    "At most this many jobs.",
    {"type": "integer", "minimum": 1, "maximum": MAX_LISTED, "default": 100},
)
AFTER = Parameter(
    "after", "Continue behind the job with this id, or where `next` says.", {"type": "string"}
)
MAX_TEXT = 200
TEXT = Parameter(
    "text",
    "Only jobs whose prompt, name or id contains this, in upper or lower case.",
    {"type": "string", "maxLength": MAX_TEXT},
)
STATES = {"type": "string", "enum": [str(state) for state in State]}
LISTED_STATE = Parameter(
    "state",
    "Only jobs in this state; `done` is completed, `failed` is failed or cancelled.",
    STATES,
)
SEEN_STATE = Parameter(
    "state",
    "The state that you saw: `incoming` or `running` cancel, `done` or `failed` delete. The "
    "request does nothing if the job is in another.",
    STATES,
)
ENDED = (State.DONE, State.FAILED)


async def edit(request: web.Request) -> web.Response:
    """Submit a job.

    The answer comes once the job is on disk, durably.
    """
    check_body(request)
    app = request.app

    async def read(submission: Submission) -> EditRequest:
        max_bytes = app[SETTINGS].settings.max_bytes
        form = await read_form(request, submission, max_bytes, app[DISK_THREADS])
        return parse(EditRequest, form)

    accepted = await accept(request, read)
    id = accepted.id
    if accepted.is_new:
        position = insert(await app[QUEUE].get(), id)
    else:
        position = (await load_authorized(request, id)).position or 0
    workers = await app[WORKERS].get()
    answer = Submitted(
        request_id=id,
        message="the job is in the queue, on disk; poll status_url until it ends",
        ready_workers=sum(worker.ready for worker in workers),
        total_requests=sum((await app[COUNTS].get()).values()),
        estimated_position=position,
        status_url=f"/status/{id}",
        result_url=f"/result/{id}",
        eta_seconds=eta_seconds(position, workers),
    )
    return json_response(answer.to_dict(), status=202, headers={"Location": f"/status/{id}"})


async def status(request: web.Request) -> web.Response:
    """Read the status of a job, or wait for its end."""
    seconds, id = number(request.query, WAIT), check_id(request.match_info["id"])
    job = await long_poll(request, id, seconds)
    return json_response(job.to_dict())


async def list_all(request: web.Request) -> web.Response:
    """List the jobs, newest first.

    A token sees those that were submitted with it; an operator's sees all.
    """
    query = request.query
    state = parse_state(query.get("state"))
    limit = whole_number(query, LIMIT)
    cursors = request.app[CURSORS]
    after = cursors.open(query["after"]) if "after" in query else None
    queue, workers = await request.app[QUEUE].get(), await request.app[WORKERS].get()
    spool = request.app[SPOOL]
    caller: Caller = request[CALLER]
    text = _searched(query.get("text", ""))
    # What a job holds is known only once it is read, so more jobs are read than are shown.
    read_at_most = limit if caller.may_see_all and not text else MAX_LISTED

    def read() -> tuple[list[dict[str, Any]], str | None]:
        places = list_jobs(spool, state, limit=read_at_most, after=after)
        shown: list[dict[str, Any]] = []
        for index, place in enumerate(places):
            if len(shown) == limit:
                return shown, places[index - 1].id
            job = status_of(spool, place, queue=queue)
            if job is not None and caller.may_see(job.owner) and _contains(job, text):
                shown.append(with_eta(job, workers).to_dict())
        return shown, places[-1].id if len(places) == read_at_most else None

    shown, following = await asyncio.to_thread(read)
    if following is not None and not caller.may_see_all:
        following = cursors.seal(following)
    return json_response({"jobs": shown, "next": following})


def _searched(text: str) -> str:
    """Return a text as it is compared. Raises `InvalidRequest`."""
    if len(text) > MAX_TEXT:
        raise InvalidRequest(
            f"text must be at most {MAX_TEXT} characters, got {len(text)}", field="text"
        )
    return folded(text)


def _contains(job: JobStatus, text: str) -> bool:
    parts = (job.request_id, job.name, job.prompt)
    return any(text in folded(part) for part in parts if part is not None)


async def cancel(request: web.Request) -> web.Response:
    """Cancel a job.

    Nothing is ever deleted, and the request may be repeated. A job that runs stops at its next
    step, and may still complete before that.
    """
    id = check_id(request.match_info["id"])
    job = await load_authorized(request, id, to_change=True)
    if job.status == "cancelled":
        return json_response(Cancellation(request_id=id, status="cancelled").to_dict())
    return await _cancel(request, id, None)


async def delete(request: web.Request) -> web.Response:
    """Cancel a job that waits or runs; delete one that has ended.

    A job that was to be cancelled, however it ended, is kept when the request is repeated, unless
    `state` is given.
    """
    spool, caller, id = request.app[SPOOL], request[CALLER], check_id(request.match_info["id"])
    seen = parse_state(request.query.get("state"))
    job = await load_authorized(request, id, to_change=True)
    if not (job.has_ended if seen is None else seen in ENDED):
        return await _cancel(request, id, seen)
    if seen is None and await asyncio.to_thread(actions.was_cancelled, spool, id):
        state = State.DONE if job.status == "completed" else State.FAILED
        message = f"it was to be cancelled, and is kept; ?state={state} deletes it"
        kept = Deletion(request_id=id, status=job.status, message=message)
        return json_response(kept.to_dict())
    await asyncio.to_thread(actions.delete_job, spool, id, seen=seen)
    log.info("job %s deleted by %s", id, caller, extra=fields(JobEvent.DELETED, id))
    return json_response(Deletion(request_id=id, status="deleted").to_dict())


async def _cancel(request: web.Request, id: str, seen: State | None) -> web.Response:
    caller: Caller = request[CALLER]
    state = await asyncio.to_thread(actions.cancel, request.app[SPOOL], id, seen=seen)
    if state is State.RUNNING:
        event = fields(JobEvent.CANCEL_REQUESTED, id)
        log.info("job %s: cancellation requested by %s", id, caller, extra=event)
        message = "the job stops at its next step"
        answer = Cancellation(request_id=id, status="running", message=message)
        return json_response(answer.to_dict(), status=202)
    log.info("job %s cancelled by %s", id, caller, extra=fields(JobEvent.CANCELLED, id))
    return json_response(Cancellation(request_id=id, status="cancelled").to_dict())


async def retry(request: web.Request) -> web.Response:
    """Run a failed or cancelled job again.

    It keeps its id and its place in the queue.
    """
    spool, caller, id = request.app[SPOOL], request[CALLER], check_id(request.match_info["id"])
    await load_authorized(request, id, to_change=True)
    await asyncio.to_thread(actions.retry, spool, id)
    log.info("job %s retried by %s", id, caller, extra=fields(JobEvent.RETRIED, id))
    answer = Requeued(request_id=id).to_dict()
    return json_response(answer, status=202, headers={"Location": f"/status/{id}"})
