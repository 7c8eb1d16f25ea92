"""How much one client may ask for: uploads at a time, submits a minute, bytes, and how slowly they
may come."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import StreamReader, web

from i2ii_spool.errors import TooLarge, TooManyRequests, TooSlow
from i2ii_spool.settings import Settings

SLOW_UPLOAD_GRACE_SECONDS = 30.0
MIN_UPLOAD_RATE = 4096
"""A body must come at so many bytes a second, on the whole, after `SLOW_UPLOAD_GRACE_SECONDS`
seconds that it has for free."""
RESCHEDULE_BYTES = 2**16


@dataclass
class Bucket:
    """What a client may still submit, as of a moment on the monotonic clock."""

    left: float
    at: float


class Limits:
    """Counts what each client does."""

    def __init__(self) -> None:
        self._uploading: Counter[str] = Counter()
        self._buckets: dict[str, Bucket] = {}

    @contextmanager
    def upload_slot(self, client: str, settings: Settings) -> Iterator[None]:
        """One upload of this client, while it is under way. Raises `TooManyRequests`."""
        if self._uploading[client] >= settings.client_max_uploads:
            raise TooManyRequests(
                f"{client} makes {settings.client_max_uploads} uploads already, and no more at a time; try again in 1 s",
                retry_after=1,
            )
        self._take(client, settings.client_submits_per_minute)
        self._uploading[client] += 1
        try:
            yield
        finally:
            self._uploading[client] -= 1
            if not self._uploading[client]:
                del self._uploading[client]

    def _take(self, client: str, a_minute: float | None) -> None:
        """Count one submit. A client that has been still may make a minute's at once."""
        if a_minute is None:
            return
        now = time.monotonic()
        self._forget_idle_clients(now)
        bucket = self._buckets.setdefault(client, Bucket(a_minute, now))
        bucket.left = min(a_minute, bucket.left + (now - bucket.at) * a_minute / 60)
        bucket.at = now
        if bucket.left < 1:
            wait = math.ceil((1 - bucket.left) * 60 / a_minute)
            raise TooManyRequests(
                f"{client} may make {a_minute:g} submits a minute; try again in {wait} s",
                retry_after=wait,
            )
        bucket.left -= 1

    def _forget_idle_clients(self, now: float) -> None:
        if len(self._buckets) > 10_000:
            self._buckets = {
                client: bucket for client, bucket in self._buckets.items() if now - bucket.at < 60
            }


LIMITS = web.AppKey("limits", Limits)


class LimitedReader:
    """A request's body, as `aiohttp.MultipartReader` reads it, that may be only so long, and must
    not come too slowly.

    It is read within an `asyncio.timeout`, which is put off as the bytes come. Raises `TooLarge`.
    """

    def __init__(
        self, content: StreamReader, settings: Settings, patience: asyncio.Timeout
    ) -> None:
        self._content = content
        self._settings = settings
        self._patience = patience
        self._started = asyncio.get_running_loop().time()
        self._bytes = 0
        self._put_off_at = 0
        self._put_off()

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        return self._count(await self._content.read(size))

    async def readline(self, **options: Any) -> bytes:
        """A line."""
        return self._count(await self._content.readline(**options))

    def _count(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        if self._bytes > self._settings.max_bytes:
            raise too_large("more", self._settings)
        if self._bytes >= self._put_off_at:
            self._put_off()
        return chunk

    def _put_off(self) -> None:
        self._patience.reschedule(
            self._started + SLOW_UPLOAD_GRACE_SECONDS + self._bytes / MIN_UPLOAD_RATE
        )
        self._put_off_at = self._bytes + RESCHEDULE_BYTES

    def at_eof(self) -> bool:
        """Whether there is no more."""
        return self._content.at_eof()

    def unread_data(self, data: bytes) -> None:
        """Put back what was read too far."""
        self._bytes -= len(data)
        self._content.unread_data(data)


def too_slow() -> TooSlow:
    """Why a body is no longer waited for."""
    return TooSlow(
        f"the body comes at less than {MIN_UPLOAD_RATE} bytes a second; try again over a better connection"
    )


def too_large(got: str, settings: Settings) -> TooLarge:
    """Why a body is not taken."""
    limit = f"{settings.max_upload_mib:g} MiB"
    return TooLarge(
        f"the body has {got}; at most {limit} are taken: send smaller pictures", field="image"
    )
