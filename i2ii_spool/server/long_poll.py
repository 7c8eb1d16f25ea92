"""Long polls: the wait for a job's end.

A poll costs nothing while its job stays where it is. It reads the job again when

- a name appears in `done/` or `failed/` (a hint: inotify may miss it),
- the job is no longer found among those that wait or run: one listing a second, for all polls,
- its client has gone, or the tokens have changed.

A client whose polls hold half of the connections gets quick answers to the others.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

from i2ii_spool.server.auth.access import load_authorized
from i2ii_spool.server.auth.middleware import AUTH, CALLER
from i2ii_spool.server.query import Parameter
from i2ii_spool.server.state import SETTINGS, SPOOL
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import unended_ids
from i2ii_spool.spool.status import JobStatus
from i2ii_spool.spool.watch import Watcher

WAIT = Parameter(
    "wait",
    "Answer once the job has ended, or after this many seconds.",
    {"type": "number", "minimum": 0, "maximum": 300},
)
BEYOND_LIMIT_SECONDS = 1.0
"""How long a poll waits if as many others of its client wait as half of the connections."""
SWEEP_SECONDS = 1.0


@dataclass(eq=False)
class Poll:
    """A request that waits for the end of a job."""

    id: str
    request: web.Request
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_client(self) -> bool:
        """Whether its client is still connected."""
        return self.request.transport is not None


class LongPolls:
    """All polls that wait, and what wakes them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._polls: set[Poll] = set()
        self._of_client: Counter[str] = Counter()
        self.closed = False

    def count(self, client: str) -> int:
        """Return how many polls of a client wait."""
        return self._of_client[client]

    @contextmanager
    def waiting(self, id: str, request: web.Request) -> Iterator[Poll]:
        """Yield a poll of a job, which is woken while it is entered."""
        poll, client = Poll(id, request), request[CALLER].name
        self._polls.add(poll)
        self._of_client[client] += 1
        try:
            yield poll
        finally:
            self._polls.discard(poll)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def arrived(self, id: str) -> None:
        """Wake the polls of a job that appeared in `done/` or `failed/`, from any thread."""
        self._loop.call_soon_threadsafe(self._wake, lambda poll: poll.id == id)

    def tokens_changed(self) -> None:
        """Wake all polls, from any thread: a token may have been revoked."""
        self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Wake all polls; from now on none may wait."""
        self.closed = True
        self._wake()

    async def sweep_repeatedly(self, spool: Spool) -> None:
        """Wake each second the polls whose job has moved on unseen, or whose client has gone."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            if self._polls:
                await self._sweep(spool)

    async def _sweep(self, spool: Spool) -> None:
        try:
            unended = await asyncio.to_thread(unended_ids, spool)
        except OSError:  # each poll tells its client what is wrong
            unended = set()
        self._wake(lambda poll: poll.id not in unended or not poll.has_client)

    def _wake(self, applies: Callable[[Poll], bool] = lambda _poll: True) -> None:
        for poll in self._polls:
            if applies(poll):
                poll.woken.set()


LONG_POLLS = web.AppKey("long_polls", LongPolls)


async def run_long_polls(app: web.Application) -> AsyncIterator[None]:
    """Wake the polls of the application while it runs."""
    spool, polls = app[SPOOL], LongPolls()
    app[LONG_POLLS] = polls
    app[AUTH].on_change = polls.tokens_changed
    task = asyncio.create_task(polls.sweep_repeatedly(spool))
    with Watcher([spool.done, spool.failed], polls.arrived):
        yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def answer_long_polls(app: web.Application) -> None:
    """On shutdown, answer long polls at once. Clients poll again and reach the next server."""
    app[LONG_POLLS].close()


async def long_poll(request: web.Request, id: str, seconds: float) -> JobStatus:
    """Return the status of a job once it has ended, or after so many seconds.

    A stopping server returns it at once. Raises like `load_authorized`, and `Unauthorized` if the
    token is revoked meanwhile.
    """
    polls = request.app[LONG_POLLS]
    if polls.count(request[CALLER].name) >= request.app[SETTINGS].settings.client_max_waiting:
        seconds = min(seconds, BEYOND_LIMIT_SECONDS)
    until = time.monotonic() + seconds
    with polls.waiting(id, request) as poll:
        while True:
            job = await load_authorized(request, id)
            remaining = until - time.monotonic()
            if job.has_ended or remaining <= 0 or polls.closed or not poll.has_client:
                return job
            with suppress(TimeoutError):
                await asyncio.wait_for(poll.woken.wait(), remaining)
            poll.woken.clear()
            request[CALLER] = request.app[AUTH].identify(request)
