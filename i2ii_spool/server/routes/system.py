"""The routes of the service itself: its state and its health."""

import asyncio
from typing import Any

from aiohttp import web

from i2ii_spool.errors import DiskFull
from i2ii_spool.jobs.ids import age_of
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.state import COUNTS, QUEUE, SETTINGS, SPOOL, WORKERS
from i2ii_spool.spool.capacity import check_disk, free_bytes
from i2ii_spool.spool.durable_io import write_hint
from i2ii_spool.spool.layout import Spool, State


async def livez(_request: web.Request) -> web.Response:
    """200 while the server answers at all."""
    return json_response({"status": "alive"})


async def health(request: web.Request) -> web.Response:
    """200 with a ready worker and a writable spool; else 503, and why."""
    workers = await request.app[WORKERS].get()
    min_free = request.app[SETTINGS].settings.min_free
    status = "unhealthy"
    reason = await asyncio.to_thread(spool_problem, request.app[SPOOL], min_free)
    if reason is None and not any(worker.alive for worker in workers):
        reason = "no workers are running; start one with i2ii gpu 0"
    if reason is None and not any(worker.ready for worker in workers):
        states = [f"{each.status.worker} is {each.status.state}" for each in workers if each.alive]
        status, reason = "degraded", f"no worker is ready: {', '.join(states)}"
    if reason is not None:
        return json_response({"status": status, "reason": reason}, status=503)
    ready = sum(worker.ready for worker in workers)
    return json_response({"status": "healthy", "ready_workers": ready})


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
    """Return the counts, the workers and the spool."""
    spool, queue = request.app[SPOOL], await request.app[QUEUE].get()
    counts, workers = await request.app[COUNTS].get(), await request.app[WORKERS].get()
    free = await asyncio.to_thread(free_bytes, spool)
    # The id of a job is shown only to those who may see every job.
    hidden = None if request[CALLER].may_see_all else {"job"}
    shown: list[dict[str, Any]] = [
        {
            **worker.status.model_dump(mode="json", exclude=hidden),
            "alive": worker.alive,
            "heartbeat_age": round(worker.heartbeat_age, 2),
        }
        for worker in workers
    ]
    return json_response(
        {
            "total_gpus": len(workers),
            "alive_processes": sum(worker.alive for worker in workers),
            "ready_workers": sum(worker.ready for worker in workers),
            "total_requests": sum(counts.values()),
            "queued_requests": counts[State.INCOMING],
            "running_requests": counts[State.RUNNING],
            "completed_requests": counts[State.DONE],
            "failed_requests": counts[State.FAILED],
            "workers": shown,
            "spool": {
                "path": str(spool.root),
                "free_bytes": free,
                "oldest_waiting_seconds": round(age_of(queue[0]), 1) if queue else None,
            },
        }
    )
