"""What the server knows of the spool: read from it now and then, never remembered as the truth."""

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
from i2ii_spool.spool.lookup import count, queued_ids

Answer = TypeVar("Answer")


@dataclass
class CurrentSettings:
    """The settings in force: a reload replaces them."""

    settings: Settings


SETTINGS = web.AppKey("live", CurrentSettings)
SPOOL = web.AppKey("spool", Spool)


class Cached(Generic[Answer]):
    """The answer of a slow question, asked in a thread: again when it is `age` seconds old, or
    where asking takes long, so rarely that it costs two per cent of the time."""

    def __init__(self, question: Callable[[], Answer], *, age: float) -> None:
        self._question = question
        self._age = age
        self._lock = asyncio.Lock()
        self._stale_at = 0.0
        self._answer: Answer | None = None

    async def get(self) -> Answer:
        """Return an answer that is fresh enough."""
        async with self._lock:
            started = time.monotonic()
            if self._answer is None or started >= self._stale_at:
                self._answer = await asyncio.to_thread(self._question)
                self._stale_at = time.monotonic() + max(
                    self._age, 50 * (time.monotonic() - started)
                )
            return self._answer


class SpoolSnapshot:
    """The queue, the counts and the workers, as they were a moment ago."""

    def __init__(self, spool: Spool, settings: Settings) -> None:
        self._queue = Cached(lambda: queued_ids(spool), age=0.05)
        self._counts = Cached(lambda: count(spool), age=0.5)
        self._workers = Cached(lambda: list_workers(spool, lease=settings.lease_seconds), age=0.5)

    async def queue(self) -> list[str]:
        """The waiting ids, in order."""
        return await self._queue.get()

    async def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return await self._counts.get()

    async def workers(self) -> list[WorkerView]:
        """All workers that have a status file."""
        return await self._workers.get()

    async def submitted(self, id: str, before: dict[State, int]) -> int:
        """Take note of a job that was published after `before` was counted; return its position, 1
        for the next."""
        before[State.INCOMING] += 1
        queue = await self.queue()
        index = bisect.bisect_left(queue, id)
        if queue[index : index + 1] != [id]:
            queue.insert(index, id)
        return index + 1

    async def seconds_between_completions(self) -> float | None:
        """How often a job ends while all workers work: the seconds between two; None while nobody
        can know."""
        paces = [worker.status.mean_job_seconds for worker in await self.workers() if worker.ready]
        rates = [1 / pace for pace in paces if pace]
        return 1 / sum(rates) if rates else None


SNAPSHOT = web.AppKey("view", SpoolSnapshot)


class CompletionWaiters:
    """Wakes whoever waits for a job to end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def arrived(self, id: str) -> None:
        """A job has appeared in `done/` or `failed/`. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._wake, id)

    def close(self) -> None:
        """Wake everybody: nobody shall wait any more."""
        self.closed = True
        for id in list(self._waiting):
            self._wake(id)

    def _wake(self, id: str) -> None:
        for event in self._waiting.get(id, ()):
            event.set()

    @contextmanager
    def awaited(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the job ends."""
        event = asyncio.Event()
        events = self._waiting.setdefault(id, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._waiting.pop(id, None)


WAITERS = web.AppKey("endings", CompletionWaiters)
