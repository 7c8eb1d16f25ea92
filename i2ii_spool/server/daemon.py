"""The server as a daemon: its socket, its connections, its signals, and what systemd hears of it."""

import asyncio
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

from aiohttp import web

from i2ii_spool.errors import SettingsError
from i2ii_spool.host.systemd import listen_socket, notify_reloading, sd_notify, watchdog_interval
from i2ii_spool.server.app import create_app
from i2ii_spool.server.connection import Connection
from i2ii_spool.server.state import SETTINGS, CurrentSettings
from i2ii_spool.settings import AUTH_CURE, Settings, about

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 1.0
"""Seconds for which a server that stops waits for the first word of a new connection."""
BACKLOG = 1024


def serve(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Listen until a signal comes; requests that are under way are answered. SIGHUP takes the
    limits of `reload()`."""
    listener = _listener(settings)
    asyncio.run(_serve(create_app(settings), listener, settings, reload))


async def _serve(
    app: web.Application,
    listener: socket.socket,
    settings: Settings,
    reload: Callable[[], Settings],
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, partial(_reload, app[SETTINGS], reload))
    app.cleanup_ctx.append(_watchdog)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None
    try:
        _raise_limit_of_files()
        guarded = partial(
            Connection, runner.server, loop=loop, max_connections=settings.max_connections
        )
        server = await loop.create_server(guarded, sock=listener, backlog=BACKLOG)
        sd_notify(READY=1, STATUS=f"listening on {_address(listener)}")
        log.info("listening on %s, spool %s", _address(listener), settings.spool)
        await stopped.wait()
        server.close()
        await _drain_new_connections(runner.server)
    finally:
        await runner.cleanup()


async def _drain_new_connections(server: web.Server) -> None:
    """Wait for the requests of those who have just connected: to be closed unheard is what they
    cannot explain."""
    for _ in range(round(FIRST_REQUEST_SECONDS / 0.05)):
        await asyncio.sleep(
            0.05
        )  # the first time for connections that are accepted, and not made yet
        if not any(
            isinstance(each, Connection) and each.awaits_first_request
            for each in server.connections
        ):
            break


def _raise_limit_of_files() -> None:
    """Each connection takes a descriptor, each upload one more: have as many as this process may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # what is forbidden here must do as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reload(live: CurrentSettings, reload: Callable[[], Settings]) -> None:
    notify_reloading()
    try:
        new = reload()
    except SettingsError as error:
        log.error("the settings stay as they were: %s", error)
    else:
        changed = {name: value for name, value in new if value != getattr(live.settings, name)}
        for name, value in changed.items():
            log.info(
                "%s is now %s%s", name, value, "" if about(name).reloadable else ", after a restart"
            )
        live.settings = live.settings.model_copy(
            update={name: value for name, value in changed.items() if about(name).reloadable}
        )
        log.info("settings read again")
    sd_notify(READY=1)


async def _watchdog(_app: web.Application) -> AsyncIterator[None]:
    """Show systemd that the event loop turns: a server that hangs is started again."""
    task = asyncio.create_task(_feed(interval)) if (interval := watchdog_interval()) else None
    yield
    sd_notify(STOPPING=1)
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _feed(interval: float) -> None:
    while True:
        sd_notify(WATCHDOG=1)
        await asyncio.sleep(interval)


def _listener(settings: Settings) -> socket.socket:
    listener = listen_socket()
    if listener is None:
        return _listen(settings.host, settings.port)
    if not settings.no_auth and not settings.auth_required and not _is_local(listener):
        raise SettingsError(
            f"the socket unit listens on {_address(listener)}, where anybody could submit: {AUTH_CURE}",
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
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port",
            field="port",
        ) from error
