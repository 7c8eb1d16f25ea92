"""Clients that wait for a job, and the job of one that goes away: it is cancelled after a while."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from aiohttp import web

from i2ii_spool.errors import I2iiError
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.server.state import SPOOL
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""OpenAI's clients send a request again within eight seconds."""


@dataclass(eq=False)
class Client:
    """A client that waits for a job."""

    id: str
    """Of the job."""
    has_ended: bool = False
    """Whether the job has, as far as the client knows."""


class Waiting:
    """How many clients wait for each job, and the jobs whose last client has gone."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._clients: Counter[str] = Counter()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    @contextmanager
    def client(self, id: str) -> Iterator[Client]:
        """Count a client while it waits. A job that was about to be cancelled goes on; one that
        loses its last client is cancelled after a while."""
        client = Client(id)
        self._clients[id] += 1
        if id in self._leaving:
            self._leaving.pop(id).cancel()
        try:
            yield client
        finally:
            self._clients[id] -= 1
            if not self._clients[id]:
                del self._clients[id]
                if not client.has_ended and not self._is_closed:
                    self._leaving[id] = asyncio.create_task(self._cancel(id))

    async def _cancel(self, id: str) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        del self._leaving[id]
        with suppress(I2iiError):  # it has ended meanwhile
            await asyncio.to_thread(actions.cancel, self._spool, id)
            event = fields(JobEvent.CANCEL_REQUESTED, id)
            log.info("job %s: cancellation requested, its client has gone", id, extra=event)

    def close(self) -> None:
        """Leave the jobs to the clients, which send their requests again to the next server."""
        self._is_closed = True
        for task in self._leaving.values():
            task.cancel()


WAITING = web.AppKey("openai_waiting", Waiting)


async def run_waiting(app: web.Application) -> AsyncIterator[None]:
    """Watch for clients that go away while the application runs."""
    app[WAITING] = Waiting(app[SPOOL])
    yield


async def stop_waiting(app: web.Application) -> None:
    """On shutdown, cancel no job: its client sends its request again."""
    app[WAITING].close()
