"""Long polls: the wait for a job's end."""

import asyncio
import time
from contextlib import suppress

from aiohttp import web

from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.query import number_parameter
from i2ii_spool.server.state import WAITERS
from i2ii_spool.spool.status import JobStatus

MAX_WAIT = 300.0


def wait_seconds(request: web.Request) -> float:
    """Return the parameter `wait`. Raises `InvalidRequest`."""
    return number_parameter(request.query, "wait", 0.0, most=MAX_WAIT)


async def long_poll(request: web.Request, id: str, seconds: float) -> JobStatus:
    """Return the status of a job once it has ended, or after so many seconds.

    A stopping server returns it at once. Raises like `load_authorized`.
    """
    until = time.monotonic() + seconds
    waiters = request.app[WAITERS]
    with waiters.awaited(id) as ended:
        while True:
            job = await load_authorized(request, id)
            remaining = until - time.monotonic()
            if job.has_ended or remaining <= 0 or waiters.closed:
                return job
            with suppress(TimeoutError):  # the event is only a hint: read the job each second
                await asyncio.wait_for(ended.wait(), min(1.0, remaining))
            ended.clear()  # a job that is retried ends again
