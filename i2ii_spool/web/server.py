"""The server as a daemon: its socket, its connections, its signals, and what systemd hears of it."""

import asyncio
import json
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
from i2ii_spool.notify import inherited_socket, notify, reloading, watchdog_interval
from i2ii_spool.settings import GUARDED, Settings
from i2ii_spool.web.app import create_app
from i2ii_spool.web.errors import broken_request
from i2ii_spool.web.views import LIVE, Live

log = logging.getLogger(__name__)

GRACE = 10.0
HEARING = 1.0
"""Seconds for which a server that stops waits for the first word of a new connection."""
BACKLOG = 1024
RELOADABLE = ("max_upload_mib", "max_megapixels", "max_queue", "min_free_mib", "client_uploads", "client_rate")

IDLE = 30.0
"""Seconds for which a connection may bring no whole request, byte by byte or not at all."""
LINGER = 5.0
STALLED = 60.0
"""Seconds after which a client that takes nothing of its answer is gone."""
BUSY = {"error": {"code": "too_many_connections", "message": "the server has as many connections as it may; try again"}}


def serve(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Listen until a signal comes; requests that are under way are answered. SIGHUP takes the limits of `reload()`."""
    listener = _listener(settings)
    asyncio.run(_serve(create_app(settings), listener, settings, reload))


async def _serve(
    app: web.Application, listener: socket.socket, settings: Settings, reload: Callable[[], Settings]
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, partial(_reload, app[LIVE], reload))
    app.cleanup_ctx.append(_watchdog)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=GRACE)
    await runner.setup()
    assert runner.server is not None
    try:
        _raise_limit_of_files()
        guarded = partial(Connection, runner.server, loop=loop, most=settings.max_connections)
        server = await loop.create_server(guarded, sock=listener, backlog=BACKLOG)
        notify(READY=1, STATUS=f"listening on {_address(listener)}")
        log.info("listening on %s, spool %s", _address(listener), settings.spool)
        await stopped.wait()
        server.close()
        await _hear_out(runner.server)
    finally:
        await runner.cleanup()


async def _hear_out(server: web.Server) -> None:
    """Wait for the requests of those who have just connected: to be closed unheard is what they cannot explain."""
    for _ in range(round(HEARING / 0.05)):
        await asyncio.sleep(0.05)  # the first time for connections that are accepted, and not made yet
        if not any(isinstance(each, Connection) and each.is_unheard for each in server.connections):
            break


class Connection(web.RequestHandler):
    """One client's connection: closed if it is one too many, if it brings nothing, or if it takes nothing."""

    def __init__(self, server: web.Server, *, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as `web.run_app` passes it
            keepalive_timeout=IDLE,
            lingering_time=LINGER,
            logger=log,
        )
        self._connected = server
        self._most = most
        self._is_refused = False
        self.is_unheard = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or answer at once that it is one too many."""
        assert isinstance(transport, asyncio.Transport)
        if len(self._connected.connections) >= self._most:
            self._is_refused = True
            transport.write(_refusal())
            transport.close()
            return
        connected: socket.socket = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED * 1000))
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self.is_unheard = False
        if not self._is_refused:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let it go."""
        if not self._is_refused:
            super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP in the one shape of all errors."""
        if exc is not None and status >= 500:
            return super().handle_error(request, status, exc, message)
        return broken_request(status, message)


def _refusal() -> bytes:
    body = json.dumps(BUSY).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Retry-After: 1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _raise_limit_of_files() -> None:
    """Each connection takes a descriptor, each upload one more: have as many as this process may."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # what is forbidden here must do as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- signals ---------------------------------------------------------------------------------------------------------


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
    if not settings.no_auth and not settings.is_guarded and not _is_local(listener):
        raise SettingsError(
            f"the socket unit listens on {_address(listener)}, where anybody could submit: {GUARDED}", field="host"
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
            f"cannot listen on {host} port {port}: {reason}; choose another with --port", field="port"
        ) from error
