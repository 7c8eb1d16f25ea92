"""How a request becomes a job. `POST /edit` and the OpenAI API differ in the form that they read.

The limits are checked before the body is read; a job is accepted once it is on disk, durably.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from aiohttp import web

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.decoding import DECODER_TURNS
from i2ii_spool.server.limits import LIMITS
from i2ii_spool.server.metrics import METRICS
from i2ii_spool.server.query import Parameter
from i2ii_spool.server.state import (
    COUNTS,
    DISK_THREADS,
    QUEUE,
    ROOM,
    SETTINGS,
    SPOOL,
    WORKERS,
    insert,
)
from i2ii_spool.server.upload import expected_bytes
from i2ii_spool.spool.capacity import check_queue
from i2ii_spool.spool.idempotency import MAX_KEY_LENGTH, check_key
from i2ii_spool.spool.layout import State
from i2ii_spool.spool.liveness import max_images, seconds_between_completions
from i2ii_spool.spool.submit import Submission
from i2ii_spool.spool.webhook import WebhookPolicy

log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "Idempotency-Key"
KEY = Parameter(
    IDEMPOTENCY_KEY,
    "Of your choice. Repeat a form with the same key if its answer was lost: you get the same job, "
    "not a second one.",
    {"type": "string", "pattern": "^[!-~]([ -~]*[!-~])?$", "maxLength": MAX_KEY_LENGTH},
)

Read = Callable[[Submission], Awaitable[EditRequest]]
"""Adds the pictures of a request to the submission, and returns the rest of it."""


@dataclass(frozen=True)
class Accepted:
    """A job that is in the spool."""

    id: str
    is_new: bool
    """False for a job that was accepted before."""


async def accept(request: web.Request, read: Read, *, take_over: bool = False) -> Accepted:
    """Accept the job that a request asks for. Raises the errors of `read` and of the limits.

    With `take_over`, return a job of the same owner that asks for the same, if there is a recent
    one that was not cancelled.
    """
    key = idempotency_key(request)
    settings = request.app[SETTINGS].settings
    caller: Caller = request[CALLER]
    queue, workers = await request.app[QUEUE].get(), await request.app[WORKERS].get()
    pace = seconds_between_completions(workers)
    check_queue(len(queue), max_queue=settings.max_queue, seconds_between_completions=pace)
    counts = await request.app[COUNTS].get()
    with request.app[LIMITS].upload_slot(caller.name, settings):
        accepted = await _receive(request, read, key, take_over)
    id = accepted.id
    request.app[METRICS].accept(request, is_new=accepted.is_new)
    if accepted.is_new:
        counts[State.INCOMING] += 1  # for all handlers, until the jobs are counted again
        insert(await request.app[QUEUE].get(), id)
        log.info("job %s submitted by %s", id, caller, extra=fields(JobEvent.SUBMITTED, id))
    else:
        log.info("job %s submitted again by %s", id, caller, extra=fields(JobEvent.RESUBMITTED, id))
    return accepted


def idempotency_key(request: web.Request) -> str | None:
    """Return the key of a submit, if it has one. Raises `InvalidRequest`."""
    keys = request.headers.getall(IDEMPOTENCY_KEY, [])
    if len(keys) > 1:
        raise InvalidRequest(f"{IDEMPOTENCY_KEY} is given twice", field=IDEMPOTENCY_KEY)
    return check_key(keys[0]) if keys else None


async def _receive(request: web.Request, read: Read, key: str | None, take_over: bool) -> Accepted:
    """Read the body into a submission and publish it; leave nothing behind if that fails."""
    app, loop = request.app, asyncio.get_running_loop()
    settings, caller = app[SETTINGS].settings, request[CALLER]
    disk, max_pixels = app[DISK_THREADS], settings.max_pixels
    submission = Submission(app[SPOOL], max_images=max_images(await app[WORKERS].get()))
    expected = expected_bytes(request, settings.max_bytes)
    async with app[LIMITS].disk_space(app[ROOM], expected, min_free=settings.min_free):
        try:
            edit = await read(submission)
            WebhookPolicy.of(settings).check(edit)
            publish = partial(
                submission.publish,
                edit,
                max_pixels=max_pixels,
                key=key,
                owner=caller.owner,
                take_over=take_over and key is None,
            )
            inspect = partial(submission.inspect, max_pixels=max_pixels)
            id = await loop.run_in_executor(disk, lambda: publish() if inspect() else None)
            if id is None:
                decode = partial(submission.decode, max_pixels=max_pixels)
                await app[DECODER_TURNS].run(caller.name, decode)
                id = await loop.run_in_executor(disk, publish)
        except BaseException:
            await asyncio.shield(loop.run_in_executor(disk, submission.discard))
            raise
    return Accepted(id, id == submission.id)
