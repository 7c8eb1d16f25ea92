"""The HTTP server: it turns requests into job folders and job folders into answers, and keeps nothing itself."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

from aiohttp import web

from i2ii_spool.errors import SettingsError
from i2ii_spool.notify import inherited_socket, notify, reloading, watchdog_interval
from i2ii_spool.settings import Settings
from i2ii_spool.spool.housekeeping import Housekeeper
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.wake import Watcher
from i2ii_spool.web import jobs, system
from i2ii_spool.web.errors import errors_as_json
from i2ii_spool.web.views import ENDINGS, LIVE, SPOOL, VIEW, Endings, Live, View

log = logging.getLogger(__name__)

# Threads wait for the disk, not for a core: as many as there are uploads that should be made durable at once.
THREADS = 16
GRACE = 10.0
RELOADABLE = ("max_upload_mib", "max_megapixels", "max_queue", "min_free_mib")


def create_app(settings: Settings) -> web.Application:
    """Return the application. Its spool is made when it starts."""
    app = web.Application(middlewares=[errors_as_json])
    app[LIVE] = Live(settings)
    app[SPOOL] = Spool(settings.spool)
    app.add_routes([*jobs.routes, *system.routes])
    app.cleanup_ctx.extend([_threads, _spool])
    app.on_shutdown.append(_answer_those_who_wait)
    return app


async def _threads(_app: web.Application) -> AsyncIterator[None]:
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="disk")
    asyncio.get_running_loop().set_default_executor(pool)
    yield


async def _spool(app: web.Application) -> AsyncIterator[None]:
    spool, settings = app[SPOOL], app[LIVE].settings
    await asyncio.to_thread(spool.create)
    app[VIEW] = View(spool, settings)
    app[ENDINGS] = Endings()
    with Watcher([spool.done, spool.failed], app[ENDINGS].arrived), Housekeeper(spool, settings):
        yield


async def _answer_those_who_wait(app: web.Application) -> None:
    """A long poll must not hold up the end of this server; the next one goes on with it."""
    app[ENDINGS].close()


# --- as a daemon -----------------------------------------------------------------------------------------------------


def serve(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Listen until a signal comes; requests that are under way are answered. SIGHUP takes the limits of `reload()`."""
    listener = _listener(settings)
    where = _address(listener)

    async def announce(app: web.Application) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, partial(_reload, app[LIVE], reload))
        notify(READY=1, STATUS=f"listening on {where}")
        log.info("listening on %s, spool %s", where, settings.spool)

    app = create_app(settings)
    app.on_startup.append(announce)
    app.cleanup_ctx.append(_watchdog)
    web.run_app(app, sock=listener, print=None, access_log=None, shutdown_timeout=GRACE)


def _reload(live: Live, reload: Callable[[], Settings]) -> None:
    reloading()
    try:
        new = reload()
    except SettingsError as error:
        log.error("the settings stay as they were: %s", error)
    else:
        changed = {name: value for name, value in new if value != getattr(live.settings, name)}
        for name, value in changed.items():
            log.info("%s is now %s%s", name, value, "" if name in RELOADABLE else ", after a restart")
        live.settings = live.settings.model_copy(
            update={name: value for name, value in changed.items() if name in RELOADABLE}
        )
        log.info("settings read again")
    notify(READY=1)


async def _watchdog(_app: web.Application) -> AsyncIterator[None]:
    """Show systemd that the event loop turns: a server that hangs is started again."""
    task = asyncio.create_task(_feed(interval)) if (interval := watchdog_interval()) else None
    yield
    notify(STOPPING=1)
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _feed(interval: float) -> None:
    while True:
        notify(WATCHDOG=1)
        await asyncio.sleep(interval)


# --- the socket ------------------------------------------------------------------------------------------------------


def _listener(settings: Settings) -> socket.socket:
    listener = inherited_socket()
    if listener is None:
        return _listen(settings.host, settings.port)
    if not settings.no_auth and not _is_local(listener):
        raise SettingsError(
            f"the socket unit listens on {_address(listener)}, where anybody could submit: keep to 127.0.0.1 behind a "
            "proxy that authenticates, or set I2II_NO_AUTH=true",
            field="host",
        )
    return listener


def _is_local(listener: socket.socket) -> bool:
    return listener.family == socket.AF_UNIX or ip_address(listener.getsockname()[0]).is_loopback


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return str(name)
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port", field="port"
        ) from error
