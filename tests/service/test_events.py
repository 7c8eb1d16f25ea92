"""Streams of events, over real HTTP: what happens to jobs, and what who comes back gets."""

import asyncio
import json
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import ClientResponse

from i2ii_spool.jobs.records import Progress
from i2ii_spool.server import event_streams
from i2ii_spool.server.routes import events as event_routes
from i2ii_spool.spool import actions
from i2ii_spool.spool.changes import Change
from i2ii_spool.spool.history import Event
from i2ii_spool.spool.layout import Spool
from tests.support import UNKNOWN_ID, browser
from tests.support.app import Client, Connect, HandWorker, check_error, form
from tests.support.jobs import SubmitJob
from tests.support.service import Service, wait_until

SECONDS = 10


class Told(NamedTuple):
    """An event as it arrives."""

    name: str
    id: str | None
    job: dict[str, Any]


class Events:
    """What a client reads of a stream."""

    def __init__(self, response: ClientResponse) -> None:
        self.response = response

    async def next(self) -> Told:
        """The next event."""
        return await asyncio.wait_for(anext(self._read()), SECONDS)

    async def until(self, name: str) -> list[Told]:
        """The events up to one of this name."""
        told = [await self.next()]
        while told[-1].name != name:
            told.append(await self.next())
        return told

    async def rest(self) -> list[Told]:
        """The events up to the end of the stream."""
        return [told async for told in self._read()]

    async def _read(self) -> AsyncIterator[Told]:
        fields: dict[str, str] = {}
        async for line in self.response.content:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
            elif "event" in fields:
                yield Told(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}


@asynccontextmanager
async def follow(
    client: Client, path: str = "/events", last: str | None = None, **headers: str
) -> AsyncIterator[Events]:
    more = {} if last is None else {"Last-Event-ID": last}
    async with client.get(path, headers={**headers, **more}) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield Events(response)


async def test_a_job_is_followed_to_its_end(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    async with follow(client, f"/events/{id}") as events:
        first = await events.next()
        assert (first.name, first.job["position"], first.job["status"]) == ("queued", 1, "queued")
        claim = worker.claim()
        assert (await events.next()).name == "started"
        claim.report(Progress(phase="editing", step=3, steps=40))
        step = await events.next()
        assert (step.name, step.id, step.job["step"]) == ("step", None, 3)
        worker.commit(claim)
        [*_, end] = await events.rest()
    assert (end.name, end.job["outputs"]) == ("completed", ["result.png"])
    assert Event.parse(str(end.id), "id").job == id


async def test_a_place_in_the_queue_is_told(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    submit_job()
    second = submit_job()
    async with follow(client, f"/events/{second}") as events:
        assert (await events.next()).job["position"] == 2
        worker.finish()
        moved = await events.next()
        assert (moved.name, moved.id, moved.job["position"]) == ("queued", None, 1)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_all_jobs_are_followed(
    connect: Connect, worker: HandWorker, spool: Spool, end: str
) -> None:
    client = await connect()
    async with follow(client) as events:
        id = (await (await client.post("/edit", data=form())).json())["request_id"]
        queued = await events.next()
        assert (queued.name, queued.job["request_id"]) == ("queued", id)
        match end:
            case "completed":
                worker.finish()
            case "failed":
                worker.fail()
            case _:
                actions.cancel(spool, id)
        told = await events.until(end)
    assert told[-1].job["status"] == end
    assert {each.job["request_id"] for each in told} == {id}


async def test_a_retried_job_is_told_of(
    connect: Connect, worker: HandWorker, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    async with follow(client) as events:
        worker.fail()
        await events.until("failed")
        actions.retry(spool, id)
        again = (await events.until("queued"))[-1]
        worker.finish()
        assert (await events.until("completed"))[-1].job["request_id"] == id
    assert again.job["status"] == "queued"


async def test_who_comes_back_gets_what_was_missed_from_another_server(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2ii_spool.spool.history.SKEW_MS", 0)
    monkeypatch.setattr(event_routes, "SKEW_MS", 0)
    client = await connect()
    submit_job()
    async with follow(client) as events:
        first = submit_job()
        seen = (await events.until("queued"))[-1]
        assert seen.job["request_id"] == first
    other = await connect()
    worker.finish()
    worker.finish()
    second = submit_job()
    async with follow(other, last=seen.id) as events:
        told = [await events.next() for _ in range(5)]
        worker.finish()
        assert (await events.until("completed"))[-1].job["request_id"] == second
    assert sorted(each.name for each in told) == ["completed"] * 2 + ["queued"] + ["started"] * 2
    assert [each.id for each in told] == sorted(str(each.id) for each in told)


async def test_who_follows_a_job_resumes_or_is_told_to_stop(
    connect: Connect, worker: HandWorker, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    async with follow(client, f"/events/{id}") as events:
        queued = await events.next()
    worker.fail()
    async with follow(client, f"/events/{id}", last=queued.id) as events:
        missed = await events.rest()
    assert [each.name for each in missed] == ["started", "failed"]
    headers = {"Last-Event-ID": str(missed[-1].id)}
    assert (await client.get(f"/events/{id}", headers=headers)).status == 204
    actions.retry(spool, id)
    async with follow(client, f"/events/{id}", last=missed[-1].id) as events:
        assert (await events.next()).name == "queued"


async def test_who_was_away_for_long_is_told_so(connect: Connect) -> None:
    client = await connect()
    async with follow(client, last=f"1000000000000-{UNKNOWN_ID}-queued") as events:
        assert (await events.next()).name == "reset"


async def test_an_id_that_is_none_is_refused(connect: Connect) -> None:
    client = await connect()
    response = await client.get("/events", headers={"Last-Event-ID": "17"})
    await check_error(response, 400, "invalid_request", "Last-Event-ID")
    await check_error(await client.get(f"/events/{UNKNOWN_ID}"), 404, "not_found")
    await check_error(await client.get("/events/photo"), 400, "invalid_request", "id")


async def test_a_slow_reader_is_cut_off_and_the_others_are_not(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_streams, "MAX_WAITING", 3)
    client = await connect()
    sent = asyncio.Event()
    put = event_streams.Stream.tell

    def tell_one(stream: event_streams.Stream, change: Change) -> None:
        if "slow" in stream.request.headers:
            for _ in range(4):
                put(stream, change)
            sent.set()
        else:
            put(stream, change)

    monkeypatch.setattr(event_streams.Stream, "tell", tell_one)
    async with follow(client) as quick, follow(client, slow="1") as slow:
        submit_job()
        assert (await quick.next()).name == "queued"
        await asyncio.wait_for(sent.wait(), SECONDS)
        with pytest.raises(Exception, match=r"payload|closed|disconnected"):
            await slow.rest()
        worker.finish()
        await quick.until("completed")


async def test_streams_end_when_the_server_stops(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    async with follow(client, f"/events/{submit_job()}") as events:
        await events.next()
        streams = client.app[event_streams.EVENT_STREAMS]  # type: ignore[index]
        streams.close()
        assert await asyncio.wait_for(events.rest(), SECONDS) == []


async def test_a_spool_that_cannot_be_read_ends_the_streams(
    connect: Connect, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await connect()
    async with follow(client) as events:
        with monkeypatch.context() as sick:
            sick.setattr("i2ii_spool.spool.changes.queued_ids", fail)
            assert await asyncio.wait_for(events.rest(), SECONDS) == []
    async with follow(client) as events:
        submit_job()
        assert (await events.next()).name == "queued"


def fail(_spool: Spool) -> list[str]:
    raise OSError(5, "Input/output error")


async def test_a_job_that_is_removed_ends_its_stream(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    async with follow(client, f"/events/{id}") as events:
        await events.next()
        shutil.rmtree(spool.incoming / id)
        assert await asyncio.wait_for(events.rest(), SECONDS) == []
    await check_error(await client.get(f"/events/{id}"), 404, "not_found")


# --- real processes -------------------------------------------------------------------------------


async def test_a_killed_server_costs_no_event(service: Service) -> None:
    url = await asyncio.to_thread(service.serve)
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{url}/events") as response:
            answer = await (await session.post(f"{url}/edit", data=form())).json()
            queued = await Events(response).next()
            assert queued.job["request_id"] == answer["request_id"]
            [server] = service.processes
            server.kill()
            await asyncio.to_thread(server.wait)
        await asyncio.to_thread(service.work, engine="quick")
        done = service.spool.done / str(answer["request_id"])
        await asyncio.to_thread(wait_until, (done / "result.json").exists)
        port = url.rpartition(":")[2]
        command = (sys.executable, "-m", "i2ii_spool", "serve", "--port", port)
        await asyncio.to_thread(service.start, *command)
        await asyncio.to_thread(wait_until, lambda: listens(url))
        headers = {"Last-Event-ID": str(queued.id)}
        async with session.get(f"{url}/events", headers=headers) as response:
            told = await Events(response).until("completed")
    assert told[-1].job["request_id"] == answer["request_id"]
    assert "started" in [each.name for each in told]


def listens(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    with suppress(OSError), socket.create_connection((host, int(port))):
        return True
    return False


@pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))
async def test_a_browser_follows_a_job(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    async with browser.browser() as page:
        await page.goto(str(client.make_url("/livez")))
        await page.evaluate(
            """id => {
                window.told = [];
                window.source = new EventSource(`/events/${id}`);
                for (const name of ["queued", "started", "step", "completed"])
                    source.addEventListener(name, event => told.push(event.type));
            }""",
            id,
        )
        await page.wait_for_function("told.includes('queued')")
        worker.finish()
        await page.wait_for_function("told.includes('completed')")
        # It asks again, is told that there is no more, and stops.
        await page.wait_for_function("source.readyState === EventSource.CLOSED")
        assert await page.evaluate("told.filter(name => name === 'completed').length") == 1
