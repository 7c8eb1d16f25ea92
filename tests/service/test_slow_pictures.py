"""Pictures that are slow to judge, and uploads that are slow: all others are answered meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from i2ii_spool.images.sandbox.pool import PROCESSES
from i2ii_spool.spool import capacity
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.submit import Submission
from tests.support.app import Client, Connect, check_error, form, get, is_empty, let_it_arrive
from tests.support.http import MULTIPART, multipart
from tests.support.pictures import encoded
from tests.support.service import wait_until

SLOW = 40
"""More than there are threads of any kind."""


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No decoder comes to an end before this event."""
    may_end = threading.Event()
    decode = Submission.decode

    def decode_when_allowed(submission: Submission, *, max_pixels: int) -> None:
        assert may_end.wait(30)
        decode(submission, max_pixels=max_pixels)

    monkeypatch.setattr(Submission, "decode", decode_when_allowed)
    yield may_end
    may_end.set()


async def send_slow_pictures(client: Client, count: int) -> list["asyncio.Task[int]"]:
    async def send() -> int:
        response = await client.post("/edit", data=form(encoded(".webp")))
        return response.status

    tasks = [asyncio.create_task(send()) for _ in range(count)]
    await let_it_arrive(client)
    return tasks


async def test_everybody_is_answered_while_the_decoders_are_busy(
    connect: Connect, held: threading.Event
) -> None:
    client = await connect()
    tasks = await send_slow_pictures(client, SLOW)
    for path in ("/livez", "/jobs", "/system/status"):
        await get(client, path)
    await get(client, "/health", 503)  # there is no worker
    response = await client.post("/edit", data=form(encoded(".png")))
    assert response.status == 202, "a picture that needs no decoder"
    id = (await response.json())["request_id"]
    assert (await get(client, f"/status/{id}"))["status"] == "queued"
    assert not any(task.done() for task in tasks)
    held.set()
    assert await asyncio.gather(*tasks) == [202] * SLOW


async def test_a_client_that_goes_leaves_nothing_behind(
    connect: Connect, spool: Spool, held: threading.Event
) -> None:
    client = await connect()
    for task in await send_slow_pictures(client, PROCESSES + 3):
        task.cancel()
    held.set()
    await asyncio.to_thread(wait_until, lambda: is_empty(spool))


# --- the floor of free space ----------------------------------------------------------------------


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has one MiB free."""
    room = capacity.Room(free_bytes=2**20, free_files=None)
    monkeypatch.setattr("i2ii_spool.server.app.room", lambda _spool: room)


async def slowly(body: bytes, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a body whose end waits for an event."""
    yield body[:1000]
    await go_on.wait()
    yield body[1000:]


@pytest.mark.usefixtures("disk")
async def test_uploads_in_progress_count_against_the_floor(connect: Connect) -> None:
    client = await connect(min_free_mib=0.5)
    body, go_on = multipart(("prompt", b"a"), ("image", b"0" * 400_000)), asyncio.Event()
    headers = {**MULTIPART, "Content-Length": str(len(body))}
    slow = asyncio.create_task(client.post("/edit", data=slowly(body, go_on), headers=headers))
    await let_it_arrive(client)
    large = b"0" * 200_000
    said = await check_error(await client.post("/edit", data=form(large)), 507, "disk_full")
    assert "for the uploads in progress" in said
    assert (await client.post("/edit", data=form())).status == 202, "a small one fits"
    go_on.set()
    await check_error(await slow, 400, "unsupported_picture", "image")
    refused = await client.post("/edit", data=form(large))
    assert refused.status == 400, "the bytes of the other count no longer"


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
async def test_an_upload_of_unknown_length_counts_as_the_longest_there_may_be(
    connect: Connect, headers: dict[str, str]
) -> None:
    client = await connect(min_free_mib=0, max_upload_mib=2)

    go_on = asyncio.Event()
    go_on.set()
    body = slowly(multipart(("prompt", b"a")), go_on)
    response = await client.post("/edit", data=body, headers={**MULTIPART, **headers})
    await check_error(response, 507, "disk_full")
