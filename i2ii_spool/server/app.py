"""The HTTP server: it turns requests into job folders and job folders into answers, and keeps
nothing itself."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import hdrs, web

from i2ii_spool.server.auth.middleware import AUTH, TokenAuth, authenticate, watch_tokens_file
from i2ii_spool.server.errors import SERVER_NAME, errors_as_json
from i2ii_spool.server.limits import LIMITS, Limits
from i2ii_spool.server.routes import jobs, results, system
from i2ii_spool.server.state import (
    SETTINGS,
    SNAPSHOT,
    SPOOL,
    WAITERS,
    CompletionWaiters,
    CurrentSettings,
    SpoolSnapshot,
)
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.maintenance import Maintenance
from i2ii_spool.spool.watch import Watcher

# Threads wait for the disk, not for a core: as many as there are uploads that should be made
# durable at once.
THREADS = 16


def create_app(settings: Settings) -> web.Application:
    """Return the application. Its spool is made when it starts."""
    app = web.Application(middlewares=[errors_as_json, authenticate])
    app[SETTINGS] = CurrentSettings(settings)
    app[SPOOL] = Spool(settings.spool)
    app[AUTH] = TokenAuth(settings)
    app[LIMITS] = Limits()
    app.add_routes([*jobs.routes, *results.routes, *system.routes])
    app.cleanup_ctx.extend([_threads, _spool, watch_tokens_file])
    app.on_shutdown.append(_answer_those_who_wait)
    app.on_response_prepare.append(_name_ourselves)
    return app


async def _name_ourselves(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = (
        SERVER_NAME  # and not, as aiohttp does, whose bugs of which version we have
    )


async def _threads(_app: web.Application) -> AsyncIterator[None]:
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="disk")
    asyncio.get_running_loop().set_default_executor(pool)
    yield


async def _spool(app: web.Application) -> AsyncIterator[None]:
    spool, settings = app[SPOOL], app[SETTINGS].settings
    await asyncio.to_thread(spool.create)
    app[SNAPSHOT] = SpoolSnapshot(spool, settings)
    app[WAITERS] = CompletionWaiters()
    with Watcher([spool.done, spool.failed], app[WAITERS].arrived), Maintenance(spool, settings):
        yield


async def _answer_those_who_wait(app: web.Application) -> None:
    """A long poll must not hold up the end of this server; the next one goes on with it."""
    app[WAITERS].close()
