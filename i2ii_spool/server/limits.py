"""Limits of uploads: how many a client has, how many bytes and how slow, and the disk for all."""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from aiohttp import StreamReader, web

from i2ii_spool.errors import DiskFull, TooLarge, TooManyRequests
from i2ii_spool.server.state import Cached
from i2ii_spool.settings import MIB, Settings
from i2ii_spool.spool.capacity import Room, check_room

SLOW_UPLOAD_GRACE_SECONDS = 30.0
MIN_UPLOAD_RATE = 4096
"""Minimum average upload rate in bytes/s, enforced after `SLOW_UPLOAD_GRACE_SECONDS`."""
RESCHEDULE_BYTES = 2**16
MAX_IDLE_BUCKETS = 10_000


@dataclass
class Bucket:
    """The submits that a client has left, as of `at` on the monotonic clock."""

    left: float
    at: float


class Limits:
    """Counts the uploads and the submits of each client, and the bytes that all uploads need."""

    def __init__(self) -> None:
        self._expected = 0
        self._ended: deque[tuple[float, int]] = deque()
        self._uploading: Counter[str] = Counter()
        self._buckets: dict[str, Bucket] = {}

    @contextmanager
    def upload_slot(self, client: str, settings: Settings) -> Iterator[None]:
        """Count one upload of this client while it lasts. Raises `TooManyRequests`."""
        if self._uploading[client] >= settings.client_max_uploads:
            raise TooManyRequests(
                f"{client} has {settings.client_max_uploads} uploads in progress, the limit; "
                "try again in 1 s",
                retry_after=1,
            )
        if settings.client_submits_per_minute is not None:
            self._take_submit(client, settings.client_submits_per_minute)
        self._uploading[client] += 1
        try:
            yield
        finally:
            self._uploading[client] -= 1
            if not self._uploading[client]:
                del self._uploading[client]

    @asynccontextmanager
    async def disk_space(
        self, room: Cached[Room], expected: int, *, min_free: int
    ) -> AsyncIterator[None]:
        """Count the bytes that an upload may write. Raises `DiskFull`.

        They count until the disk is read after the upload has ended. Bytes that are written already
        count twice meanwhile: rather refuse an upload too early.
        """
        try:
            await self._check_room(room, expected, min_free)
        except DiskFull:  # a moment ago
            await self._check_room(room, expected, min_free, fresh=True)
        self._expected += expected
        try:
            yield
        finally:
            self._ended.append((time.monotonic(), expected))

    async def _check_room(
        self, room: Cached[Room], expected: int, min_free: int, *, fresh: bool = False
    ) -> None:
        free = await room.get(fresh=fresh)
        while self._ended and self._ended[0][0] < room.read_at:
            self._expected -= self._ended.popleft()[1]
        check_room(free, min_free=min_free, expected=self._expected + expected)

    def _take_submit(self, client: str, a_minute: float) -> None:
        """Take one submit from the client's bucket. An idle client may send a minute's submits at
        once. Raises `TooManyRequests`."""
        now = time.monotonic()
        if len(self._buckets) > MAX_IDLE_BUCKETS:
            self._buckets = {
                name: bucket for name, bucket in self._buckets.items() if now - bucket.at < 60
            }
        bucket = self._buckets.setdefault(client, Bucket(a_minute, now))
        bucket.left = min(a_minute, bucket.left + (now - bucket.at) * a_minute / 60)
        bucket.at = now
        if bucket.left < 1:
            wait = math.ceil((1 - bucket.left) * 60 / a_minute)
            raise TooManyRequests(
                f"{client} may submit {a_minute:g} jobs a minute; try again in {wait} s",
                retry_after=wait,
            )
        bucket.left -= 1


LIMITS = web.AppKey("limits", Limits)


class LimitedReader:
    """A request's body, limited in size and in slowness.

    Read it within the `asyncio.timeout` that is its `deadline`: it extends that as bytes arrive.
    Raises `TooLarge`.
    """

    def __init__(self, content: StreamReader, max_bytes: int, deadline: asyncio.Timeout) -> None:
        self._content = content
        self._max_bytes = max_bytes
        self._deadline = deadline
        self._ends_at = asyncio.get_running_loop().time() + SLOW_UPLOAD_GRACE_SECONDS
        self._bytes = 0
        self._extended_at = 0
        deadline.reschedule(self._ends_at)

    async def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; none at the end."""
        return self._count(await self._content.read(size))

    def _count(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        if self._bytes > self._max_bytes:
            raise too_large("more", self._max_bytes)
        if self._bytes >= self._extended_at + RESCHEDULE_BYTES:
            self._deadline.reschedule(self._ends_at + self._bytes / MIN_UPLOAD_RATE)
            self._extended_at = self._bytes
        return chunk


def too_large(got: str, max_bytes: int) -> TooLarge:
    """Return the error for a body that has `got` (`70000000 bytes`, or `more`)."""
    limit = f"{round(max_bytes / MIB, 3):g} MiB"
    return TooLarge(
        f"the body has {got}; at most {limit} are accepted: send smaller pictures", field="image"
    )
