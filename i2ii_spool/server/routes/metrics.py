"""The route for Prometheus."""

import asyncio
from dataclasses import replace

from aiohttp import web

from i2ii_spool.errors import Forbidden
from i2ii_spool.jobs.ids import made_at
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.metrics import METRICS, Limits, Reading
from i2ii_spool.server.routes.system import spool_problem
from i2ii_spool.server.state import COUNTS, QUEUE, SETTINGS, SPOOL, WORKERS
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WORKER_NAME
from i2ii_spool.spool.lookup import ids_in, worker_folders
from i2ii_spool.spool.webhook import read_report

COUNT_SECONDS = 0.005
"""Where the ended jobs took longer to count, a scrape shows how many the one before has found."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: web.Request) -> web.Response:
    """Show the service to Prometheus.

    It takes a token of an operator, or an address in `metrics_networks`.
    """
    if not request[CALLER].may_change_all:
        raise Forbidden("/metrics tells of all jobs: use the token of an operator")
    app = request.app
    settings = app[SETTINGS].settings
    limits = Limits(settings.max_queue, settings.min_free)
    reading = None
    try:
        counts = await app[COUNTS].get_at_once(COUNT_SECONDS)
        queue, workers = await app[QUEUE].get(), await app[WORKERS].get()
        waiting = {
            State.INCOMING: len(queue),
            State.DONE: counts[State.DONE],
            State.FAILED: counts[State.FAILED],
        }
        oldest = made_at(queue[0]) if queue else None
        listed = Reading(waiting, oldest, workers)
        problem, reading = await asyncio.to_thread(_read, app[SPOOL], listed, limits)
    except OSError as error:  # Prometheus is to hear of it, and of all else
        problem = str(error)
    body = app[METRICS].render(reading, limits, is_writable=problem is None)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _read(spool: Spool, reading: Reading, limits: Limits) -> tuple[str | None, Reading]:
    """Return why the spool cannot be written to, and the reading with the rest of it."""
    running = sum(len(ids_in(folder)) for folder in worker_folders(spool))
    known = {view.status.worker for view in reading.workers}
    names = {path.stem for path in spool.workers.glob("*.json")}
    return spool_problem(spool, limits.min_free), replace(
        reading,
        jobs={**reading.jobs, State.RUNNING: running},
        unreadable=sorted(filter(WORKER_NAME.fullmatch, names - known)),
        free_bytes=free_bytes(spool),
        webhooks=read_report(spool),
    )
