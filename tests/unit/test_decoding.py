"""Turns at the decoders: whose picture is next, and what becomes of a turn that nobody takes."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from i2ii_spool.errors import TooManyRequests
from i2ii_spool.images.sandbox.pool import PROCESSES
from i2ii_spool.server import decoding
from i2ii_spool.server.decoding import DecoderTurns
from tests.support.service import wait_until


class Decoders:
    """Decoders that take as long as the test says."""

    def __init__(self) -> None:
        self.turns = DecoderTurns()
        self.order: list[str] = []
        self._ends = threading.Semaphore(0)

    def picture(self, client: str, name: str | None = None) -> asyncio.Task[None]:
        """Begin to judge a picture."""
        return asyncio.create_task(self.turns.run(client, partial(self._decode, name or client)))

    def _decode(self, name: str) -> None:
        self.order.append(name)
        assert self._ends.acquire(timeout=20)

    def end_all(self) -> None:
        """End the pictures that are decoded now, and each later one as it begins."""
        self._ends.release(1000)

    async def end_one(self) -> str:
        """End one picture. Return the one that has its turn then: with all ended at once, the
        threads would tell in any order that they have begun."""
        begun = len(self.order)
        self._ends.release()
        await asyncio.to_thread(wait_until, lambda: len(self.order) > begun)
        return self.order[-1]


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders()
    yield decoders
    decoders.end_all()


async def all_busy(decoders: Decoders, client: str) -> list[asyncio.Task[None]]:
    """Keep all decoders busy with pictures of one client."""
    tasks = [decoders.picture(client) for _ in range(PROCESSES)]
    await asyncio.to_thread(wait_until, lambda: len(decoders.order) == PROCESSES)
    return tasks


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_client_that_has_used_least_is_next(decoders: Decoders) -> None:
    tasks = await all_busy(decoders, "greedy")
    tasks += [decoders.picture("greedy", f"greedy {n}") for n in range(20)]
    await settle()
    tasks.append(decoders.picture("modest"))
    await settle()
    assert await decoders.end_one() == "modest"
    decoders.end_all()
    await asyncio.gather(*tasks)


async def test_pictures_of_one_client_keep_their_order(decoders: Decoders) -> None:
    tasks = await all_busy(decoders, "first")
    for n in range(10):
        tasks.append(decoders.picture("client", str(n)))
        await settle()
    assert [await decoders.end_one() for _ in range(10)] == [str(n) for n in range(10)]
    decoders.end_all()
    await asyncio.gather(*tasks)


async def test_a_turn_lasts_as_long_as_the_decoder_though_the_client_has_gone(
    decoders: Decoders,
) -> None:
    tasks = await all_busy(decoders, "gone")
    for task in tasks:
        task.cancel()
    waiting = decoders.picture("other")
    await asyncio.sleep(0.05)
    assert len(decoders.order) == PROCESSES, "a third decoder has begun"
    decoders.end_all()
    await waiting


async def test_a_client_that_goes_while_it_waits_holds_nobody_up(decoders: Decoders) -> None:
    tasks = await all_busy(decoders, "busy")
    gone = decoders.picture("gone")
    waiting = decoders.picture("other")
    await settle()
    gone.cancel()
    await settle()
    decoders.end_all()
    await asyncio.gather(*tasks, waiting)
    assert "gone" not in decoders.order


async def test_a_turn_that_comes_as_the_client_goes_is_passed_on(decoders: Decoders) -> None:
    tasks = await all_busy(decoders, "busy")
    gone, waiting = decoders.picture("gone"), decoders.picture("other")
    await settle()
    decoders.turns._give_turn()  # as one ends; the task does not run in between
    gone.cancel()
    decoders.end_all()
    await asyncio.gather(*tasks, waiting)
    assert decoders.order[PROCESSES:] == ["other"]


async def test_a_picture_that_waits_too_long_is_refused(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "MAX_WAIT_SECONDS", 0.02)
    tasks = await all_busy(decoders, "busy")
    with pytest.raises(TooManyRequests, match="PNG or JPEG"):
        await decoders.picture("late")
    decoders.end_all()
    await asyncio.gather(*tasks)
    await decoders.picture("next")


async def test_an_error_ends_the_turn(decoders: Decoders) -> None:
    def fail() -> None:
        raise ValueError("damaged")

    for _ in range(2 * PROCESSES):
        with pytest.raises(ValueError, match="damaged"):
            await decoders.turns.run("client", fail)


async def test_what_a_client_used_is_forgotten(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoders.end_all()
    for n in range(50):
        await decoders.picture(str(n))
    now = time.monotonic() + 3600
    monkeypatch.setattr(time, "monotonic", lambda: now)
    await decoders.picture("last")
    assert len(decoders.turns._shares) <= 1
