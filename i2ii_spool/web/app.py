"""The HTTP server: it turns requests into job folders and job folders into answers, and keeps nothing itself."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from i2ii_spool.errors import SettingsError
from i2ii_spool.notify import notify
from i2ii_spool.settings import Settings
from i2ii_spool.spool.housekeeping import Housekeeper
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.wake import Watcher
from i2ii_spool.web import jobs, system
from i2ii_spool.web.errors import errors_as_json
from i2ii_spool.web.views import ENDINGS, SETTINGS, SPOOL, VIEW, Endings, View

log = logging.getLogger(__name__)

# Threads wait for the disk, not for a core: as many as there are uploads that should be made durable at once.
THREADS = 16


def create_app(settings: Settings) -> web.Application:
    """Return the application. Its spool is made when it starts."""
    app = web.Application(middlewares=[errors_as_json])
    app[SETTINGS] = settings
    app[SPOOL] = Spool(settings.spool)
    app.add_routes([*jobs.routes, *system.routes])
    app.cleanup_ctx.extend([_threads, _spool])
    return app


async def _threads(_app: web.Application) -> AsyncIterator[None]:
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="disk")
    asyncio.get_running_loop().set_default_executor(pool)
    yield


async def _spool(app: web.Application) -> AsyncIterator[None]:
    spool = app[SPOOL]
    await asyncio.to_thread(spool.create)
    app[VIEW] = View(spool, app[SETTINGS])
    app[ENDINGS] = Endings()
    with Watcher([spool.done, spool.failed], app[ENDINGS].arrived), Housekeeper(spool, app[SETTINGS]):
        yield


def serve(settings: Settings) -> None:
    """Listen until a signal comes; requests that are under way are answered."""
    listener = _listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]

    async def announce(_app: web.Application) -> None:
        notify(READY=1)
        log.info("listening on http://%s:%d, spool %s", f"[{host}]" if ":" in host else host, port, settings.spool)

    app = create_app(settings)
    app.on_startup.append(announce)
    web.run_app(app, sock=listener, print=None, access_log=None, shutdown_timeout=10)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port", field="port"
        ) from error
