"""Pages of another origin, in a real browser: an allowed one edits a picture, another may not."""

import asyncio
from typing import Any

import pytest

from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import count
from tests.support import browser
from tests.support.app import Client, Connect, HandWorker
from tests.support.service import wait_until

pytestmark = pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not()))

TOKEN = "a-token-of-an-operator"
EDIT = """
async ([url, token, fields]) => {
    const canvas = document.createElement("canvas");
    const picture = await new Promise(done => canvas.toBlob(done));
    const form = new FormData();
    form.append("image", picture, "drawing.png");
    for (const [name, value] of Object.entries({prompt: "sepia", ...fields}))
        form.append(name, value);
    const headers = {Authorization: `Bearer ${token}`, "x-client-request-id": "1"};
    try {
        const answer = await fetch(url, {method: "POST", body: form, headers});
        return {
            status: answer.status,
            id: answer.headers.get("x-request-id"),
            text: await answer.text(),
        };
    } catch (error) {
        return {refused: String(error)};
    }
}
"""


async def ask(page: Any, client: Client, token: str = TOKEN, **fields: str) -> Any:
    """Have the page send a form; return what it reads of the answer."""
    url = str(client.make_url("/v1/images/edits"))
    return await page.evaluate(EDIT, [url, token, fields])


GET = """
async ([url, token]) => {
    const headers = token ? {Authorization: `Bearer ${token}`} : {};
    try {
        const answer = await fetch(url, {headers});
        return {status: answer.status, text: await answer.text()};
    } catch (error) {
        return {refused: String(error)};
    }
}
"""


async def get(page: Any, client: Client, path: str, token: str = TOKEN) -> Any:
    """Have the page fetch a path; return what it reads of the answer."""
    return await page.evaluate(GET, [str(client.make_url("/")).rstrip("/") + path, token])


async def finished(asking: Any, worker: HandWorker) -> Any:
    """The answer that a page reads, for which the worker has done the job."""
    asked = asyncio.ensure_future(asking)
    await asyncio.to_thread(wait_until, lambda: asked.done() or count(worker.spool)[State.INCOMING])
    worker.finish()
    return await asked


async def test_an_allowed_page_edits_a_picture(connect: Connect, worker: HandWorker) -> None:
    async with browser.browser() as page, browser.site("a page") as origin:
        await page.goto(origin)
        client = await connect(api_token=TOKEN, allow_origins=origin)
        answer = await finished(ask(page, client), worker)
        assert answer["status"] == 200
        assert '"b64_json": "iVBOR' in answer["text"]
        assert (worker.spool.done / answer["id"]).exists()

        streamed = await finished(ask(page, client, stream="true"), worker)
        assert "event: image_edit.completed" in streamed["text"]

        refused = await ask(page, client, n="9")
        assert (refused["status"], "from 1 to 4" in refused["text"]) == (400, True)
        assert (await ask(page, client, token="wrong"))["status"] == 401


async def test_an_allowed_page_uses_every_kind_of_url(connect: Connect) -> None:
    async with browser.browser() as page, browser.site("a page") as origin:
        await page.goto(origin)
        client = await connect(
            api_token=TOKEN, allow_origins=origin, metrics_networks="127.0.0.0/8"
        )
        listed = await get(page, client, "/jobs?limit=1")
        assert listed == {"status": 200, "text": '{"jobs": [], "next": null}'}
        refused = await get(page, client, "/jobs?limit=0")
        assert (refused["status"], "limit" in refused["text"]) == (400, True)
        absent = await get(page, client, "/v1/images/generations")
        assert (absent["status"], "there is no route" in absent["text"]) == (404, True)
        assert (await get(page, client, "/metrics"))["status"] == 200
        assert (await get(page, client, "/metrics", token=""))["status"] == 401


async def test_another_page_does_nothing(connect: Connect, spool: Spool) -> None:
    async with browser.browser() as page, browser.site("a page") as origin:
        await page.goto(origin)
        for settings in [{"allow_origins": "https://example.com"}, {}]:
            client = await connect(api_token=TOKEN, **settings)
            assert "Failed to fetch" in (await ask(page, client))["refused"]
        client = await connect()  # without tokens
        assert "Failed to fetch" in (await ask(page, client))["refused"]
    assert not count(spool)[State.INCOMING]
