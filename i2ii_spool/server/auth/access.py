"""The access check of a job."""

import asyncio

from aiohttp import web

from i2ii_spool.errors import NotFound
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.state import QUEUE, SPOOL
from i2ii_spool.spool.status import JobStatus, read_status


async def load_authorized(request: web.Request, id: str) -> JobStatus:
    """Return the status of a job that the caller may see.

    Raises `NotFound` for a job that does not exist, and alike for one of another owner; `Deleted`
    for a job that was deleted.
    """
    caller: Caller = request[CALLER]
    queue = await request.app[QUEUE].get()
    job = await asyncio.to_thread(read_status, request.app[SPOOL], id, queue=queue.ids)
    if not caller.may_see(job.owner):
        raise NotFound(f"there is no job {id}")
    pace = queue.seconds_between_completions()
    if job.position is None or pace is None:
        return job
    return job.model_copy(update={"eta_seconds": round(job.position * pace, 1)})
