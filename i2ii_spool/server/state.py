"""What the handlers share: the settings in force, and what was read from the spool a moment ago."""

import asyncio
import bisect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import web

from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerView, list_workers
from i2ii_spool.spool.lookup import queued_ids

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


@dataclass(frozen=True)
class QueueSnapshot:
    """The waiting jobs and the workers, as they were a moment ago."""

    ids: list[str]
    """The ids of the waiting jobs, in queue order."""
    workers: list[WorkerView]
    """All workers that have a status file."""

    @classmethod
    def read(cls, spool: Spool, *, lease: float) -> "QueueSnapshot":
        """Read both from the spool. `lease` is in seconds."""
        return cls(queued_ids(spool), list_workers(spool, lease=lease))

    def insert(self, id: str) -> int:
        """Add a job that was submitted since the queue was read. Return its position, 1 for the
        next job to be claimed."""
        index = bisect.bisect_left(self.ids, id)
        if self.ids[index : index + 1] != [id]:
            self.ids.insert(index, id)
        return index + 1

    def seconds_between_completions(self) -> float | None:
        """The mean seconds between two completions while all ready workers work.

        None until a worker has completed a job.
        """
        means = [worker.status.mean_job_seconds for worker in self.workers if worker.ready]
        rates = [1 / mean for mean in means if mean]
        return 1 / sum(rates) if rates else None


QUEUE = web.AppKey("queue", Cached[QueueSnapshot])
COUNTS = web.AppKey("counts", Cached[dict[State, int]])


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
