"""Who gets in, and what they see: tokens through the command and over HTTP, as operators and
strangers meet them."""

import http.client
import json
import os
import re
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp import AiohttpClient

from i2ii_spool.errors import EngineError, SettingsError
from i2ii_spool.server.app import create_app
from i2ii_spool.server.auth import tokens
from i2ii_spool.server.auth.middleware import PUBLIC_PATHS
from i2ii_spool.settings import Settings, load
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.layout import Spool
from tests.support.app import check_error, form
from tests.support.service import Service, cli, wait_until

Client = TestClient[web.Request, web.Application]
Connect = Callable[..., Awaitable[Client]]
People = dict[str, dict[str, str]]
SECRET = "a-token-from-the-environment"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def people(file: Path) -> People:
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


# --- the door -------------------------------------------------------------------------------------

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


@pytest.mark.usefixtures("people")
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
        response = await client.request(method, path.replace("{id}", "20260101-000000-000-aaaaaa"))
        if path in PUBLIC_PATHS:
            assert response.status != 401
        elif method == "HEAD":
            assert response.status == 401
        else:
            assert "send `Authorization: Bearer TOKEN`" in await check_error(
                response, 401, "unauthorized"
            )
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="i2ii"'


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("headers", WRONG, ids=lambda headers: str(headers)[:40])
async def test_what_is_no_valid_token_is_refused(
    connect: Connect, spool: Spool, headers: dict[str, str]
) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(), headers=headers)
    await check_error(response, 401, "unauthorized")
    assert not os.listdir(spool.incoming)
    assert not os.listdir(spool.staging)


async def test_a_token_from_the_environment_is_an_operators(
    connect: Connect, people: People
) -> None:
    client = await connect(api_token=SECRET)
    id = await submit(client, people["alice"])
    response = await client.get(f"/status/{id}", headers=bearing(SECRET))
    assert (await response.json())["owner"] == "alice"


async def test_a_page_of_another_site_may_not_act_for_its_visitor(connect: Connect) -> None:
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


# --- whose jobs -----------------------------------------------------------------------------------


def end_one(spool: Spool) -> None:
    """Have the oldest job fail."""
    spool.make_worker("here.gpu0")
    claim = Claims(spool, "here.gpu0", max_attempts=3).next()
    assert claim is not None
    claim.fail(EngineError("the paint ran out"))


CALLS = [
    ("GET", "/status/{}"),
    ("GET", "/result/{}"),
    ("POST", "/jobs/{}/retry"),
    ("DELETE", "/jobs/{}"),
]


async def test_a_job_is_not_there_for_whoever_did_not_submit_it(
    connect: Connect, spool: Spool, people: People
) -> None:
    client = await connect()
    id = await submit(client, people["alice"])
    end_one(spool)
    for method, path in CALLS:
        response = await client.request(method, path.format(id), headers=people["bob"])
        assert await check_error(response, 404, "not_found") == f"there is no job {id}"
    for method, path in CALLS[:2]:
        for name in ("alice", "ops"):
            response = await client.request(method, path.format(id), headers=people[name])
            assert response.status in (200, 409)
    assert (spool.failed / id).exists()
    for name, status in (("alice", 202), ("bob", 404), ("ops", 200)):
        path = "/jobs/{}/retry" if name == "alice" else "/jobs/{}"
        method = "POST" if name == "alice" else "DELETE"
        assert (
            await client.request(method, path.format(id), headers=people[name])
        ).status == status


async def test_a_list_shows_ones_own_jobs_and_goes_on_where_it_stopped(
    connect: Connect, people: People
) -> None:
    client = await connect()
    ids = {"alice": [], "bob": []}  # type: dict[str, list[str]]
    for name in ("alice", "bob", "bob", "alice", "bob", "alice"):
        ids[name].insert(0, await submit(client, people[name]))
    for name in ("alice", "bob"):
        seen: list[str] = []
        after = ""
        while True:
            page = await (await client.get(f"/jobs?limit=2{after}", headers=people[name])).json()
            assert len(page["jobs"]) <= 2
            seen += [job["request_id"] for job in page["jobs"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert seen == ids[name]
    everything = await (await client.get("/jobs", headers=people["ops"])).json()
    assert len(everything["jobs"]) == 6


async def test_what_a_worker_does_is_shown_to_operators_alone(
    connect: Connect, spool: Spool, people: People
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
    }
    (spool.workers / "node1.gpu0.json").write_text(json.dumps(status))
    shown = {
        name: await (await client.get("/system/status", headers=people[name])).json()
        for name in ("ops", "bob")
    }
    assert shown["ops"]["workers"][0]["job"] == "z"
    assert "job" not in shown["bob"]["workers"][0]


async def test_a_key_of_ones_own_is_nobody_elses(connect: Connect, people: People) -> None:
    client = await connect()
    key = {"Idempotency-Key": "order 17"}
    mine = await submit(client, {**people["alice"], **key})
    assert await submit(client, {**people["alice"], **key}) == mine
    assert await submit(client, {**people["bob"], **key}, prompt="blur") != mine


async def test_where_jobs_are_not_private_every_token_sees_all(
    connect: Connect, people: People
) -> None:
    client = await connect(private_jobs=False)
    id = await submit(client, people["alice"])
    response = await client.get(f"/status/{id}", headers=people["bob"])
    assert response.status == 200


# --- the file -------------------------------------------------------------------------------------


def test_a_token_is_printed_once_and_kept_nowhere(service: Service, file: Path) -> None:
    printed = cli(service, "token", "add", "alice", "--tokens-file", str(file)).stdout.strip()
    cli(service, "token", "add", "ops", "--operator", "--tokens-file", str(file))
    assert re.fullmatch(r"i2ii_[A-Za-z0-9_-]{43}", printed)
    assert printed not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (
        cli(service, "token", "names", "--tokens-file", str(file)).stdout
        == "alice\nops  operator\n"
    )
    twice = cli(service, "token", "add", "alice", "--tokens-file", str(file), check=False)
    assert (twice.returncode, "take another name" in twice.stderr) == (64, True)
    cli(service, "token", "revoke", "alice", "--tokens-file", str(file))
    assert cli(service, "token", "names", "--tokens-file", str(file)).stdout == "ops  operator\n"
    assert (
        cli(service, "token", "revoke", "alice", "--tokens-file", str(file), check=False).returncode
        == 64
    )


def test_what_an_operator_wrote_into_the_file_stays(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    file.write_text(f"# alice asked on Tuesday\n{file.read_text()}\n")
    file.chmod(0o600)
    tokens.add(file, "bob", is_operator=False)
    tokens.revoke(file, "alice")
    assert file.read_text().startswith("# alice asked on Tuesday\n\nbob  ")


BROKEN = {
    "alice\n": "line 1 of",
    "alice secret\n": "line 1 of",
    "# fine\n\nalice " + "a" * 63 + "\n": "line 3 of",
    f"alice {'a' * 64} admin\n": "line 1 of",
    f"../alice {'a' * 64}\n": "line 1 of",
    f"alice {'a' * 64}\nalice {'b' * 64}\n": "names alice twice",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_named_with_the_line_and_never_quoted(
    service: Service, file: Path, text: str
) -> None:
    file.write_text(text)
    file.chmod(0o640)
    refused = cli(service, "serve", "--tokens-file", str(file), check=False)
    assert refused.returncode == 78
    assert BROKEN[text] in refused.stderr
    assert "secret" not in refused.stderr


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o666])
def test_a_file_that_others_may_use_is_not_used(service: Service, file: Path, mode: int) -> None:
    tokens.add(file, "alice", is_operator=False)
    file.chmod(mode)
    refused = cli(service, "serve", "--tokens-file", str(file), check=False)
    assert refused.returncode == 78
    assert f"chmod 640 {file}" in refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_not_used(file: Path) -> None:
    tokens.add(file, "alice", is_operator=False)
    os.chown(file, 12345, 0)
    with pytest.raises(SettingsError, match="belongs to another user"):
        tokens.read(file)


def test_a_link_to_a_file_is_not_followed(file: Path, tmp_path: Path) -> None:
    tokens.add(tmp_path / "real", "alice", is_operator=False)
    file.symlink_to(tmp_path / "real")
    with pytest.raises(SettingsError, match="not a regular file"):
        tokens.read(file)


# --- a running server -----------------------------------------------------------------------------


def ask(url: str, path: str, token: str | None = None) -> int:
    """The status of a GET."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path, headers=bearing(token) if token else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def test_tokens_come_and_go_without_a_restart(service: Service, file: Path) -> None:
    alice = tokens.add(file, "alice", is_operator=False)
    url = service.serve(tokens_file=str(file), host="0.0.0.0").replace("0.0.0.0", "127.0.0.1")
    assert (ask(url, "/jobs", alice), ask(url, "/jobs"), ask(url, "/livez")) == (200, 401, 200)
    bob = tokens.add(file, "bob", is_operator=False)
    wait_until(lambda: ask(url, "/jobs", bob) == 200)
    tokens.revoke(file, "alice")
    wait_until(lambda: ask(url, "/jobs", alice) == 401)
    file.write_text("nonsense\n")
    wait_until(lambda: "the tokens stay as they were" in service.read_log())
    assert ask(url, "/jobs", bob) == 200
    file.write_text("# nobody\n")
    wait_until(lambda: ask(url, "/jobs", bob) == 401)


def test_no_secret_stands_in_logs_settings_or_command_lines(
    service: Service, file: Path, picture: Path
) -> None:
    alice = tokens.add(file, "alice", is_operator=False)
    service.environment["I2II_API_TOKEN"] = SECRET
    up = service.start(
        sys.executable, "-m", "i2ii_spool", "up", "--port", "0", "--tokens-file", str(file)
    )
    url = wait_until(lambda: re.search(r"listening on (http://\S+),", service.read_log()))[1]
    service.environment["I2II_API_TOKEN"] = alice
    id = cli(service, "submit", str(picture), "-p", "sepia", "--url", url).stdout.strip()
    wait_until((service.spool.done / id).exists)
    lines = [
        (process / "cmdline").read_bytes().decode(errors="replace")
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and is_child(process, up.pid)
    ]
    assert len(lines) == 2
    shown = cli(service, "settings").stdout
    written = "".join(
        path.read_text(errors="replace") for path in service.spool.root.rglob("*") if path.is_file()
    )
    for place in (service.read_log(), shown, "".join(lines), written):
        assert SECRET not in place
        assert alice not in place
    assert f"job {id} submitted by alice (127.0.0.1)" in service.read_log()


def is_child(process: Path, parent: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_command_says_what_is_wrong_with_its_token(
    service: Service, file: Path, picture: Path
) -> None:
    tokens.add(file, "alice", is_operator=False)
    url = service.serve(tokens_file=str(file))
    submit = ("submit", str(picture), "-p", "sepia", "--url", url)
    refused = cli(service, *submit, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "send `Authorization: Bearer TOKEN`" in refused.stderr
    service.environment["I2II_API_TOKEN"] = "i2ii_this-one-is-wrong"
    assert "not valid" in cli(service, *submit, check=False).stderr


# --- settings -------------------------------------------------------------------------------------


@pytest.fixture
def settings_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "i2ii.env"
    path.write_text(f"I2II_API_TOKEN={SECRET}\n")
    return path


def test_a_token_in_a_file_that_others_read_is_refused(settings_file: Path) -> None:
    settings_file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 640"):
        load(files=[settings_file])
    settings_file.chmod(0o640)
    assert load(files=[settings_file]).client_token == SECRET


def test_a_token_that_could_be_guessed_is_refused_and_not_quoted(service: Service) -> None:
    service.environment["I2II_API_TOKEN"] = "hunter2"
    refused = cli(service, "serve", check=False)
    assert refused.returncode == 78
    assert "at least 16 characters" in refused.stderr
    assert "hunter2" not in refused.stderr


def test_other_addresses_ask_for_tokens_or_for_courage(file: Path) -> None:
    with pytest.raises(SettingsError, match="i2ii token add"):
        load({"host": "0.0.0.0"}, files=[])
    load({"host": "0.0.0.0", "tokens_file": file}, files=[])
    load({"host": "0.0.0.0", "no_auth": True}, files=[])
    with pytest.raises(SettingsError, match="contradict"):
        load({"host": "0.0.0.0", "tokens_file": file, "no_auth": True}, files=[])
