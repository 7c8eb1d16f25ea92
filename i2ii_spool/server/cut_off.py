"""How an answer ends that has begun and cannot be ended: so that no client takes it for whole."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from i2ii_spool.errors import I2iiError


@asynccontextmanager
async def cut_off_if_it_fails(
    request: web.Request, response: web.StreamResponse
) -> AsyncIterator[None]:
    """Close the connection if an answer that has begun cannot be ended: it would look whole."""
    try:
        yield
    except Exception as error:
        if not response.prepared:
            raise
        if request.transport is not None:
            _reset(request.transport)
        if not isinstance(error, ConnectionError | I2iiError):  # gone, or a job that failed
            raise


def _reset(transport: asyncio.Transport) -> None:
    """Close a connection of TCP by a reset. In HTTP/1.0, which nginx asks for by default, the end
    of the connection would be that of the answer. A Unix socket knows no reset."""
    connected = transport.get_extra_info("socket")
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
