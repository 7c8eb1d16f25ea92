"""Bodies in JSON, whose pictures are `data:` URLs."""

import asyncio
import base64
import io
import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from i2ii_spool.server.openai import json_body
from i2ii_spool.spool.layout import Spool
from tests.support.app import Client, Connect, HandWorker, check_error, is_empty
from tests.support.pictures import encoded, saved
from tests.support.service import wait_until

PATH = "/v1/images/edits"
PICTURE = encoded()
LARGE = encoded(size=(600, 500))


def url(picture: bytes = PICTURE, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def body(**fields: Any) -> bytes:
    return json.dumps({"images": [{"image_url": url()}], "prompt": "sepia", **fields}).encode()


async def post(client: Client, data: bytes, *, cut: int = 0) -> ClientResponse:
    """Send a body, in pieces of `cut` bytes if it is not 0."""

    async def pieces() -> Any:
        for at in range(0, len(data), cut):
            yield data[at : at + cut]

    headers = {"Content-Type": "application/json"}
    sent = pieces() if cut else io.BytesIO(data)
    return await client.post(PATH, data=sent, headers=headers)


async def submitted(
    client: Client, worker: HandWorker, data: bytes, *, cut: int = 0
) -> dict[str, bytes]:
    """Send a body that is accepted; return the files of its job."""
    asking = asyncio.create_task(post(client, data, cut=cut))
    incoming = worker.spool.incoming
    [job] = await asyncio.to_thread(
        wait_until, lambda: list(incoming.iterdir()) or (asking.done() and asking.result())
    )
    files = {path.name: path.read_bytes() for path in job.iterdir()}
    worker.finish()
    response = await asking
    assert response.status == 200, await response.text()
    return files


@pytest.mark.parametrize(
    "images",
    [
        [{"image_url": url()}, {"image_url": url(LARGE, "image/jpeg")}],
        [url(), url(LARGE)],
        [{"url": url()}, {"image_url": {"url": url(LARGE)}}],
    ],
    ids=["official", "strings", "objects"],
)
async def test_pictures_keep_their_order(
    connect: Connect, worker: HandWorker, images: list[Any]
) -> None:
    files = await submitted(await connect(), worker, body(images=images, n=1, seed=7, user=None))
    assert (files["input.png"], files["input-2.png"]) == (PICTURE, LARGE)
    request = json.loads(files["job.json"])
    assert (request["prompt"], request["seed"]) == ("sepia", 7)


async def test_one_picture_may_be_called_image(connect: Connect, worker: HandWorker) -> None:
    data = json.dumps({"prompt": 'a "quote": {[', "image": url(LARGE)}).encode()
    files = await submitted(await connect(), worker, data)
    assert files["input.png"] == LARGE
    assert json.loads(files["job.json"])["prompt"] == 'a "quote": {['


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_a_body_may_arrive_in_any_pieces(
    connect: Connect, worker: HandWorker, cut: int
) -> None:
    escaped = body().replace(b"/", b"\\/").replace(b"+", b"\\u002B")
    files = await submitted(await connect(), worker, escaped, cut=cut)
    assert files["input.png"] == PICTURE


@pytest.mark.parametrize("change", ["wrapped", "without padding", "utf-8-sig"])
async def test_harmless_spellings_are_read(
    connect: Connect, worker: HandWorker, change: str
) -> None:
    match change:
        case "wrapped":
            lines = base64.encodebytes(PICTURE).decode()
            data = body(images=f"data:image/png;base64,{lines}")
        case "without padding":
            data = body(images=[url(PICTURE + b"\0").rstrip("=")])
        case _:
            data = body().decode().encode("utf-8-sig")
    files = await submitted(await connect(), worker, data)
    assert files["input.png"].startswith(PICTURE)


async def test_a_mask_may_come_first(connect: Connect, worker: HandWorker) -> None:
    clear = saved(Image.new("RGBA", (64, 48)), "PNG")
    data = json.dumps(
        {"mask": {"image_url": url(clear)}, "images": [{"image_url": url()}], "prompt": "sepia"}
    )
    files = await submitted(await connect(), worker, data.encode())
    assert (files["mask.png"], files["input.png"]) == (clear, PICTURE)


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"images": []}, "image", "image is required"),
        ({"images": [{"image_url": "https://example.com/a.png"}]}, "images", "is not fetched"),
        ({"images": [{"file_id": "file-1"}]}, "images", "send a data: URL"),
        ({"images": "a.png"}, "images", "is no picture"),
        ({"images": ["data:image/png;base64,&&&&"]}, "images", "is not base64"),
        ({"images": ["data:image/png;base64,AA==" + "AAAA" * 20]}, "images", "is not base64"),
        ({"images": [url(b"hello")]}, "image", "image is plain text"),
        ({"prompt": url()}, "prompt", "prompt takes no picture"),
        ({"prompt": "x" * 70_000}, "prompt", "at most 65536 bytes"),
        ({"prompt": ["x"]}, "prompt", "must be a text or a number"),
        ({"n": 9}, "n", "from 1 to 4"),
        ({"svg": {"model": "x"}}, "svg", "is not a field"),
        ({"mask": [url(), url()]}, "mask", "mask is given twice"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
async def test_what_is_wrong_is_named(
    connect: Connect, spool: Spool, fields: dict[str, Any], field: str, said: str
) -> None:
    response = await post(await connect(), body(**fields))
    code = "unsupported_picture" if "plain text" in said else "invalid_request"
    assert said in await check_error(response, 400, code, field)
    assert is_empty(spool)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not well-formed JSON"),
        (b"[1]", "it is no object"),
        (b"{", "is not well-formed JSON"),
        (body()[:40], "it ends within"),
        (b'{"prompt": "a', "it ends within a string"),
        (b"[" * 1000, "nested deeper"),
        (b'{"prompt": NaN}', "image is required"),
    ],
    ids=["empty", "list", "open", "picture", "string", "deep", "NaN"],
)
async def test_what_is_no_body_is_refused(
    connect: Connect, spool: Spool, data: bytes, said: str
) -> None:
    response = await post(await connect(), data)
    text = await response.text()
    assert response.status == 400
    assert said in json.loads(text)["error"]["message"]
    assert is_empty(spool)


async def test_a_key_given_twice_is_refused(connect: Connect) -> None:
    data = body().replace(b'"prompt"', b'"prompt": "a", "prompt"')
    assert "twice" in await check_error(
        await post(await connect(), data), 400, "invalid_request", "prompt"
    )


async def test_other_bodies_are_refused(connect: Connect) -> None:
    client = await connect()
    response = await client.post(PATH, data=b"a=1", headers={"Content-Type": "text/plain"})
    assert "application/json" in await check_error(response, 415, "unsupported_media_type")


class Pieces:
    """A body that arrives in pieces of these sizes, again and again."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self._data, self._sizes, self._turn = data, sizes, 0

    async def read(self, _size: int) -> bytes:
        count = self._sizes[self._turn % len(self._sizes)]
        self._turn += 1
        taken, self._data = self._data[:count], self._data[count:]
        return taken


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(), values),
    st.lists(st.binary(max_size=400)),
    st.lists(st.integers(1, 60), min_size=1),
    st.booleans(),
)
def test_every_body_comes_apart_into_its_pictures_and_the_rest(
    fields: dict[str, Any], pictures: list[bytes], sizes: list[int], is_ascii: bool
) -> None:
    whole = {**fields, "images": [url(picture) for picture in pictures]}
    data = json.dumps(whole, ensure_ascii=is_ascii).encode(errors="surrogatepass")

    async def take_apart() -> tuple[list[bytes], Any]:
        scanner = json_body.Scanner(Pieces(data, sizes))  # type: ignore[arg-type]
        found = []
        async for key in scanner.pictures():
            assert key == "images"
            found.append(b"".join([chunk async for chunk in scanner.picture(key)]))
        return found, json.loads(
            scanner.rest.decode(errors="surrogatepass").replace(scanner.mark, "a picture")
        )

    found, rest = asyncio.run(take_apart())
    assert found == pictures
    assert rest == {**whole, "images": ["a picture"] * len(pictures)}
