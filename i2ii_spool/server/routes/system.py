"""The routes of the service itself: its state and its health."""

import asyncio
from typing import Literal

from aiohttp import web

from i2ii_spool.errors import DiskFull
from i2ii_spool.jobs.ids import age_of
from i2ii_spool.server.answers import (
    Alive,
    Healthy,
    Host,
    SpoolView,
    SystemStatus,
    Unhealthy,
    Worker,
)
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.state import COUNTS, QUEUE, SETTINGS, SPOOL, WORKERS
from i2ii_spool.spool.capacity import check_disk, free_bytes
from i2ii_spool.spool.durable_io import write_hint
from i2ii_spool.spool.hosts import HostView, by_host
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import FOR_PROGRAMS


async def livez(_request: web.Request) -> web.Response:
    """Check that the server answers."""
    return json_response(Alive().to_dict())


async def health(request: web.Request) -> web.Response:
    """Check that jobs will be done.

    200 if a worker is ready and the spool can be written to, else 503.
    """
    workers = await request.app[WORKERS].get()
    min_free = request.app[SETTINGS].settings.min_free
    status: Literal["degraded", "unhealthy"] = "unhealthy"
    reason = await asyncio.to_thread(spool_problem, request.app[SPOOL], min_free)
    if reason is None and not any(worker.alive for worker in workers):
        reason = "no workers are running; start one with i2ii gpu 0"
    if reason is None and not any(worker.ready for worker in workers):
        states = [f"{each.status.worker} is {each.status.state}" for each in workers if each.alive]
        status, reason = "degraded", f"no worker is ready: {', '.join(states)}"
    if reason is not None:
        return json_response(Unhealthy(status=status, reason=reason).to_dict(), status=503)
    return json_response(Healthy(ready_workers=sum(each.ready for each in workers)).to_dict())


def spool_problem(spool: Spool, min_free: int) -> str | None:
    """Return why the spool cannot be written to, or None if it can."""
    probe = spool.staging / ".health"
    try:
        check_disk(spool, min_free=min_free)
        write_hint(probe, b"")
        probe.unlink(missing_ok=True)
    except (OSError, DiskFull) as error:
        return f"the spool cannot be written to: {error}"
    return None


async def status(request: web.Request) -> web.Response:
    """Count the jobs of all owners, and see the workers and the spool."""
    spool, queue = request.app[SPOOL], await request.app[QUEUE].get()
    counts, workers = await request.app[COUNTS].get(), await request.app[WORKERS].get()
    free = await asyncio.to_thread(free_bytes, spool)
    alive = sum(worker.alive for worker in workers)
    answer = SystemStatus(
        total_gpus=alive,
        alive_processes=alive,
        ready_workers=sum(worker.ready for worker in workers),
        total_requests=sum(counts.values()),
        queued_requests=counts[State.INCOMING],
        running_requests=counts[State.RUNNING],
        completed_requests=counts[State.DONE],
        failed_requests=counts[State.FAILED],
        workers=tuple(
            Worker.model_validate(
                {
                    **worker.status.model_dump(exclude=FOR_PROGRAMS),
                    "alive": worker.alive,
                    "heartbeat_age": round(worker.heartbeat_age, 2),
                }
            )
            for worker in workers
        ),
        hosts=tuple(map(_host, by_host(workers))),
        spool=SpoolView(
            path=str(spool.root),
            free_bytes=free,
            oldest_waiting_seconds=round(age_of(queue[0]), 1) if queue else None,
        ),
    )
    # The id of a job is shown only to those who may see every job.
    ids = {"job", "recent_jobs", "recent_failures"}
    hidden = None if request[CALLER].may_see_all else {"workers": {"__all__": ids}}
    return json_response(answer.model_dump(mode="json", exclude=hidden))


def _host(view: HostView) -> Host:
    return Host(
        host=view.host,
        alive=view.alive,
        workers=len(view.workers),
        alive_workers=view.alive_workers,
        ready_workers=view.ready_workers,
        running_requests=view.running_jobs,
        heartbeat_age=round(view.heartbeat_age, 2),
        versions=view.versions,
    )
