"""White space before an answer, for proxies that cut silent ones off."""

import asyncio
import json
from contextlib import suppress

import aiohttp
import openai
import pytest
from aiohttp import ClientResponse

from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import count
from tests.support.app import Client, Connect, HandWorker, check_error, form
from tests.support.pictures import encoded
from tests.support.raw_http import GOOD, head, length
from tests.support.service import wait_until

PATH = "/v1/images/edits"


async def begun(client: Client, spool: Spool, **fields: str) -> ClientResponse:
    """The answer, once it has begun; its job waits."""
    response = await client.post(PATH, data=form(**fields))
    assert count(spool)[State.INCOMING] == 1
    return response


@pytest.mark.parametrize("response_format", ["b64_json", "url"])
async def test_an_answer_begins_with_white_space(
    connect: Connect, worker: HandWorker, response_format: str
) -> None:
    client = await connect(keepalive=0.05)
    response = await begun(client, worker.spool, response_format=response_format)
    assert await response.content.readexactly(3) == b"   "
    worker.finish()
    answer = json.loads(await response.read())
    assert list(answer["data"][0]) == [response_format]


async def test_an_answer_whose_job_fails_is_cut_off(connect: Connect, worker: HandWorker) -> None:
    client = await connect(keepalive=0.05)
    response = await begun(client, worker.spool)
    worker.fail()
    await cut_off(response)


async def test_a_cut_is_no_end_in_http_1_0(connect: Connect, worker: HandWorker) -> None:
    """There the end of the connection is that of the answer: nginx asks so by default."""
    client = await connect(keepalive=0.05)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    try:
        request = head(length(GOOD), path=PATH).replace(b"HTTP/1.1", b"HTTP/1.0")
        writer.write(request + GOOD)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.0 200")
        assert await reader.readexactly(3) == b"   "
        worker.fail()
        with pytest.raises(ConnectionResetError):
            await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()


async def test_a_proxy_is_asked_to_pass_it_on(connect: Connect, worker: HandWorker) -> None:
    """nginx holds white space back else, and the next proxy hears nothing."""
    client = await connect(keepalive=0.05)
    response = await begun(client, worker.spool)
    assert response.headers["X-Accel-Buffering"] == "no"
    worker.finish()
    await response.read()


async def test_by_default_nothing_is_sent_before_the_end(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect()
    asked = asyncio.create_task(client.post(PATH, data=form()))
    await asyncio.to_thread(wait_until, lambda: count(worker.spool)[State.INCOMING])
    await asyncio.wait([asked], timeout=1)
    assert not asked.done()
    worker.finish()
    response = await asked
    assert "X-Accel-Buffering" not in response.headers
    assert (await response.read()).startswith(b"{")


async def test_a_server_that_stops_cuts_the_answer_off(
    connect: Connect, worker: HandWorker
) -> None:
    """The job goes on: the client sends its request again."""
    client = await connect(keepalive=0.05)
    response = await begun(client, worker.spool)
    assert await response.content.readexactly(1) == b" "
    await asyncio.gather(client.server.close(), cut_off(response))
    assert count(worker.spool)[State.INCOMING] == 1


async def cut_off(response: ClientResponse) -> None:
    with pytest.raises(aiohttp.ClientError):
        await response.read()


async def test_an_error_before_the_first_is_one(connect: Connect, worker: HandWorker) -> None:
    client = await connect(keepalive=60)
    await check_error(await client.post(PATH, data=form(n="9")), 400, "invalid_request", "n")
    asked = asyncio.create_task(client.post(PATH, data=form()))
    await asyncio.to_thread(wait_until, lambda: count(worker.spool)[State.INCOMING])
    worker.fail()
    await check_error(await asked, 500, "engine_error")


async def test_the_client_of_openai_waits_longer_than_its_timeout(
    connect: Connect, worker: HandWorker
) -> None:
    client = await connect(keepalive=0.05)
    async with openai.AsyncOpenAI(
        base_url=str(client.make_url("/v1")), api_key="none", timeout=1, max_retries=0
    ) as their:
        asked = asyncio.create_task(their.images.edit(image=encoded(), prompt="sepia"))
        await asyncio.to_thread(wait_until, lambda: count(worker.spool)[State.INCOMING])
        await asyncio.wait([asked], timeout=2)
        assert not asked.done()
        worker.finish()
        [picture] = (await asked).data or []
        assert picture.b64_json


async def test_the_client_of_openai_meets_the_error_and_costs_one_job(
    connect: Connect, worker: HandWorker
) -> None:
    """It sends its request again when its answer is cut off."""
    client = await connect(keepalive=0.05)
    async with openai.AsyncOpenAI(
        base_url=str(client.make_url("/v1")), api_key="none", max_retries=2
    ) as their:
        asked = asyncio.create_task(their.images.edit(image=encoded(), prompt="sepia"))
        await asyncio.to_thread(wait_until, lambda: count(worker.spool)[State.INCOMING])
        await asyncio.wait([asked], timeout=0.3)
        worker.fail()
        with pytest.raises(openai.InternalServerError) as failed:
            await asked
    assert failed.value.code == "engine_error"
    assert count(worker.spool) == {**dict.fromkeys(State, 0), State.FAILED: 1}
