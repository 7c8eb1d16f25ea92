"""Who is told next: a queue for each receiver, so that none waits for another.

A receiver is the scheme, host and port of a URL. One that does not answer gets one attempt at a
time, after pauses that grow, whatever number of messages waits for it.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from i2ii_spool.jobs.webhooks import receiver_of
from i2ii_spool.spool.webhook import Delivery
from i2ii_spool.webhooks.messages import MINUTE, Answer, Message

MAX_ATTEMPTS_AT_ONCE = 256
"""To all receivers together."""
MAX_OF_RECEIVER = 8
FIRST_PAUSE, MAX_PAUSE = 5.0, 5 * MINUTE
BUSY = (429, 502, 503, 504)
"""Answers that ask for less."""


@dataclass
class Pending:
    """A message on its way."""

    message: Message
    delivery: Delivery


@dataclass
class Receiver:
    """What waits for a receiver, and how it does."""

    name: str
    waiting: list[tuple[float, int, Pending]] = field(default_factory=list)
    """A heap, by when each is due on the monotonic clock."""
    in_flight: int = 0
    silent: int = 0
    """Attempts in a row that were not answered."""
    paused_until: float = 0.0
    timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be told there."""
        return not self.waiting and not self.in_flight

    @property
    def has_room(self) -> bool:
        """Whether another attempt may begin: one at a time while it does not answer."""
        return self.in_flight < (1 if self.silent else MAX_OF_RECEIVER)

    def note(self, answer: Answer) -> None:
        """Learn from an attempt."""
        if answer.is_refused:
            return
        if answer.status is None:
            pause = min(FIRST_PAUSE * 2.0**self.silent, MAX_PAUSE)
            self.silent = min(self.silent + 1, 16)
        else:
            self.silent = 0
            pause = answer.retry_after if answer.status in BUSY else 0.0
        if pause:
            self.paused_until = max(self.paused_until, time.monotonic() + min(pause, MAX_PAUSE))


Attempt = Callable[[Receiver, Pending], Awaitable[None]]


class Receivers:
    """Begins attempts when they are due, in tasks of `group`; an error of one ends the group."""

    def __init__(self, attempt: Attempt, group: asyncio.TaskGroup) -> None:
        self._attempt = attempt
        self._group = group
        self._receivers: dict[str, Receiver] = {}
        self._pending: set[str] = set()
        self._without_turn: dict[str, Receiver] = {}
        """Those that wait for an attempt of another to end, in order."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._added = 0
        self.settled: set[str] = set()
        """The messages that are done with since the caller last cleared it."""
        self._is_closed = False

    def __len__(self) -> int:
        """How many messages are pending."""
        return len(self._pending)

    def __contains__(self, id: str) -> bool:
        return id in self._pending

    def add(self, pending: Pending, delay: float) -> None:
        """Have a message sent after so many seconds."""
        name = receiver_of(pending.message.url)
        receiver = self._receivers.setdefault(name, Receiver(name))
        self._pending.add(pending.message.id)
        self._added += 1
        due = time.monotonic() + delay
        heapq.heappush(receiver.waiting, (due, self._added, pending))
        self._begin_due(receiver)

    async def close(self, seconds: float) -> None:
        """Begin no more attempts; give those under way so many seconds."""
        self._is_closed = True
        for receiver in self._receivers.values():
            if receiver.timer is not None:
                receiver.timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()

    def _begin_due(self, receiver: Receiver) -> None:
        if receiver.timer is not None:
            receiver.timer.cancel()
            receiver.timer = None
        now = time.monotonic()
        while receiver.waiting and receiver.has_room and not self._is_closed:
            due = max(receiver.waiting[0][0], receiver.paused_until)
            if due > now:
                loop = asyncio.get_running_loop()
                receiver.timer = loop.call_later(due - now, self._begin_due, receiver)
                return
            if len(self._tasks) >= MAX_ATTEMPTS_AT_ONCE:
                self._without_turn[receiver.name] = receiver
                return
            _, _, pending = heapq.heappop(receiver.waiting)
            receiver.in_flight += 1
            task = self._group.create_task(self._run(receiver, pending))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        while self._without_turn and len(self._tasks) < MAX_ATTEMPTS_AT_ONCE:
            self._begin_due(self._without_turn.pop(next(iter(self._without_turn))))

    async def _run(self, receiver: Receiver, pending: Pending) -> None:
        try:
            await self._attempt(receiver, pending)
        finally:
            receiver.in_flight -= 1
        self._begin_due(receiver)

    def settle(self, pending: Pending, delay: float | None) -> None:
        """Have a message sent again after `delay`, or be done with it."""
        if delay is not None:
            self.add(pending, delay)
            return
        self._pending.discard(pending.message.id)
        self.settled.add(pending.message.id)

    def pop_idle(self) -> list[str]:
        """Forget the receivers for which there is nothing; return their names."""
        now = time.monotonic()
        idle = [
            name
            for name, each in self._receivers.items()
            if each.is_idle and each.paused_until <= now
        ]
        for name in idle:
            del self._receivers[name]
        return idle
