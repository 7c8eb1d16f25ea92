"""What the handlers share: the settings in force, and what was read from the spool a moment ago."""

import asyncio
import bisect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import web

from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerView, seconds_between_completions

Answer = TypeVar("Answer")


@dataclass
class CurrentSettings:
    """The settings in force. A reload replaces them."""

    settings: Settings


SETTINGS = web.AppKey("settings", CurrentSettings)
SPOOL = web.AppKey("spool", Spool)


class Cached(Generic[Answer]):
    """The answer of a slow function, which runs in a thread.

    An answer is used for `age` seconds. If the function is slow, its answer is used for longer, so
    that the calls take at most 2 % of the time.
    """

    def __init__(self, read: Callable[[], Answer], *, age: float) -> None:
        self._read = read
        self._age = age
        self._lock = asyncio.Lock()
        self._stale_at = 0.0
        self._answer: Answer | None = None

    async def get(self) -> Answer:
        """Return an answer that is recent enough. All callers share the one object."""
        async with self._lock:
            started = time.monotonic()
            if self._answer is None or started >= self._stale_at:
                self._answer = await asyncio.to_thread(self._read)
                now = time.monotonic()
                self._stale_at = now + max(self._age, 50 * (now - started))
            return self._answer


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


class CompletionWaiters:
    """Wakes the handlers that wait for a job to end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def arrived(self, id: str) -> None:
        """Wake the waiters of a job that appeared in `done/` or `failed/`. Any thread may call
        this."""
        self._loop.call_soon_threadsafe(self._wake, id)

    def close(self) -> None:
        """Wake all waiters; from now on no handler may wait."""
        self.closed = True
        for id in list(self._waiting):
            self._wake(id)

    def _wake(self, id: str) -> None:
        for event in self._waiting.get(id, ()):
            event.set()

    @contextmanager
    def awaited(self, id: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set when the job ends."""
        event = asyncio.Event()
        events = self._waiting.setdefault(id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._waiting.pop(id, None)


WAITERS = web.AppKey("waiters", CompletionWaiters)
