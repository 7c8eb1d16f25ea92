"""`GET /` and its files: what a browser gets, and keeps."""

import gzip
import re

import pytest
from aiohttp import ClientSession, DummyCookieJar

from i2ii_spool.server.assets import FOLDER, MEDIA_TYPES, Assets, extension
from tests.support.app import Client, Connect, check_error

TOKEN = "a-token-of-an-operator"
FILES = sorted(each.name for each in FOLDER.iterdir() if extension(each.name) in MEDIA_TYPES)
SERVED = [name for name in FILES if name not in ("index.html", "docs.html")]


async def base_of(client: Client) -> str:
    """The path of the files of the page."""
    found = re.search(r'"(/page/[0-9a-f]{16})/', await (await client.get("/")).text())
    assert found
    return found[1]


async def test_the_page_needs_no_token_and_may_do_little(connect: Connect) -> None:
    client = await connect(api_token=TOKEN)
    response = await client.get("/")
    page = await response.text()
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "{assets}" not in page
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Content-Security-Policy"] == (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


async def test_everything_that_the_page_loads_is_there(connect: Connect) -> None:
    client = await connect(api_token=TOKEN)
    loaded = re.findall(r'(?:src|href)="(/page/[^"]*)"', await (await client.get("/")).text())
    assert loaded
    for path in loaded:
        assert (await client.get(path)).status == 200, path


@pytest.mark.parametrize("name", SERVED)
async def test_a_file_is_kept_for_ever(connect: Connect, name: str) -> None:
    client = await connect(api_token=TOKEN)
    response = await client.get(f"{await base_of(client)}/{name}")
    assert response.status == 200
    assert response.content_type == MEDIA_TYPES[extension(name)]
    assert await response.read() == (FOLDER / name).read_bytes()
    assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert response.headers["Vary"] == "Accept-Encoding"


async def test_the_page_is_not_sent_again_while_it_is_the_same(connect: Connect) -> None:
    client = await connect()
    known = (await client.get("/")).headers["ETag"]
    for tag, status in ((known, 304), (f'"x", {known}', 304), ("*", 304), ('"x"', 200)):
        response = await client.get("/", headers={"If-None-Match": tag})
        assert (response.status, response.headers["ETag"]) == (status, known)


@pytest.mark.parametrize(
    ("accepted", "is_gzipped"),
    [
        ("gzip, deflate, br", True),
        ("br, GZIP;q=0.5", True),
        ("identity", False),
        ("gzip;q=0", False),
        ("x-gzipped", False),
    ],
)
async def test_text_is_compressed_for_those_who_take_it(
    connect: Connect, accepted: str, is_gzipped: bool
) -> None:
    client = await connect()
    base = f"http://{client.host}:{client.port}"
    async with ClientSession(auto_decompress=False, cookie_jar=DummyCookieJar()) as session:
        tags = set()
        for path in ("/", f"{await base_of(client)}/app.js"):
            response = await session.get(base + path, headers={"Accept-Encoding": accepted})
            body = await response.read()
            assert (response.headers.get("Content-Encoding") == "gzip") == is_gzipped
            assert b"i2ii" in (gzip.decompress(body) if is_gzipped else body)
            tags.add(response.headers.get("ETag"))
        other = await session.get(base, headers={"Accept-Encoding": "gzip, identity"})
        assert (other.headers["ETag"] in tags) == is_gzipped


@pytest.mark.parametrize(
    "name",
    [
        *("docs.html", "index.html", "rapidoc.js.gz", "rapidoc.LICENSE.txt", "nothing.js"),
        *("..%2fassets.py", "%2e%2e/assets.py", "app.js%00", "APP.JS", "."),
    ],
)
async def test_nothing_else_is_served(connect: Connect, name: str) -> None:
    client = await connect()
    url = f"http://{client.host}:{client.port}{await base_of(client)}/{name}"
    await check_error(await client.session.get(url), 404, "not_found")


async def test_another_version_is_not_found(connect: Connect) -> None:
    client = await connect()
    await check_error(await client.get(f"/page/{'0' * 16}/app.js"), 404, "not_found")


def test_the_digest_changes_with_every_file() -> None:
    one = {"index.html": b"{assets}", "a.js": b"1", "b.js": b"2"}
    others = [
        {**one, "a.js": b"3"},
        {**one, "index.html": b"{assets} "},
        {**one, "c.js": b""},
        {"index.html": b"{assets}", "a.js": b"2", "b.js": b"1"},
    ]
    digests = [Assets(each).digest for each in (one, *others)]
    assert len(set(digests)) == len(digests)
    assert Assets(dict(reversed(one.items()))).digest == digests[0]
