"""OpenAI's images API, as its clients use it."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.server.openai import answers, waiting
from i2ii_spool.spool.actions import delete_job
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerState
from i2ii_spool.spool.lookup import count, list_jobs
from tests.support.app import Client, Connect, HandWorker, check_error, form, get
from tests.support.service import wait_until

PATH = "/v1/images/edits"


async def finished(client: Client, worker: HandWorker, data: Any, **headers: str) -> Any:
    """Send a form; return the answer, for which the worker has done the job."""
    asked = asyncio.create_task(client.post(PATH, data=data, headers=headers))
    await arrived(worker.spool)
    worker.finish()
    return await asked


async def arrived(spool: Spool) -> None:
    await asyncio.to_thread(wait_until, lambda: count(spool)[State.INCOMING])


async def test_a_picture_comes_back_in_base64(connect: Connect, worker: HandWorker) -> None:
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form(model="gpt-image-1", size="64x48")))
    await arrived(worker.spool)
    made = worker.finish()
    response = await asked
    answer = await response.json()
    [picture] = answer["data"]
    assert base64.b64decode(picture.pop("b64_json")) == made["result.png"]
    assert picture == {}
    assert answer["output_format"] == "png"
    assert (await get(client, f"/status/{response.headers['X-Request-ID']}"))["status"] == (
        "completed"
    )


async def test_a_url_comes_back_on_request(connect: Connect, worker: HandWorker) -> None:
    client = await connect()
    response = await finished(client, worker, form(response_format="url"))
    [picture] = (await response.json())["data"]
    assert picture.keys() == {"url"}
    fetched = await client.session.get(picture["url"])
    assert fetched.content_type == "image/png"


@pytest.mark.parametrize(
    ("trusted", "said", "scheme"),
    [("127.0.0.1", "https", "https"), ("127.0.0.1", "gopher", "http"), ("", "https", "http")],
)
async def test_a_url_is_that_of_a_proxy_with_tls(
    connect: Connect, worker: HandWorker, trusted: str, said: str, scheme: str
) -> None:
    client = await connect(trusted_proxies=trusted)
    headers = {"X-Forwarded-Proto": said}
    response = await finished(client, worker, form(response_format="url"), **headers)
    [picture] = (await response.json())["data"]
    assert picture["url"].startswith(f"{scheme}://127.0.0.1")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("markup", "x"),
        ("svg[model]", "x"),
        ("background", "transparent"),
        ("output_format", "gif"),
        ("n", "11"),
        ("stream", "perhaps"),
    ],
)
async def test_what_would_change_the_picture_is_refused(
    connect: Connect, spool: Spool, field: str, value: str
) -> None:
    client = await connect()
    await check_error(
        await client.post(PATH, data=form(**{field: value})), 400, "invalid_request", field
    )
    assert not count(spool)[State.INCOMING]


async def test_what_cannot_matter_is_ignored_and_named(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect()
    data = form(input_fidelity="high", moderation="low", user="me", quality="auto")
    response = await finished(client, worker, data)
    assert response.headers["X-I2ii-Ignored"] == "input_fidelity, moderation, user"


async def test_an_unknown_model_is_named(connect: Connect, worker: HandWorker) -> None:
    client = await connect()
    worker.show(WorkerState.READY)
    response = await client.post(PATH, data=form(model="sdxl"))
    assert "none" in await check_error(response, 404, "model_not_found", "model")
    listed = await get(client, "/v1/models")
    assert [each["id"] for each in listed["data"]] == ["none"]


async def test_the_names_of_clients_are_a_setting(connect: Connect, worker: HandWorker) -> None:
    client = await connect(model_aliases="sd?l, flux-*")
    worker.show(WorkerState.READY)
    for name in ("sdxl", "flux-kontext", "none", ""):
        response = await finished(client, worker, form(model=name))
        assert response.status == 200, name
    response = await client.post(PATH, data=form(model="gpt-image-1"))
    assert "flux-*" in await check_error(response, 404, "model_not_found", "model")


async def test_a_token_may_come_as_azure_clients_send_it(connect: Connect) -> None:
    client = await connect(api_token="a-token-of-an-operator")
    await check_error(await client.get("/v1/models"), 401, "unauthorized")
    headers = {"api-key": "a-token-of-an-operator"}
    response = await client.get("/v1/models?api-version=2026-01-01", headers=headers)
    assert response.status == 200


async def test_a_failed_job_is_an_error_that_is_not_repeated(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form()))
    await arrived(worker.spool)
    worker.fail()
    response = await asked
    await check_error(response, 500, "engine_error")
    assert response.headers["X-Should-Retry"] == "false"


async def test_a_repeated_request_takes_the_running_job_over(
    connect: Connect, worker: HandWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    client = await connect()
    first = asyncio.create_task(client.post(PATH, data=form()))
    await arrived(worker.spool)
    claim = worker.claim()
    first.cancel()
    again = asyncio.create_task(
        client.post(PATH, data=form(), headers={"x-stainless-retry-count": "1"})
    )
    # It takes the newest job that asks for the same: the other must not be there yet.
    await asyncio.to_thread(wait_until, lambda: "submitted again by" in caplog.text)
    other = asyncio.create_task(client.post(PATH, data=form()))
    await arrived(worker.spool)
    worker.commit(claim)
    assert (await again).headers["X-Request-ID"] == claim.id
    worker.finish()
    assert (await other).headers["X-Request-ID"] != claim.id
    assert len(list_jobs(worker.spool)) == 2


async def test_a_job_whose_client_has_gone_is_cancelled(
    connect: Connect,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(waiting, "GRACE_SECONDS", 0.1)
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form()))
    # This server, unlike the real one, ends the handler of a client that goes away: the client must
    # be known by then.
    await asyncio.to_thread(wait_until, lambda: "submitted by" in caplog.text)
    asked.cancel()
    await asyncio.to_thread(wait_until, lambda: count(spool)[State.FAILED])


async def test_a_stream_ends_with_the_pictures(connect: Connect, worker: HandWorker) -> None:
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form(stream="true", n="2")))
    await arrived(worker.spool)
    made = worker.finish("result.png", "result-2.png")
    response = await asked
    assert response.content_type == "text/event-stream"
    events = events_of(await response.text())
    assert [name for name, _ in events] == ["image_edit.completed"] * 2
    shown = [base64.b64decode(data["b64_json"]) for _, data in events]
    assert shown == list(made.values())


async def test_a_stream_has_no_urls(connect: Connect) -> None:
    client = await connect()
    response = await client.post(PATH, data=form(stream="true", response_format="url"))
    await check_error(response, 400, "invalid_request", "stream")


async def test_a_deleted_job_is_said_to_be(
    connect: Connect, worker: HandWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes between the look at its status and the look at its pictures."""
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form(stream="true")))
    await arrived(worker.spool)
    real = answers.open_regular

    def delete_first(path: Path) -> Any:
        delete_job(worker.spool, path.parent.name)
        return real(path)

    monkeypatch.setattr(answers, "open_regular", delete_first)
    worker.finish()
    [(name, data)] = events_of(await (await asked).text())
    assert (name, data["error"]["code"]) == ("error", "deleted")


async def test_a_stream_that_fails_ends_with_the_error(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form(stream="true")))
    await arrived(worker.spool)
    worker.fail()
    [(name, data)] = events_of(await (await asked).text())
    assert (name, data["type"], data["error"]["code"]) == ("error", "error", "engine_error")


def events_of(text: str) -> list[tuple[str, Any]]:
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events
