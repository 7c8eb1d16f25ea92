"""The routes of events, as streams that browsers read (server-sent events, HTML standard 9.2)."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress

from aiohttp import hdrs, web
from aiohttp_sse import sse_response

from i2ii_spool.errors import NotFound, Unauthorized
from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.auth.middleware import AUTH, CALLER
from i2ii_spool.server.event_streams import EVENT_STREAMS, Stream
from i2ii_spool.server.query import Parameter
from i2ii_spool.server.state import QUEUE, SPOOL
from i2ii_spool.spool.changes import Change
from i2ii_spool.spool.history import SKEW_MS, Event, changed_at, history, missed
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import JobLocation, find, list_jobs, queued_ids
from i2ii_spool.spool.status import ENDS, READS, JobStatus, status_of

LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    "The id of the last event that the client has: those that came after it are sent first. "
    "Browsers send it by themselves.",
    {"type": "string"},
)
MEDIA_TYPE = "text/event-stream"
RESET = "reset"
RESUME_MS = 3600 * 1000
"""So far back events are told again."""
ALL = 10**9
"""Jobs."""


async def of_job(request: web.Request) -> web.StreamResponse:
    """Follow a job.

    The first event is its present state, or those after `Last-Event-ID`; the last is its end. 204
    for a client that has had that: a browser asks no more.
    """
    id = request.match_info["id"]
    last = last_event(request)
    await load_authorized(request, id)
    with request.app[EVENT_STREAMS].stream(request, id) as stream:
        await stream.is_watched.wait()
        queue = await request.app[QUEUE].get()
        first = await asyncio.to_thread(first_changes, request.app[SPOOL], id, last, queue)
        if not first and last is not None and last.name in ENDS:
            return web.Response(status=204)
        return await send(request, stream, first)


async def of_all(request: web.Request) -> web.StreamResponse:
    """Follow all jobs that the token may see.

    Events come from now on, or those after `Last-Event-ID` first. `reset` says that this was too
    long ago: list the jobs instead.
    """
    last = last_event(request)
    with request.app[EVENT_STREAMS].stream(request, None) as stream:
        await stream.is_watched.wait()
        is_late = last is not None and last.at < time.time() * 1000 - RESUME_MS
        first: list[Change] = []
        if last is not None and not is_late:
            async with request.app[EVENT_STREAMS].replaying:
                told = await asyncio.to_thread(missed_changes, request.app[SPOOL], last)
            first = [each for each in told if request[CALLER].may_see(each.job.owner)]
        return await send(request, stream, first, is_reset=is_late)


def last_event(request: web.Request) -> Event | None:
    """Return the last event that the client has. Raises `InvalidRequest`."""
    id = request.headers.get(LAST_EVENT_ID.name)
    return Event.parse(id, LAST_EVENT_ID.name) if id else None


async def send(
    request: web.Request, stream: Stream, first: list[Change], *, is_reset: bool = False
) -> web.StreamResponse:
    """Send events until the job that is followed has ended, or the client goes."""
    if request.method == hdrs.METH_HEAD:
        return web.Response(content_type=MEDIA_TYPE)
    async with sse_response(request, sep="\n") as response:
        # A client that goes ends its stream, and so does a token that is revoked.
        with suppress(ConnectionError, TimeoutError, Unauthorized):
            if is_reset:
                await response.send("{}", event=RESET)
            sent = set()
            async for change in changes(request, stream, first):
                if change.id is None or change.id not in sent:
                    await response.send(data_of(change.job), id=change.id, event=change.name)
                    sent.add(change.id)
    return response


def data_of(job: JobStatus) -> str:
    """Return the status of a job as the data of an event."""
    return json.dumps(job.to_dict(), ensure_ascii=False)


async def changes(
    request: web.Request, stream: Stream, first: list[Change]
) -> AsyncIterator[Change]:
    """Yield what is told to a client, up to the end of the job that it follows."""
    for change in first:
        yield change
    ended = bool(first) and first[-1].name in ENDS and stream.job is not None
    while not ended and (told := await stream.waiting.get()) is not None:
        request[CALLER] = request.app[AUTH].identify(request)
        yield told
        ended = told.name in ENDS and stream.job is not None


def first_changes(spool: Spool, id: str, last: Event | None, queue: Sequence[str]) -> list[Change]:
    """Return what a client that follows a job gets first: what it missed, or the present.

    Raises `NotFound`, or `Deleted`.
    """
    for _ in range(READS):
        location = find(spool, id)
        with suppress(FileNotFoundError):  # it moves
            job = status_of(spool, location, queue=queue)
            if job is not None:
                return _first_of(history(location, job), job, last)
    raise NotFound(f"job {id} changed state while it was read; try again")


def _first_of(events: Sequence[Event], job: JobStatus, last: Event | None) -> list[Change]:
    if last is None:
        return [Change(events[-1].name, job, events[-1].id)]
    later = [Change(event.name, job, event.id) for event in missed(events, last)]
    if later or last == events[-1]:
        return later
    return [Change(events[-1].name, job)]  # it came back since


def missed_changes(spool: Spool, last: Event) -> list[Change]:
    """Return the events of all jobs after `last`, in order."""
    found: list[tuple[Event, JobStatus]] = []
    queue = queued_ids(spool)
    for location in list_jobs(spool, limit=ALL):
        with suppress(FileNotFoundError):  # it moves: the stream tells of that
            found += _missed_of(spool, location, last, queue)
    found.sort(key=lambda each: each[0])
    return [Change(event.name, job, event.id) for event, job in found]


def _missed_of(
    spool: Spool, location: JobLocation, last: Event, queue: Sequence[str]
) -> Iterator[tuple[Event, JobStatus]]:
    if changed_at(location) < last.at - SKEW_MS:
        return
    job = status_of(spool, location, queue=queue)
    if job is not None:
        for event in missed(history(location, job), last):
            yield event, job
