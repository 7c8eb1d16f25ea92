"""The access check of a job."""

import asyncio

from aiohttp import web

from i2ii_spool.errors import NotFound
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.state import QUEUE, SPOOL, WORKERS, eta_seconds
from i2ii_spool.spool.status import JobStatus, read_status


async def load_authorized(request: web.Request, id: str) -> JobStatus:
    """Return the status of a job that the caller may see.

    Raises `NotFound` for a job that does not exist, and alike for one of another owner; `Deleted`
    for a job that was deleted.
    """
    caller: Caller = request[CALLER]
    queue = await request.app[QUEUE].get()
    job = await asyncio.to_thread(read_status, request.app[SPOOL], id, queue=queue)
    if not caller.may_see(job.owner):
        raise NotFound(f"there is no job {id}")
    if job.position is None:
        return job
    eta = eta_seconds(job.position, await request.app[WORKERS].get())
    return job.model_copy(update={"eta_seconds": eta})
