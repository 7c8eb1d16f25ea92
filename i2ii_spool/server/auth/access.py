"""The access check of a job."""

import asyncio
from collections.abc import Sequence

from aiohttp import web

from i2ii_spool.errors import Forbidden, NotFound
from i2ii_spool.server.auth.middleware import CALLER, Caller
from i2ii_spool.server.state import QUEUE, SPOOL, WORKERS, eta_seconds
from i2ii_spool.spool.liveness import WorkerView
from i2ii_spool.spool.status import JobStatus, read_status


async def load_authorized(request: web.Request, id: str, *, to_change: bool = False) -> JobStatus:
    """Return the status of a job that the caller may see, or may change.

    Raises `NotFound` for a job that does not exist, and alike for one of another owner; `Deleted`
    for a job that was deleted; `Forbidden` for one that the caller may only see.
    """
    caller: Caller = request[CALLER]
    queue = await request.app[QUEUE].get()
    job = await asyncio.to_thread(read_status, request.app[SPOOL], id, queue=queue)
    if not caller.may_see(job.owner):
        raise NotFound(f"there is no job {id}")
    if to_change and not caller.may_change(job.owner):
        raise Forbidden(f"job {id} is of another token: use that, or an operator's")
    return with_eta(job, await request.app[WORKERS].get())


def with_eta(job: JobStatus, workers: Sequence[WorkerView]) -> JobStatus:
    """Return the status with an estimate of when a job that waits will have ended."""
    if job.position is None:
        return job
    return job.model_copy(update={"eta_seconds": eta_seconds(job.position, workers)})
