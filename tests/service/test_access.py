"""Access over HTTP: which requests need a token, and which jobs a user or an operator sees."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from i2ii_spool.errors import EngineError
from i2ii_spool.server.app import create_app
from i2ii_spool.server.auth import tokens
from i2ii_spool.server.auth.middleware import AUTH, PUBLIC_PATHS
from i2ii_spool.server.auth.refusals import MAX_REFUSALS
from i2ii_spool.settings import Settings
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.layout import Spool
from tests.support import filled
from tests.support.app import check_error, form

Client = TestClient[web.Request, web.Application]
Connect = Callable[..., Awaitable[Client]]
Users = dict[str, dict[str, str]]
SECRET = "a-token-from-the-environment"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def users(file: Path) -> Users:
    """The headers of two users and of an operator."""
    made = {
        name: tokens.add(file, name, is_operator=name == "ops") for name in ("alice", "bob", "ops")
    }
    return {name: bearing(token) for name, token in made.items()}


def bearing(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def connect(spool: Spool, file: Path, aiohttp_client: AiohttpClient) -> Connect:
    """Start a server that asks for the tokens in `file`; the arguments are settings."""

    async def start(**settings: Any) -> Client:
        given = {"spool": spool.root, "min_free_mib": 0, "tokens_file": file, **settings}
        return await aiohttp_client(create_app(Settings(_env_file=None, **given)))  # type: ignore[call-arg]

    return start


async def submit(client: Client, headers: dict[str, str], **fields: str) -> str:
    response = await client.post("/edit", data=form(**fields), headers=headers)
    assert response.status == 202, await response.text()
    id: str = (await response.json())["request_id"]
    return id


# --- authentication -------------------------------------------------------------------------------

WRONG = [
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer i2ii_wrong"},
    {"Authorization": "Basic YWxpY2U6eA=="},
    {"Authorization": "Bearer " + "x" * 4000},
    {"Authorization": "Bearer \x80\xff"},
]


@pytest.mark.usefixtures("users")
async def test_every_route_but_a_probe_asks_for_a_token(connect: Connect) -> None:
    client = await connect()
    assert client.app is not None
    routes = [
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource
    ]
    assert len(routes) > 8
    for method, path in routes:
        sent = "PUT" if method == "*" else method
        response = await client.request(sent, filled(path))
        if path in PUBLIC_PATHS:
            assert response.status != 401
        elif method == "HEAD":
            assert response.status == 401
        else:
            assert "send `Authorization: Bearer TOKEN`" in await check_error(
                response, 401, "unauthorized"
            )
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="i2ii"'


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("headers", WRONG, ids=lambda headers: str(headers)[:40])
async def test_what_is_no_valid_token_is_refused(
    connect: Connect, spool: Spool, headers: dict[str, str]
) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(), headers=headers)
    await check_error(response, 401, "unauthorized")
    assert not os.listdir(spool.incoming)
    assert not os.listdir(spool.staging)


async def test_token_from_the_environment_is_an_operators(connect: Connect, users: Users) -> None:
    client = await connect(api_token=SECRET)
    id = await submit(client, users["alice"])
    response = await client.get(f"/status/{id}", headers=bearing(SECRET))
    assert (await response.json())["owner"] == "alice"


async def test_cross_site_request_is_refused(connect: Connect) -> None:
    client = await connect(tokens_file=None)
    evil = {"Origin": "https://evil.example"}
    for origin in (
        evil,
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Origin": f"http://{client.host}"},
    ):
        await check_error(await client.post("/edit", data=form(), headers=origin), 403, "forbidden")
    own = {"Origin": f"http://{client.host}:{client.port}"}
    response = await client.post("/edit", data=form(), headers=own)
    assert response.status == 202
    assert not [name for name in response.headers if name.startswith("Access-Control")]
    preflight = await client.options(
        "/edit", headers={**evil, "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status in (403, 405)
    assert not [name for name in preflight.headers if name.startswith("Access-Control")]


# --- authorisation --------------------------------------------------------------------------------


def end_one(spool: Spool) -> None:
    """Have the oldest job fail."""
    spool.create_worker("here.gpu0")
    claim = Claims(spool, "here.gpu0", max_attempts=3).next()
    assert claim is not None
    claim.fail(EngineError("the paint ran out"))


CALLS = [
    ("GET", "/status/{}"),
    ("GET", "/result/{}"),
    ("GET", "/inputs/{}"),
    ("GET", "/thumbnails/{}"),
    ("POST", "/jobs/{}/retry"),
    ("DELETE", "/jobs/{}"),
]


async def test_job_of_another_user_is_not_found(
    connect: Connect, spool: Spool, users: Users
) -> None:
    client = await connect()
    id = await submit(client, users["alice"])
    end_one(spool)
    for method, path in CALLS:
        response = await client.request(method, path.format(id), headers=users["bob"])
        assert await check_error(response, 404, "not_found") == f"there is no job {id}"
    for method, path in CALLS[:4]:
        for name in ("alice", "ops"):
            response = await client.request(method, path.format(id), headers=users[name])
            assert response.status in (200, 409)
    assert (spool.failed / id).exists()
    for name, status in (("alice", 202), ("bob", 404), ("ops", 200)):
        path = "/jobs/{}/retry" if name == "alice" else "/jobs/{}"
        method = "POST" if name == "alice" else "DELETE"
        assert (await client.request(method, path.format(id), headers=users[name])).status == status


async def test_list_shows_own_jobs_and_its_pages_continue(connect: Connect, users: Users) -> None:
    client = await connect()
    ids = {"alice": [], "bob": []}  # type: dict[str, list[str]]
    for name in ("alice", "bob", "bob", "alice", "bob", "alice"):
        ids[name].insert(0, await submit(client, users[name]))
    for name in ("alice", "bob"):
        seen: list[str] = []
        after = ""
        while True:
            page = await (await client.get(f"/jobs?limit=2{after}", headers=users[name])).json()
            assert len(page["jobs"]) <= 2
            seen += [job["request_id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert seen == ids[name]
    everything = await (await client.get("/jobs", headers=users["ops"])).json()
    assert len(everything["jobs"]) == 6


async def test_worker_details_are_shown_to_operators_only(
    connect: Connect, spool: Spool, users: Users
) -> None:
    client = await connect()
    status = {
        "worker": "node1.gpu0",
        "state": "running",
        "pid": 1,
        "gpu_id": 0,
        "engine": "x",
        "model": "y",
        "job": "z",
        "recent_jobs": ["y"],
        "recent_failures": [{"job": "x", "code": "crashed"}],
    }
    (spool.workers / "node1.gpu0.json").write_text(json.dumps(status))
    shown = {
        name: await (await client.get("/system/status", headers=users[name])).json()
        for name in ("ops", "bob")
    }
    assert shown["ops"]["workers"][0]["job"] == "z"
    assert shown["ops"]["workers"][0]["recent_jobs"] == ["y"]
    told = shown["bob"]["workers"][0].keys()
    assert not told & {"job", "recent_jobs", "recent_failures"}


async def test_idempotency_keys_of_users_are_separate(connect: Connect, users: Users) -> None:
    client = await connect()
    key = {"Idempotency-Key": "order 17"}
    mine = await submit(client, {**users["alice"], **key})
    assert await submit(client, {**users["alice"], **key}) == mine
    assert await submit(client, {**users["bob"], **key}, prompt="blur") != mine


async def test_every_token_sees_all_jobs_unless_private(connect: Connect, users: Users) -> None:
    client = await connect(private_jobs=False)
    id = await submit(client, users["alice"])
    response = await client.get(f"/status/{id}", headers=users["bob"])
    assert response.status == 200
    assert (await response.json())["owner"] == "alice"


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")]
)
async def test_to_see_the_job_of_another_is_not_to_change_it(
    connect: Connect, users: Users, spool: Spool, method: str, path: str
) -> None:
    client = await connect(private_jobs=False)
    id = await submit(client, users["alice"])
    response = await client.request(method, f"/jobs/{id}{path}", headers=users["bob"])
    await check_error(response, 403, "forbidden")
    assert os.listdir(spool.incoming) == [id]
    for user in ("alice", "ops"):
        response = await client.request(method, f"/jobs/{id}{path}", headers=users[user])
        assert response.status in (200, 409)


async def test_a_new_token_of_an_old_name_does_not_see_the_jobs_of_the_old(
    connect: Connect, users: Users, file: Path
) -> None:
    client = await connect()
    id = await submit(client, users["alice"])
    tokens.revoke(file, "alice")
    new = bearing(tokens.add(file, "alice", is_operator=False))
    client.app[AUTH].read_if_changed(file)
    await check_error(await client.get(f"/status/{id}", headers=new), 404, "not_found")
    assert (await (await client.get("/jobs", headers=new)).json())["jobs"] == []


async def test_a_page_tells_nothing_of_the_jobs_of_others(
    connect: Connect, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2ii_spool.server.routes.jobs.MAX_LISTED", 3)
    client = await connect()
    mine = await submit(client, users["alice"])
    theirs = [await submit(client, users["bob"], name="merger-with-acme") for _ in range(5)]

    async def page(after: str | None) -> dict[str, Any]:
        query = {"limit": "2"} | ({} if after is None else {"after": after})
        response = await client.get("/jobs", params=query, headers=users["alice"])
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer

    first = await page(None)
    assert first["jobs"] == []
    assert not any(id in first["next"] or "acme" in first["next"] for id in theirs)
    second = await page(first["next"])
    assert [job["request_id"] for job in second["jobs"]] == [mine]
    tampered = first["next"][:-2] + ("AA" if first["next"][-2:] != "AA" else "BB")
    for wrong in (tampered, "", "=", "x" * 1000, "Straße"):
        response = await client.get(f"/jobs?limit=2&after={quote(wrong)}", headers=users["alice"])
        await check_error(response, 400, "invalid_request", "after")


async def test_private_answers_stay_out_of_caches(connect: Connect, users: Users) -> None:
    client = await connect()
    id = await submit(client, users["alice"])
    for path in (f"/status/{id}", f"/result/{id}", "/jobs", "/system/status", "/nothing"):
        response = await client.get(path, headers=users["alice"])
        assert response.headers["Cache-Control"] == "private, no-store", path
        assert response.headers["Vary"] == "Authorization"


async def test_refused_tokens_are_logged_and_slowed_down(
    connect: Connect, users: Users, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect()
    for _ in range(MAX_REFUSALS):
        response = await client.get("/jobs", headers=bearing("i2ii_guessed"))
        await check_error(response, 401, "unauthorized")
    response = await client.get("/jobs", headers=bearing("i2ii_guessed"))
    await check_error(response, 429, "too_many_requests")
    assert 0 < int(response.headers["Retry-After"]) <= 60
    assert (await client.get("/jobs", headers=users["alice"])).status == 200, "the same address"
    lines = [record.message for record in caplog.records if "127.0.0.1" in record.message]
    assert len(lines) == 2
    assert "guessed" not in caplog.text
