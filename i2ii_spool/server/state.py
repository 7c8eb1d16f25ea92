"""What the handlers share: the settings in force, and what was read from the spool a moment ago."""

import asyncio
import bisect
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import web

from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import Room
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerView, seconds_between_completions

Answer = TypeVar("Answer")


@dataclass
class CurrentSettings:
    """The settings in force. A reload replaces them."""

    settings: Settings


SETTINGS = web.AppKey("settings", CurrentSettings)
SPOOL = web.AppKey("spool", Spool)


LATER_SECONDS = 0.1


class Cached(Generic[Answer]):
    """The answer of a slow function, which runs in a thread.

    An answer is used for `age` seconds. If the function is slow, its answer is used for longer, so
    that the calls take at most 2 % of the time.
    """

    def __init__(self, read: Callable[[], Answer], *, age: float) -> None:
        self._read = read
        self._age = age
        self._lock = asyncio.Lock()
        self.read_at = 0.0
        """When the reading of the answer began, on the monotonic clock."""
        self._stale_at = 0.0
        self._took = 0.0
        self._answer: Answer | None = None
        self._reading: asyncio.Task[Answer] | None = None

    async def get(self, *, fresh: bool = False) -> Answer:
        """Return an answer that is recent enough, or `fresh`. All callers share the one object."""
        async with self._lock:
            started = time.monotonic()
            if fresh or self._answer is None or started >= self._stale_at:
                self._answer = await asyncio.to_thread(self._read)
                self.read_at = started
                now = time.monotonic()
                self._took = now - started
                self._stale_at = now + max(self._age, 50 * self._took)
            return self._answer

    async def get_at_once(self, seconds: float) -> Answer:
        """Return an answer as `get` does if the last reading took at most so long; else the last
        answer. It is then read again a moment later, not to compete with the caller."""
        if self._answer is None or self._took <= seconds:
            return await self.get()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._get_later())
            self._reading.add_done_callback(_take_error)
        return self._answer

    async def _get_later(self) -> Answer:
        await asyncio.sleep(LATER_SECONDS)
        return await self.get()


def _take_error(reading: asyncio.Task[Answer]) -> None:
    """Keep asyncio from reporting an error that no request waits for: the next reading raises it
    again."""
    if not reading.cancelled():
        reading.exception()


DISK_THREADS = web.AppKey("disk_threads", ThreadPoolExecutor)
"""They write uploads and make jobs durable. The default executor of the event loop is for answers,
which no upload delays."""
ROOM = web.AppKey("room", Cached[Room])
"""The room that is left on the disk."""
QUEUE = web.AppKey("queue", Cached[list[str]])
"""The ids of the waiting jobs, in queue order."""
WORKERS = web.AppKey("workers", Cached[list[WorkerView]])
"""All workers that have a status file."""
COUNTS = web.AppKey("counts", Cached[dict[State, int]])
"""How many jobs are in each state."""


def insert(queue: list[str], id: str) -> int:
    """Add a job that was submitted since the queue was read.

    Return its position, 1 for the next job to be claimed.
    """
    index = bisect.bisect_left(queue, id)
    if queue[index : index + 1] != [id]:
        queue.insert(index, id)
    return index + 1


def eta_seconds(position: int, workers: Sequence[WorkerView]) -> float | None:
    """Seconds until the job at this position has ended; None until a worker has completed one."""
    pace = seconds_between_completions(workers)
    return None if pace is None else round(position * pace, 1)
