"""Streams of events: one look at the spool, twice a second, for all of them.

Inotify makes a look sooner, and tells of jobs that come and end between two. Without a stream there
is no look.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain

from aiohttp import web

from i2ii_spool.errors import TooManyRequests
from i2ii_spool.server.auth.middleware import CALLER
from i2ii_spool.server.metrics import METRICS
from i2ii_spool.server.state import SETTINGS, SPOOL, WORKERS, eta_seconds
from i2ii_spool.spool.changes import Change, Changes
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.watch import Watcher

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
PAUSE_SECONDS = 0.05
"""Between two looks, however many jobs arrive."""
MAX_WAITING = 200
"""Events that wait for a client that reads slowly. Beyond, it is cut off; it may resume."""


@dataclass(eq=False)
class Stream:
    """A client that follows one job, or all that it may see."""

    request: web.Request
    job: str | None
    is_watched: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether all that happens from now on is told."""
    waiting: asyncio.Queue[Change | None] = field(
        default_factory=lambda: asyncio.Queue(MAX_WAITING)
    )
    """None at the end."""

    def tell(self, change: Change) -> None:
        """Have it sent, if the client may see the job."""
        if not self.request[CALLER].may_see(change.job.owner):
            return
        try:
            self.waiting.put_nowait(change)
        except asyncio.QueueFull:  # it does not read
            if self.request.transport is not None:
                self.request.transport.abort()

    def end(self) -> None:
        """End it once what waits is sent. Its client comes back, and hears why."""
        with suppress(asyncio.QueueFull):  # it is cut off
            self.waiting.put_nowait(None)


class EventStreams:
    """All streams, and what is told to them."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._spool: Spool = app[SPOOL]
        self._loop = asyncio.get_running_loop()
        self._streams: set[Stream] = set()
        self._changes = Changes(self._spool)
        self._arrived: set[str] = set()
        self._wake = asyncio.Event()
        self._is_closed = False
        self.replaying = asyncio.Lock()
        """Held to read what a client has missed: that takes long in a full spool."""

    @contextmanager
    def stream(self, request: web.Request, job: str | None) -> Iterator[Stream]:
        """Yield a stream, which is told of events while it is entered.

        Raises `TooManyRequests` for a client whose streams take half of all connections.
        """
        name = request[CALLER].name
        most = request.app[SETTINGS].settings.client_max_waiting
        if sum(each.request[CALLER].name == name for each in self._streams) >= most:
            raise TooManyRequests(f"you follow {most} streams of events; close some")
        stream = Stream(request, job)
        if self._is_closed:
            stream.end()
            stream.is_watched.set()
        self._streams.add(stream)
        self._wake.set()
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    def arrived(self, id: str) -> None:
        """Hear that a job has appeared in a folder, from any thread."""
        self._loop.call_soon_threadsafe(self._note, id)

    def _note(self, id: str) -> None:
        if self._streams:
            self._arrived.add(id)
            self._wake.set()

    def count(self) -> int:
        """Return how many streams are open."""
        return len(self._streams)

    def close(self) -> None:
        """End all streams. Their clients come back, to the next server."""
        self._is_closed = True
        for stream in self._streams:
            stream.is_watched.set()
            stream.end()

    async def look_repeatedly(self) -> None:
        """Look at the spool while there are streams."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS if self._streams else None)
            self._wake.clear()
            if self._streams:
                await self._look()
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self._changes = Changes(self._spool)
                self._arrived.clear()

    async def _look(self) -> None:
        streams: dict[str | None, list[Stream]] = defaultdict(list)
        for stream in self._streams:
            streams[stream.job].append(stream)
        arrived, self._arrived = self._arrived, set()
        followed = {id for id in streams if id is not None}
        try:
            changes, gone = await asyncio.to_thread(self._changes.look, arrived, followed)
        except Exception:  # the clients come back, and the next look may go well
            log.exception("the spool cannot be looked at; the streams of events end")
            for stream in chain(*streams.values()):
                stream.is_watched.set()
                stream.end()
            return
        workers = await self._app[WORKERS].get()
        for change in changes:
            if change.job.position is not None:
                eta = eta_seconds(change.job.position, workers)
                job = change.job.model_copy(update={"eta_seconds": eta})
                change = change._replace(job=job)
            for stream in streams[change.job.request_id]:
                stream.tell(change)
            for stream in () if change.is_place else streams[None]:
                stream.tell(change)
        for stream in chain(*(streams[id] for id in gone)):
            stream.end()
        for stream in chain(*streams.values()):
            stream.is_watched.set()


EVENT_STREAMS = web.AppKey("event_streams", EventStreams)


async def run_event_streams(app: web.Application) -> AsyncIterator[None]:
    """Look at the spool for the streams while the application runs."""
    spool, streams = app[SPOOL], EventStreams(app)
    app[EVENT_STREAMS] = streams
    app[METRICS].count_event_streams = streams.count
    task = asyncio.create_task(streams.look_repeatedly())
    with Watcher([spool.incoming, spool.done, spool.failed], streams.arrived):
        yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def end_event_streams(app: web.Application) -> None:
    """On shutdown, end the streams at once."""
    app[EVENT_STREAMS].close()
