"""A connection with limits: on their number, and on how long a client may send or read nothing."""

import asyncio
import json
import logging
import socket
from typing import Any

from aiohttp import web

from i2ii_spool.errors import I2iiError, TooManyConnections
from i2ii_spool.server.errors import error_response, malformed_http

log = logging.getLogger(__name__)

KEEPALIVE_SECONDS = 30.0
"""Seconds within which a client must have sent the whole head of a request."""
LINGER_SECONDS = 5.0
STALLED_SECONDS = 60.0
"""Seconds after which a client that reads nothing of its answer is disconnected."""


class Connection(web.RequestHandler):
    """One client's connection. It is closed if there are too many, or if the client stalls."""

    def __init__(
        self, server: web.Server, *, loop: asyncio.AbstractEventLoop, max_connections: int
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # as `web.run_app` passes it
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            logger=log,
        )
        self._connected = server
        self._max_connections = max_connections
        self._is_refused = False
        self.awaits_first_request = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, or answer at once that there are too many."""
        assert isinstance(transport, asyncio.Transport)
        if len(self._connected.connections) >= self._max_connections:
            self._is_refused = True
            transport.write(refusal())
            transport.close()
            return
        connected: socket.socket = transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            connected.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED_SECONDS * 1000)
            )
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless the connection is refused."""
        self.awaits_first_request = False
        if not self._is_refused:
            super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Clean up, unless the connection is refused."""
        if not self._is_refused:
            super().connection_lost(exc)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log a bug. That a client's body cannot be decoded is none, and the client is told."""
        if not isinstance(options.get("exc_info"), web.RequestPayloadError):
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


def refusal() -> bytes:
    """Return the whole answer to one connection too many."""
    error = TooManyConnections("the server has as many connections as it may; try again")
    body = json.dumps({"error": error.to_dict()}).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Retry-After: 1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
