"""A connection with limits: on its head, on its silence, and on how long a client reads nothing.

They do not depend on those of aiohttp, which differ from version to version.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from aiohttp import EMPTY_PAYLOAD, StreamReader, web

from i2ii_spool.errors import I2iiError, MalformedHttp
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.connections import Connections, client_of
from i2ii_spool.server.errors import Handler, described, error_response, malformed_http

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 30.0
"""Seconds within which a client must have sent the whole head of a request."""
LINGER_SECONDS = 5.0
STALLED_SECONDS = 60.0
"""Seconds after which a client that reads nothing of its answer is disconnected."""
MAX_HEAD_BYTES = 2**15
MAX_BYTES_AHEAD = 2**20
"""What a client may send before its last request is answered. A request that crosses the end of
that answer arrives in reads of 256 KiB: it is no offence."""


class Connection(web.RequestHandler):
    """One client's connection. It is closed if the client stalls, or if its place is needed."""

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        connections: Connections,
        trusted: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as `web.run_app` passes it
            lingering_time=LINGER_SECONDS,
            logger=log,
        )
        self._connections = connections
        self._trusted = trusted
        self._is_serving = False
        self._body: StreamReader | None = EMPTY_PAYLOAD
        """Of the request that is served, or was served last; None before its handler runs."""
        self._bytes_ahead = 0
        """The bytes that have arrived since that request began, and are not of its body."""
        self.awaits_first_request = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection."""
        assert isinstance(transport, asyncio.Transport)
        connected: socket.socket = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_SECONDS * 1000)
            )
        client = client_of(transport.get_extra_info("peername"), self._trusted)
        self._place = self._connections.enter(client, transport.abort)
        super().connection_made(transport)
        self._await_head()

    def _await_head(self) -> None:
        self._deadline = self._loop.call_later(KEEPALIVE_SECONDS, self.force_close)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and limit what is not of a body."""
        self.awaits_first_request = False
        is_of_body = self._body is None or not self._body.is_eof()
        super().data_received(data)
        if self._messages and not self._is_serving:
            self._begin_request()
        elif not is_of_body:
            self._bytes_ahead += len(data)
            self._check_bytes_ahead()

    def _check_bytes_ahead(self) -> None:
        if self._is_serving:
            if self._bytes_ahead > MAX_BYTES_AHEAD:
                self.force_close()
        elif self._bytes_ahead > MAX_HEAD_BYTES and self.transport is not None:
            self.transport.write(head_too_long())
            self.force_close()

    def _begin_request(self) -> None:
        self._deadline.cancel()
        self._is_serving = True
        self._body = None
        self._bytes_ahead = 0
        self._connections.begin_request(self._place)

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """Answer a request; then wait for the head of the next."""
        if not self._is_serving:  # it was pipelined
            self._begin_request()
        self._body = request.content
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._is_serving = False
            if self._connections.is_spare(self._place):
                self.close()
            self._connections.end_request(self._place)
            if self.transport is not None:
                self._await_head()

    def keep(self) -> None:
        """Keep the connection, for its request is authenticated. Raises `TooManyConnections`."""
        self._connections.keep(self._place)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give up the place."""
        self._deadline.cancel()
        self._connections.leave(self._place)
        super().connection_lost(exc)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log a bug. That a client's body cannot be decoded is none, and the client is told."""
        # Once a request is answered, aiohttp reads on, and fails when this closes the connection.
        is_closed = self.transport is None and not self._is_serving
        if not is_closed and not isinstance(options.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer malformed HTTP, and a bug of the server, in the one shape of all errors."""
        if exc is None or status < 500:
            return malformed_http(status, message)
        super().handle_error(request, status, exc, message)  # logs it; raises in mid-answer
        response = error_response(I2iiError("internal server error; see the server log"))
        response.force_close()
        return response


@web.middleware
async def keep_connection(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep the connection of an authenticated request. Probes, which are not, get their answer."""
    if CALLER in request and isinstance(request.protocol, Connection):
        request.protocol.keep()
    return await handler(request)


def head_too_long() -> bytes:
    """Return the whole answer to a head that has not ended yet: there is no request to answer."""
    limit = f"its head may have {MAX_HEAD_BYTES} bytes; send fewer or shorter headers"
    error = MalformedHttp(f"malformed HTTP request: {limit}")
    body = json.dumps({"error": described(error)}).encode()
    head = (
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
