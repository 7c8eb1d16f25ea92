"""The names that a request may carry, and whose address it comes from."""

import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from i2ii_spool.errors import SettingsError
from i2ii_spool.server.app import ROUTES, create_app
from i2ii_spool.server.routing import Route
from i2ii_spool.settings import Settings, load
from i2ii_spool.spool.layout import Spool
from tests.support import filled
from tests.support.app import Client, Connect, check_error, form, get, is_empty

TOKEN = "a-token-of-an-operator"
EVERY_ROUTE = [*ROUTES, Route("GET", "/nothing", ROUTES[0].handler)]


def sent_to(host: str, **headers: str) -> dict[str, str]:
    return {"Host": host, **headers}


# --- Host -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT"])
@pytest.mark.parametrize("route", EVERY_ROUTE, ids=lambda route: route.path)
async def test_a_name_that_may_be_rebound_is_refused_on_every_route(
    connect: Connect, spool: Spool, route: Route, method: str
) -> None:
    client = await connect()
    path = filled(route.path)
    response = await client.request(method, path, headers=sent_to("rebound.example:8000"))
    if route.path == "/livez":
        assert response.status in (200, 204, 405)
    elif method == "HEAD":
        assert response.status == 421
    else:
        message = await check_error(response, 421, "misdirected_request", "Host")
        assert "rebound.example" in message
        assert "I2II_ALLOWED_HOSTS" in message
    assert is_empty(spool)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:80",
        "localhost.",
        "edit.localhost:8000",
        "127.0.0.1:1",
        "127.3.2.1",
        "[::1]:8000",
        "192.0.2.7:8000",
        "[2001:db8::7]",
    ],
)
async def test_a_name_that_cannot_be_rebound_is_served(connect: Connect, host: str) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(), headers=sent_to(host))
    assert response.status == 202, await response.text()


@pytest.mark.parametrize(
    "host",
    [
        "localhost.evil.example",
        "evil-localhost",
        "127.0.0.1.evil.example",
        "1.2.3",
        "user@localhost",
        "localhost/",
        "local host",
        "[localhost]",
        "::1",
        "localhost:80:80",
        "画.example",
    ],
)
async def test_what_only_looks_like_this_machine_is_refused(connect: Connect, host: str) -> None:
    client = await connect()
    response = await client.get("/jobs", headers=sent_to(host))
    await check_error(response, 421, "misdirected_request", "Host")


async def test_an_operator_may_allow_names(connect: Connect) -> None:
    client = await connect(allowed_hosts="edit.example.org, Studio")
    for host in ("edit.example.org", "EDIT.example.org.:8000", "studio"):
        assert (await client.get("/jobs", headers=sent_to(host))).status == 200
    for host in ("example.org", "x.edit.example.org"):
        response = await client.get("/jobs", headers=sent_to(host))
        await check_error(response, 421, "misdirected_request", "Host")


async def test_an_operator_may_allow_all_names(connect: Connect) -> None:
    client = await connect(allowed_hosts="*")
    assert (await client.get("/jobs", headers=sent_to("any.example"))).status == 200
    evil = sent_to("any.example", Origin="http://evil.example")
    await check_error(await client.post("/edit", data=form(), headers=evil), 403, "forbidden")


async def test_a_server_for_other_machines_answers_to_its_own_name(connect: Connect) -> None:
    local = await connect()
    own = sent_to(f"{socket.gethostname()}:8000")
    response = await local.get("/jobs", headers=own)
    await check_error(response, 421, "misdirected_request", "Host")
    for settings in ({"no_auth": True}, {"host": socket.gethostname(), "no_auth": True}):
        assert (await (await connect(**settings)).get("/jobs", headers=own)).status == 200


async def test_a_token_is_proof_enough(connect: Connect) -> None:
    client = await connect(api_token=TOKEN)
    headers = sent_to("edit.example.org", Authorization=f"Bearer {TOKEN}")
    assert (await client.get("/jobs", headers=headers)).status == 200
    assert (await client.get("/health", headers=sent_to("edit.example.org"))).status == 503
    response = await client.get("/jobs", headers=sent_to("edit.example.org"))
    await check_error(response, 401, "unauthorized")


async def test_a_page_of_an_allowed_host_may_submit(connect: Connect) -> None:
    client = await connect(allowed_hosts="edit.example.org")
    for origin in ("https://edit.example.org", "http://Edit.example.org:8443"):
        response = await client.post("/edit", data=form(), headers={"Origin": origin})
        assert response.status == 202
    own = sent_to("edit.example.org", Origin="https://edit.example.org")
    assert (await client.post("/edit", data=form(), headers=own)).status == 202
    for origin in ("https://example.org", "null", "file://edit.example.org", "http://localhost:1"):
        response = await client.post("/edit", data=form(), headers={"Origin": origin})
        await check_error(response, 403, "forbidden")


@pytest.mark.parametrize("name", ["http://edit.example.org", "edit.example.org:80", "*.org", "a/b"])
def test_a_wrong_allowed_host_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="allowed_hosts must be names without scheme and port"):
        load({"allowed_hosts": name}, files=())


# --- the client's address -------------------------------------------------------------------------

FORWARDED = [
    ("127.0.0.0/8", {"X-Forwarded-For": "203.0.113.7"}, "203.0.113.7"),
    ("127.0.0.1", {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}, "203.0.113.7"),
    ("127.0.0.1 10.0.0.0/8", {"X-Forwarded-For": "9.9.9.9, 203.0.113.7,10.1.1.1"}, "203.0.113.7"),
    ("127.0.0.1,10.0.0.0/8", {"X-Forwarded-For": "10.2.2.2, 10.1.1.1"}, "10.2.2.2"),
    ("127.0.0.1", {"X-Forwarded-For": "203.0.113.7:4711"}, "203.0.113.7"),
    ("127.0.0.1", {"X-Forwarded-For": "2001:DB8::7"}, "2001:db8::7"),
    ("127.0.0.1", {"X-Forwarded-For": "[2001:db8::7]:4711"}, "2001:db8::7"),
    ("127.0.0.1", {"X-Forwarded-For": "::ffff:203.0.113.7"}, "203.0.113.7"),
    ("127.0.0.1", {"X-Forwarded-For": "203.0.113.7, unknown"}, "127.0.0.1"),
    ("127.0.0.1", {"X-Forwarded-For": "<script>"}, "127.0.0.1"),
    ("127.0.0.1", {"X-Forwarded-For": ""}, "127.0.0.1"),
    ("127.0.0.1", {"Forwarded": 'for="[2001:db8::7]:4711";proto=https'}, "2001:db8::7"),
    ("127.0.0.1", {"Forwarded": "for=198.51.100.1, for=203.0.113.7;by=x"}, "203.0.113.7"),
    ("127.0.0.1", {"Forwarded": "for=_hidden"}, "127.0.0.1"),
    (
        "127.0.0.1",
        {"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=198.51.100.1"},
        "203.0.113.7",
    ),
    ("10.0.0.0/8", {"X-Forwarded-For": "203.0.113.7"}, "127.0.0.1"),
    ("", {"X-Forwarded-For": "203.0.113.7"}, "127.0.0.1"),
    ("unix", {"X-Forwarded-For": "203.0.113.7"}, "127.0.0.1"),
]


@pytest.mark.parametrize(("trusted", "headers", "address"), FORWARDED, ids=lambda each: str(each))
async def test_the_address_of_a_client_is_the_nearest_untrusted_one(
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    trusted: str,
    headers: dict[str, str],
    address: str,
) -> None:
    client = await connect(trusted_proxies=trusted)
    with caplog.at_level("INFO"):
        response = await client.post("/edit", data=form(), headers=headers)
    assert response.status == 202
    assert f"submitted by {address}\n" in caplog.text


async def test_each_client_of_a_proxy_has_its_own_share(connect: Connect) -> None:
    client = await connect(trusted_proxies="127.0.0.1", client_submits_per_minute=1)
    for address, status in [("203.0.113.7", 202), ("203.0.113.8", 202), ("203.0.113.7", 429)]:
        headers = {"X-Forwarded-For": f"9.9.9.9, {address}"}
        response = await client.post("/edit", data=form(), headers=headers)
        assert response.status == status
    assert address in await check_error(response, 429, "too_many_requests")


@pytest.mark.parametrize(
    ("trusted", "address"),
    [("", "this machine"), ("unix", "203.0.113.7"), ("::/0", "this machine")],
)
async def test_a_client_on_a_unix_socket_may_be_a_proxy(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: str, address: str
) -> None:
    given: dict[str, Any] = {
        "spool": spool.root,
        "min_free_mib": 0,
        "trusted_proxies": trusted or None,
    }
    runner = web.AppRunner(create_app(Settings(_env_file=None, **given)))  # type: ignore[call-arg]
    await runner.setup()
    path = str(tmp_path / "http.sock")
    await web.UnixSite(runner, path).start()
    headers = sent_to("any.name", **{"X-Forwarded-For": "203.0.113.7"})
    with caplog.at_level("INFO"):
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            response = await session.post("http://x/edit", data=form(), headers=headers)
            assert response.status == 202, await response.text()
            headers = sent_to("any.name", Origin="https://evil.example")
            response = await session.post("http://x/edit", data=form(), headers=headers)
            await check_error(response, 403, "forbidden")
    await runner.cleanup()
    assert f"submitted by {address}\n" in caplog.text


@pytest.mark.parametrize("network", ["proxy.example.org", "10.0.0.0/33", "unix:/run/x"])
def test_a_wrong_network_is_refused(network: str) -> None:
    with pytest.raises(SettingsError, match="trusted_proxies must be networks like 10"):
        load({"trusted_proxies": network}, files=())


async def test_a_request_without_a_host_is_served(connect: Connect) -> None:
    client: Client = await connect()
    assert await get(client, "/livez") == {"status": "alive"}
    headers = {"Host": ""}
    assert (await client.get("/jobs", headers=headers)).status == 200
