"""Where a page of `/jobs` ends, for a client that may not see all jobs: sealed, so that it tells
nothing of the job of another there."""

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode

from aiohttp import web

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.ids import check_id, is_id

_MAC_BYTES = 16


class Cursors:
    """Seals ids with a key of this process, and opens them."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def seal(self, id: str) -> str:
        """Return a cursor for the place behind the job `id`."""
        mac = self._mac(id.encode())
        return urlsafe_b64encode(mac + self._masked(mac, id.encode())).decode().rstrip("=")

    def open(self, cursor: str) -> str:
        """Return the id in a cursor, or an id as it is. Raises `InvalidRequest`."""
        if is_id(cursor):
            return check_id(cursor)
        try:
            sealed = urlsafe_b64decode(cursor.encode() + b"==")
        except ValueError:
            sealed = b""
        mac = sealed[:_MAC_BYTES]
        id = self._masked(mac, sealed[_MAC_BYTES:])
        if not hmac.compare_digest(mac, self._mac(id)):
            raise InvalidRequest(
                "after is neither the id of a job nor a `next` of this server, which may have "
                "started anew: begin with the first page",
                field="after",
            )
        return id.decode()

    def _mac(self, id: bytes) -> bytes:
        return hmac.digest(self._key, id, "sha256")[:_MAC_BYTES]

    def _masked(self, mac: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_256(self._key + mac).digest(len(data))
        return bytes(a ^ b for a, b in zip(data, stream, strict=True))


CURSORS = web.AppKey("cursors", Cursors)
