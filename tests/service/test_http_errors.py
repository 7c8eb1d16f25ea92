"""Errors of any route, and two servers on one spool."""

import asyncio

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpClient

from i2ii_spool.server.app import create_app
from i2ii_spool.settings import Settings
from i2ii_spool.spool.layout import Spool
from tests.support import UNKNOWN_ID
from tests.support.app import Connect, HandWorker, check_error, form, get


@pytest.mark.parametrize(
    "path", ["/nothing", "/status/", "/jobs/x/y", f"/jobs/{UNKNOWN_ID}/again", "/edit/x"]
)
async def test_an_unknown_route_is_said_to_be_one(connect: Connect, path: str) -> None:
    client = await connect()
    assert path in await check_error(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/edit", "POST"),
        ("PUT", "/edit", "POST"),
        ("POST", f"/status/{UNKNOWN_ID}", "GET"),
        ("GET", f"/jobs/{UNKNOWN_ID}", "DELETE"),
        ("GET", f"/jobs/{UNKNOWN_ID}/retry", "POST"),
        ("DELETE", "/jobs", "GET"),
        ("POST", "/health", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    connect: Connect, method: str, path: str, allowed: str
) -> None:
    client = await connect()
    response = await client.request(method, path)
    message = await check_error(response, 405, "method_not_allowed")
    assert allowed in message
    assert allowed in response.headers["Allow"]


async def test_bug_gets_json_500_and_is_logged(
    spool: Spool, aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(_request: web.Request) -> web.Response:
        raise ZeroDivisionError("a secret of the house")

    app = create_app(Settings(spool=spool.root, _env_file=None))
    app.router.add_get("/bug", break_down)
    client = await aiohttp_client(app)
    response = await client.get("/bug")
    await check_error(response, 500, "internal_error")
    assert "secret" not in await response.text()
    assert "a secret of the house" in caplog.text
    assert response.headers["X-Request-ID"] in caplog.text
    assert (await client.get("/livez")).status == 200


async def test_clients_that_show_only_the_reason_phrase_show_the_message(connect: Connect) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(seed="\u5341\r\nX-Evil: 1"))
    message = await check_error(response, 400, "invalid_request", "seed")
    assert response.reason is not None
    assert response.reason.startswith("seed must be a valid integer")
    assert "X-Evil" not in response.headers
    assert not message.isascii()


async def test_openai_clients_do_not_repeat_what_cannot_help(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect(max_queue=1)
    id = (await (await client.post("/edit", data=form())).json())["request_id"]
    full = await client.post("/edit", data=form())
    assert 1 <= int(full.headers["Retry-After"]) <= 60
    assert "X-Should-Retry" not in full.headers
    worker.fail()
    failed = await client.get(f"/result/{id}")
    await check_error(failed, 409, "engine_error")
    assert failed.headers["X-Should-Retry"] == "false"


async def test_each_answer_has_an_id(connect: Connect) -> None:
    client = await connect()
    ids = {(await client.get("/livez")).headers["X-Request-ID"] for _ in range(3)}
    assert len(ids) == 3


async def test_missing_spool_gets_json_error(connect: Connect, spool: Spool) -> None:
    client = await connect()
    spool.done.rmdir()
    response = await client.get("/jobs")
    await check_error(response, 500, "internal_error")
    assert str(spool.root) not in await response.text()


async def test_two_servers_on_one_spool_see_each_others_jobs(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    here, there = await connect(), await connect()
    ids = [
        (await (await server.post("/edit", data=form())).json())["request_id"]
        for server in (here, there, here)
    ]
    for server in (here, there):
        listed = await get(server, "/jobs")
        assert [job["request_id"] for job in listed["jobs"]] == sorted(ids, reverse=True)
    assert (await get(there, f"/status/{ids[0]}"))["position"] == 1
    made = worker.finish()
    for server in (here, there):
        assert await (await server.get(f"/result/{ids[0]}")).read() == made["result.png"]
    assert (await there.delete(f"/jobs/{ids[2]}")).status == 200
    assert (await get(here, f"/status/{ids[2]}"))["status"] == "cancelled"
    assert (await here.post(f"/jobs/{ids[2]}/retry")).status == 202
    assert (await get(there, f"/status/{ids[2]}"))["status"] == "queued"
    assert len(list(spool.incoming.iterdir())) == 2


async def test_a_key_sent_to_two_servers_is_one_job(connect: Connect, spool: Spool) -> None:
    servers = [await connect(), await connect()]
    answers = await asyncio.gather(
        *(
            server.post("/edit", data=form(), headers={"Idempotency-Key": "once"})
            for server in servers * 3
        )
    )
    assert {answer.status for answer in answers} == {202}
    assert len({(await answer.json())["request_id"] for answer in answers}) == 1
    assert len(list(spool.incoming.iterdir())) == 1
    assert not list(spool.staging.iterdir())
