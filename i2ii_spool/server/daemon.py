"""The server as a process.

    run
      startup      listen, start the application and the watchdog; READY=1
      main loop    serve; reload the settings on SIGHUP; stop on SIGTERM or SIGINT
      shutdown     STOPPING=1; accept no more, answer the requests that are under way

A signal only sets a flag, which the main loop reads.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from ipaddress import ip_address

from aiohttp import web

from i2ii_spool.errors import SettingsError
from i2ii_spool.host.systemd import listen_socket, notify_reloading, sd_notify, watchdog_interval
from i2ii_spool.server.app import create_app
from i2ii_spool.server.connection import Connection
from i2ii_spool.server.connections import Connections
from i2ii_spool.server.metrics import METRICS
from i2ii_spool.server.state import SETTINGS
from i2ii_spool.settings import AUTH_CURE, Settings, about

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 1.0
"""Seconds that a stopping server waits for the first byte of a connection just accepted."""
BACKLOG = 1024


class Server:
    """The HTTP server of a spool. `reload` returns the settings, read again."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self._settings = settings
        self._read_settings = reload
        self._app = create_app(settings)
        self._signalled = asyncio.Event()
        self._is_stopping = False
        self._must_reload = False

    def run(self) -> None:
        """Serve until a signal comes. Raises `SettingsError` if it cannot listen."""
        self._listener = open_listener(self._settings)
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            await self._startup(stack)
            await self._main_loop()
            await self._shutdown()

    async def _startup(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        interval = watchdog_interval()
        if interval is not None:
            stack.callback(asyncio.create_task(feed_watchdog(interval)).cancel)
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        assert runner.server is not None
        self._connected = connected = runner.server
        self._app[METRICS].count_connections = lambda: len(connected.connections)
        self._server = await self._accept_connections()
        address = url_of(self._listener)
        sd_notify(READY=1, STATUS=f"listening on {address}")
        if self._listener.family != socket.AF_UNIX:
            log.info("the page is %s/", reachable(address))
        log.info("listening on %s, spool %s", address, self._settings.spool)

    async def _accept_connections(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        # A connection takes up to three files: its own, and those of the picture that it sends or
        # fetches. A quarter is left to those that are being accepted, and to everything else.
        fitting = max_open_files() // 4
        most = min(self._settings.max_connections, fitting)
        if most < self._settings.max_connections:
            log.warning("at most %d connections: only %d files may be open", most, 4 * fitting)
        connect = partial(
            Connection,
            self._connected,
            loop=loop,
            connections=Connections(most),
            trusted=self._settings.trusted_networks,
        )
        return await loop.create_server(connect, sock=self._listener, backlog=min(BACKLOG, fitting))

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._must_reload = True
        else:
            self._is_stopping = True
        self._signalled.set()

    async def _main_loop(self) -> None:
        while not self._is_stopping:
            await self._signalled.wait()
            self._signalled.clear()
            if self._must_reload:
                self._must_reload = False
                self._reload()

    def _reload(self) -> None:
        """Put the reloadable settings into force. If one is wrong, all stay as they were."""
        notify_reloading()
        current = self._app[SETTINGS]
        try:
            new = self._read_settings()
        except SettingsError as error:
            log.error("the settings stay as they were: %s", error)
        else:
            changed = {
                name: value for name, value in new if value != getattr(current.settings, name)
            }
            for name, value in changed.items():
                when = "" if about(name).reloadable else ", after a restart"
                log.info("%s is now %s%s", name, value, when)
            current.settings = current.settings.model_copy(
                update={name: value for name, value in changed.items() if about(name).reloadable}
            )
            log.info("settings read again")
        sd_notify(READY=1)

    async def _shutdown(self) -> None:
        """Stop listening. Give connections accepted just before one second to send a request, so
        that they do not see a reset."""
        sd_notify(STOPPING=1)
        self._server.close()
        for _ in range(round(FIRST_REQUEST_SECONDS / 0.05)):
            await asyncio.sleep(0.05)  # first, for connections that asyncio is about to make
            if not any(
                isinstance(each, Connection) and each.awaits_first_request
                for each in self._connected.connections
            ):
                break


async def feed_watchdog(interval: float) -> None:
    """Tell systemd every `interval` seconds that the event loop runs: it restarts a hung server."""
    while True:
        sd_notify(WATCHDOG=1)
        await asyncio.sleep(interval)


def max_open_files() -> int:
    """Raise the soft limit of open files to the hard one; return the limit."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where that is forbidden, the soft limit has to do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def open_listener(settings: Settings) -> socket.socket:
    """Return a listening socket: systemd's if it passes one, else a new one.

    Raises `SettingsError` if the address is taken, or is reachable from other hosts without tokens.
    """
    listener = listen_socket()
    if listener is None:
        return listen(settings.host, settings.port)
    is_local = (
        listener.family == socket.AF_UNIX or ip_address(listener.getsockname()[0]).is_loopback
    )
    if not (settings.no_auth or settings.auth_required or is_local):
        raise SettingsError(
            f"the socket unit listens on {url_of(listener)}, where anyone can submit: {AUTH_CURE}",
            field="host",
        )
    return listener


def listen(host: str, port: int) -> socket.socket:
    """Return a new socket that listens there. Raises `SettingsError` if that is not possible."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SettingsError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port",
            field="port",
        ) from error


def reachable(url: str) -> str:
    """Return the URL by which this machine reaches a server that listens at `url`."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket, or the path of a Unix socket."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return str(name)
    host, port = name[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
