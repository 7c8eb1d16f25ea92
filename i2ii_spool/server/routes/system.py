"""The routes of the service itself: how it is, and whether it can be relied on."""

import asyncio
from typing import Any

from aiohttp import web

from i2ii_spool.errors import DiskFull
from i2ii_spool.jobs.ids import age_of
from i2ii_spool.server.auth.middleware import caller_of
from i2ii_spool.server.errors import json_response
from i2ii_spool.server.state import SETTINGS, SNAPSHOT, SPOOL
from i2ii_spool.spool.capacity import check_disk, free_bytes
from i2ii_spool.spool.durable_io import write_hint
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerView

routes = web.RouteTableDef()


@routes.get("/livez")
async def livez(_request: web.Request) -> web.Response:
    """Whether this server answers at all."""
    return json_response({"status": "alive"})


@routes.get("/health")
async def health(request: web.Request) -> web.Response:
    """200 `healthy` with a ready worker and a writable spool; else 503, and why."""
    workers = await request.app[SNAPSHOT].workers()
    problem = await asyncio.to_thread(
        _spool_problem, request.app[SPOOL], request.app[SETTINGS].settings.min_free
    )
    if problem is not None:
        return json_response({"status": "unhealthy", "reason": problem}, status=503)
    if not any(worker.alive for worker in workers):
        return json_response(
            {"status": "unhealthy", "reason": "no worker lives; start one: i2ii gpu 0"}, status=503
        )
    if not any(worker.ready for worker in workers):
        states = ", ".join(
            f"{seen.status.worker} is {seen.status.state}" for seen in workers if seen.alive
        )
        return json_response(
            {"status": "degraded", "reason": f"no worker is ready: {states}"}, status=503
        )
    return json_response(
        {"status": "healthy", "ready_workers": sum(worker.ready for worker in workers)}
    )


def _spool_problem(spool: Spool, min_free: int) -> str | None:
    probe = spool.staging / ".health"
    try:
        check_disk(spool, min_free=min_free)
        write_hint(probe, b"")
        probe.unlink(missing_ok=True)
    except (OSError, DiskFull) as error:
        return f"the spool cannot be written to: {error}"
    return None


@routes.get("/system/status")
async def system_status(request: web.Request) -> web.Response:
    """The counts, the workers, the spool."""
    view, spool = request.app[SNAPSHOT], request.app[SPOOL]
    counts, workers, queue = await view.counts(), await view.workers(), await view.queue()
    free = await asyncio.to_thread(free_bytes, spool)
    may_see_all = caller_of(request).may_see_all
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
            "workers": [_shown(worker, may_see_all=may_see_all) for worker in workers],
            "spool": {
                "path": str(spool.root),
                "free_bytes": free,
                "oldest_waiting_seconds": round(age_of(queue[0]), 1) if queue else None,
            },
        }
    )


def _shown(worker: WorkerView, *, may_see_all: bool) -> dict[str, Any]:
    shown = worker.status.model_dump(mode="json", exclude=None if may_see_all else {"job"})
    return {**shown, "alive": worker.alive, "heartbeat_age": round(worker.heartbeat_age, 2)}
