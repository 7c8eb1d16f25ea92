"""The server as an app in the test's loop, and a worker played by hand.

    client = await connect(max_queue=3)                       # a fixture; settings
    response = await client.post("/edit", data=form(seed="-2"))
    await check_error(response, 400, "invalid_request", "seed")
    worker.finish("result.png")                               # a fixture, a `HandWorker`

`get` returns the JSON of a route.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse, FormData, web
from aiohttp.test_utils import TestClient

from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.records import Timings
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerLock,
    WorkerState,
    WorkerStatus,
    worker_name,
    write_status,
)
from tests.support.jobs import result_of
from tests.support.pictures import encoded

Client = TestClient[web.Request, web.Application]
Connect = Callable[..., Awaitable[Client]]


class HandWorker:
    """Does to the spool what a worker does, one verb at a time; its lock is held, so that it is
    alive."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.name = worker_name("gpu0")
        lock = WorkerLock.take(spool, self.name)
        assert lock is not None
        self.lock = lock
        self.is_alive = True
        (spool.running / self.name).mkdir()

    def die(self) -> None:
        """Let the lock go, as the kernel does for a process that dies."""
        if self.is_alive:
            self.is_alive = False
            self.lock.release()

    def show(self, state: WorkerState, **more: Any) -> None:
        """Write the status file."""
        status = WorkerStatus(
            worker=self.name, state=state, pid=1, gpu_id=0, engine="hand", model="none", **more
        )
        write_status(self.spool, status)

    def claim(self) -> Claim:
        """Claim the oldest job."""
        claim = Claims(self.spool, self.name, max_attempts=3).next()
        assert claim is not None
        return claim

    def finish(self, *outputs: str) -> dict[str, bytes]:
        """Run the oldest job to its end; return the pictures it made."""
        return self.commit(self.claim(), *outputs)

    def commit(self, claim: Claim, *outputs: str) -> dict[str, bytes]:
        """End a job with these pictures, `result.png` if none are named; return their bytes."""
        made = {
            name: encoded(Path(name).suffix, seed=seed)
            for seed, name in enumerate(outputs or ("result.png",))
        }
        for name, data in made.items():
            claim.save(name, data)
        timings = Timings(queue=0.1, load=0.25, edit=1.5, save=0.01)
        claim.commit(result_of(claim, *made, seed=7, timings=timings, engine="hand"))
        return made

    def fail(self) -> None:
        """Have the oldest job fail."""
        self.claim().fail(EngineError("the paint ran out"))


def form(*pictures: bytes, **fields: str) -> FormData:
    """The form of an edit; without arguments a good one."""
    data = FormData()
    for picture in pictures or (encoded(),):
        data.add_field("image", picture, filename="photo.png")
    for name, value in {"prompt": "sepia", **fields}.items():
        data.add_field(name, value)
    return data


async def check_error(
    response: ClientResponse, status: int, code: str, field: str | None = None
) -> str:
    """Check that a response is this error, in the one shape of all errors; return its message."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/json"
    body = json.loads(text)
    assert list(body) == ["error"]
    assert body["error"].keys() <= {"code", "message", "field", "param", "type"}
    assert body["error"].get("param") == field
    assert body["error"]["type"].endswith("_error")
    assert (body["error"]["code"], body["error"].get("field")) == (code, field)
    assert "Traceback" not in text
    message: str = body["error"]["message"]
    assert message
    return message


def is_empty(spool: Spool) -> bool:
    """Whether there is no job, nor a part of one."""
    return not any(
        list(folder.iterdir())
        for folder in (spool.incoming, spool.staging, spool.done, spool.failed)
    )


async def get(client: Client, path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status == status, await response.text()
    return await response.json()


async def let_it_arrive(client: Client) -> None:
    """Wait until a request that was begun before is in its handler: a few that come behind it are
    answered."""
    for _ in range(3):
        await get(client, "/livez")


async def in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]
