"""The HTTP application: every route, the middlewares, and what lives as long as it.

It turns requests into job folders and job folders into answers. It keeps no job in memory.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import hdrs, web

from i2ii_spool.server.auth.middleware import AUTH, TokenAuth, authenticate, watch_tokens_file
from i2ii_spool.server.errors import SERVER_NAME, errors_as_json
from i2ii_spool.server.limits import LIMITS, Limits
from i2ii_spool.server.routes import jobs, results, system
from i2ii_spool.server.routing import Route, add_routes
from i2ii_spool.server.state import (
    COUNTS,
    QUEUE,
    SETTINGS,
    SPOOL,
    WAITERS,
    WORKERS,
    Cached,
    CompletionWaiters,
    CurrentSettings,
)
from i2ii_spool.server.upload import FORM_FIELDS
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import list_workers
from i2ii_spool.spool.lookup import count, queued_ids
from i2ii_spool.spool.maintenance import Maintenance
from i2ii_spool.spool.watch import Watcher

ROUTES = [
    Route("POST", "/edit", jobs.edit, form_fields=FORM_FIELDS),
    Route("GET", "/status/{id}", jobs.status, parameters=("wait",)),
    Route("GET", "/result/{id}", results.result, parameters=("n", "wait")),
    Route("GET", "/jobs", jobs.list_all, parameters=("state", "limit", "after")),
    Route("DELETE", "/jobs/{id}", jobs.delete),
    Route("POST", "/jobs/{id}/retry", jobs.retry),
    Route("GET", "/system/status", system.status),
    Route("GET", "/health", system.health),
    Route("GET", "/livez", system.livez),
]
QUEUE_AGE_SECONDS = 0.05
WORKERS_AGE_SECONDS = 0.5
COUNTS_AGE_SECONDS = 0.5
THREADS = 16
"""They wait for the disk, not for a core: this many uploads can be made durable at once."""


def create_app(settings: Settings) -> web.Application:
    """Return the application. It creates its spool when it starts."""
    app = web.Application(middlewares=[errors_as_json, authenticate])
    app[SETTINGS] = CurrentSettings(settings)
    app[SPOOL] = Spool(settings.spool)
    app[AUTH] = TokenAuth(settings)
    app[LIMITS] = Limits()
    add_routes(app, ROUTES)
    app.cleanup_ctx.extend([run_threads, run_spool, watch_tokens_file])
    app.on_shutdown.append(answer_long_polls)
    app.on_response_prepare.append(hide_aiohttp_version)
    return app


async def run_threads(_app: web.Application) -> AsyncIterator[None]:
    """Give the event loop its threads."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="disk")
    asyncio.get_running_loop().set_default_executor(pool)
    yield


async def run_spool(app: web.Application) -> AsyncIterator[None]:
    """Create the spool; read it, watch it and maintain it while the application runs."""
    spool, settings = app[SPOOL], app[SETTINGS].settings
    await asyncio.to_thread(spool.create)
    app[QUEUE] = Cached(partial(queued_ids, spool), age=QUEUE_AGE_SECONDS)
    read_workers = partial(list_workers, spool, lease=settings.lease_seconds)
    app[WORKERS] = Cached(read_workers, age=WORKERS_AGE_SECONDS)
    app[COUNTS] = Cached(partial(count, spool), age=COUNTS_AGE_SECONDS)
    app[WAITERS] = CompletionWaiters()
    with Watcher([spool.done, spool.failed], app[WAITERS].arrived), Maintenance(spool, settings):
        yield


async def answer_long_polls(app: web.Application) -> None:
    """On shutdown, answer long polls at once. Clients poll again and reach the next server."""
    app[WAITERS].close()


async def hide_aiohttp_version(_request: web.Request, response: web.StreamResponse) -> None:
    """Do not advertise aiohttp and its version."""
    response.headers[hdrs.SERVER] = SERVER_NAME
