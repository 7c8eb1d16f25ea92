"""Pages of other sites, as browsers let them ask (CORS)."""

import pytest
from aiohttp import ClientResponse

from i2ii_spool.errors import SettingsError
from i2ii_spool.server.app import ROUTES
from i2ii_spool.server.routing import Route
from i2ii_spool.settings import load
from tests.support import filled
from tests.support.app import Client, Connect, HandWorker, form

TOKEN = "a-token-of-an-operator"
PAGE = "https://images.example.com"
OTHER_PAGE = "https://images.example.com.evil.example"
ALLOWED = {"api_token": TOKEN, "allow_origins": f"{PAGE}, http://localhost:3000"}
OF_ANY_PAGE = ("cache-control", "content-length", "content-type", "last-modified")
"""Headers that a browser shows unasked (Fetch standard)."""
OF_THE_CONNECTION = ("connection", "date", "server", "transfer-encoding", "vary")
OF_THE_BROWSER = ("x-content-type-options",)
EACH_ROUTE = pytest.mark.parametrize(
    "route", ROUTES, ids=lambda route: f"{route.method} {route.path}"
)


async def ask(client: Client, method: str, path: str, origin: str = PAGE) -> ClientResponse:
    """A preflight."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,x-stainless-retry-count",
    }
    return await client.options(path, headers=headers)


async def preflight(client: Client, route: Route, origin: str, query: str = "") -> ClientResponse:
    return await ask(client, route.method, filled(route.path) + query, origin)


def cors(response: ClientResponse) -> dict[str, str]:
    """The headers that tell a browser what the page may do."""
    head = "Access-Control-"
    return {
        name.removeprefix(head): value
        for name, value in response.headers.items()
        if name.startswith(head)
    }


@EACH_ROUTE
@pytest.mark.parametrize("query", ["", "?wait=3", "?none-of-its-parameters=1"])
async def test_a_page_may_ask_each_route(connect: Connect, route: Route, query: str) -> None:
    """Also with a query: browsers ask for the whole URL."""
    client = await connect(**ALLOWED)
    response = await preflight(client, route, PAGE, query)
    assert response.status == 204
    allowed = cors(response)
    assert allowed["Allow-Origin"] == PAGE
    assert route.method in allowed["Allow-Methods"].split(", ")
    assert allowed["Allow-Headers"] == "authorization,x-stainless-retry-count"
    assert "Allow-Credentials" not in allowed


@pytest.mark.parametrize("path", ["/v1/images/generations", "/nowhere?x=1", "/nowhere//"])
async def test_a_page_may_ask_for_what_is_not_there(connect: Connect, path: str) -> None:
    """Its browser then sends the request, and the page reads the 404."""
    response = await ask(await connect(**ALLOWED), "POST", path)
    assert response.status == 204
    assert cors(response)["Allow-Methods"] == "*"


async def test_a_page_may_ask_another_spelling_of_a_path(connect: Connect) -> None:
    response = await ask(await connect(**ALLOWED), "GET", "/jobs/")
    assert cors(response)["Allow-Methods"] == "GET, HEAD, OPTIONS"


@EACH_ROUTE
@pytest.mark.parametrize("origin", [OTHER_PAGE, "null", "http://images.example.com", ""])
async def test_another_page_may_not(connect: Connect, route: Route, origin: str) -> None:
    client = await connect(**ALLOWED)
    assert cors(await preflight(client, route, origin)) == {}


async def test_every_answer_is_for_the_page(connect: Connect) -> None:
    client = await connect(**ALLOWED)
    known = {"Authorization": f"Bearer {TOKEN}"}
    answers = [
        (200, await client.get("/jobs", headers={"Origin": PAGE, **known})),
        (202, await client.post("/edit", data=form(), headers={"Origin": PAGE, **known})),
        (401, await client.get("/jobs", headers={"Origin": PAGE})),
        (404, await client.get("/nowhere", headers={"Origin": PAGE, **known})),
        (405, await client.put("/jobs", headers={"Origin": PAGE, **known})),
        (400, await client.post("/edit", data=form(seed="x"), headers={"Origin": PAGE, **known})),
    ]
    for status, response in answers:
        assert response.status == status
        assert cors(response)["Allow-Origin"] == PAGE
        assert "X-Request-ID" in cors(response)["Expose-Headers"]
        assert "Origin" in response.headers["Vary"]


async def test_a_page_may_read_every_header(connect: Connect, worker: HandWorker) -> None:
    client = await connect(**ALLOWED)
    known = {"Origin": PAGE, "Authorization": f"Bearer {TOKEN}"}
    submitted = await client.post("/edit", data=form(), headers=known)
    result = (await submitted.json())["result_url"]
    answers = [submitted, await client.get(result, headers=known)]
    worker.finish()
    for part in ("bytes=0-9", "bytes=0-", "bytes=999999-"):
        answers.append(await client.get(result, headers={**known, "Range": part}))
    tag = answers[-2].headers["ETag"]
    answers.append(await client.get(result, headers={**known, "If-None-Match": tag}))
    answers.append(await client.put("/jobs", headers=known))
    answers.append(await client.get("/jobs", headers={"Origin": PAGE}))
    assert [each.status for each in answers] == [202, 202, 206, 206, 416, 304, 405, 401]
    for response in answers:
        exposed = cors(response)["Expose-Headers"].lower().split(", ")
        sent = {name.lower() for name in response.headers if not name.startswith("Access-Control-")}
        assert sent <= {*exposed, *OF_ANY_PAGE, *OF_THE_CONNECTION, *OF_THE_BROWSER}


@pytest.mark.parametrize("origins", [PAGE, "*"])
async def test_a_page_reads_no_metrics_as_its_network(connect: Connect, origins: str) -> None:
    """Prometheus needs no token there; a page that a member of the network opens does."""
    settings = {"api_token": TOKEN, "allow_origins": origins, "metrics_networks": "127.0.0.0/8"}
    client = await connect(**settings)
    assert (await client.get("/metrics")).status == 200
    assert (await client.get("/metrics", headers={"Origin": PAGE})).status == 401
    known = {"Origin": PAGE, "Authorization": f"Bearer {TOKEN}"}
    assert (await client.get("/metrics", headers=known)).status == 200


async def test_another_page_reads_no_answer(connect: Connect) -> None:
    client = await connect(**ALLOWED)
    headers = {"Origin": OTHER_PAGE, "Authorization": f"Bearer {TOKEN}"}
    response = await client.get("/jobs", headers=headers)
    assert cors(response) == {}
    assert "Origin" in response.headers["Vary"], "a cache would give it the answer of a page"


async def test_a_preflight_gives_nothing_away(connect: Connect) -> None:
    """An `OPTIONS` that is no preflight of an allowed page needs a token, as ever."""
    client = await connect(**ALLOWED)
    assert (await client.options("/jobs", headers={"Origin": PAGE})).status == 401
    [jobs] = [route for route in ROUTES if route.path == "/jobs"]
    assert (await preflight(client, jobs, OTHER_PAGE)).status == 401


async def test_all_pages_may_be_allowed(connect: Connect) -> None:
    client = await connect(api_token=TOKEN, allow_origins="*")
    for origin in (PAGE, "null"):
        response = await client.get("/health", headers={"Origin": origin})
        assert cors(response)["Allow-Origin"] == origin


async def test_without_the_setting_nothing_is_said(connect: Connect) -> None:
    client = await connect(api_token=TOKEN)
    response = await client.get("/health", headers={"Origin": PAGE})
    assert cors(response) == {}
    assert "Origin" not in response.headers["Vary"]


@pytest.mark.parametrize(
    "origin", ["images.example.com", "https://a.example/page", "https://", "https://*.example.com"]
)
def test_what_is_no_origin_is_refused_at_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="allow_origins must be origins"):
        load({"api_token": TOKEN, "allow_origins": origin}, files=())


def test_another_port_is_another_origin() -> None:
    named = "http://a.example:80 http://a.example:8080 http://b.example:443 https://[::1]:443"
    settings = load({"api_token": TOKEN, "allow_origins": named}, files=())
    assert settings.allowed_origins == {
        *("http://a.example", "http://a.example:8080", "http://b.example:443", "https://[::1]")
    }


def test_pages_of_other_sites_need_tokens() -> None:
    with pytest.raises(SettingsError, match="needs tokens"):
        load({"allow_origins": PAGE}, files=())


@pytest.mark.parametrize(
    "spelt",
    ["https://Images.Example.com/", "http://[::1]:3000 " + PAGE, f"{PAGE}:443", f"{PAGE}:443/"],
)
def test_harmless_spellings_are_taken(spelt: str) -> None:
    settings = load({"api_token": TOKEN, "allow_origins": spelt}, files=())
    assert PAGE in settings.allowed_origins
