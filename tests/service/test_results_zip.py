"""POST /results.zip: what is in it, and what is refused before it begins."""

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError

from i2ii_spool.server.auth import tokens
from i2ii_spool.server.routes import archive
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from tests.support import UNKNOWN_ID
from tests.support.app import Client, Connect, HandWorker, check_error, form
from tests.support.jobs import SubmitJob


async def zipped(client: Client, *ids: str) -> zipfile.ZipFile:
    response = await client.post("/results.zip", json={"ids": ids})
    assert response.status == 200, await response.text()
    assert response.content_type == "application/zip"
    return zipfile.ZipFile(io.BytesIO(await response.read()))


async def test_it_has_every_picture_and_a_list(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    first = submit_job(prompt="水彩画", name="me, and you")
    made = {first: worker.finish("result.png", "result-2.png")}
    second = submit_job(prompt="=1+1")
    made[second] = worker.finish("result.webp")
    packed = await zipped(client, second, first)
    assert packed.testzip() is None
    files = {f"{id}-{name}": data for id, of_job in made.items() for name, data in of_job.items()}
    assert packed.namelist()[0] == "manifest.csv"
    assert set(packed.namelist()) == {"manifest.csv", *files}
    for name, data in files.items():
        assert packed.read(name) == data
        assert packed.getinfo(name).compress_type == zipfile.ZIP_STORED
    listed = csv.DictReader(packed.read("manifest.csv").decode("utf-8-sig").splitlines())
    assert [tuple(row.values()) for row in listed] == [
        (second, "", "'=1+1", "7", f"{second}-result.webp"),
        (first, "me, and you", "水彩画", "7", f"{first}-result.png"),
        (first, "me, and you", "水彩画", "8", f"{first}-result-2.png"),
    ]


async def test_a_large_picture_comes_in_parts(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    large = bytes(range(256)) * 8192
    (spool.done / id / "result.png").write_bytes(large)
    assert (await zipped(client, id)).read(f"{id}-result.png") == large


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"ids": []}, "at least 1"),
        ({"ids": [UNKNOWN_ID] * 1001}, "at most 1000"),
        ({"ids": [UNKNOWN_ID] * 2}, f"{UNKNOWN_ID} twice"),
        ({"ids": "x"}, "array"),
        ({"ids": [7]}, "string"),
        ({"ids": ["../.."]}, "is not a job id"),
        ({"ids": [UNKNOWN_ID], "n": 1}, "is not a field"),
        ({}, "is required"),
        ([], "object"),
    ],
)
async def test_a_wrong_body_is_refused(connect: Connect, body: Any, says: str) -> None:
    response = await (await connect()).post("/results.zip", json=body)
    error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, "invalid_request")
    assert says in error["message"]


async def test_another_body_is_refused(connect: Connect) -> None:
    client = await connect()
    response = await client.post("/results.zip", data={"ids": UNKNOWN_ID})
    await check_error(response, 415, "unsupported_media_type")
    headers = {"Content-Type": "application/json"}
    response = await client.post("/results.zip", data=b"{", headers=headers)
    assert "not JSON" in await check_error(response, 400, "invalid_request")
    twice = f'{{"ids": ["{UNKNOWN_ID}"], "ids": ["{UNKNOWN_ID}"]}}'.encode()
    response = await client.post("/results.zip", data=twice, headers=headers)
    assert "twice" in await check_error(response, 400, "invalid_request", "ids")
    large = b'{"ids": ["' + b"x" * archive.MAX_BODY + b'"]}'
    response = await client.post("/results.zip", data=large, headers=headers)
    assert "fewer ids" in await check_error(response, 413, "too_large")


async def test_a_job_without_a_result_is_named_before_anything_is_sent(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    completed, failed, deleted = (submit_job() for _ in range(3))
    worker.finish()
    worker.fail()
    worker.finish()
    actions.delete_job(spool, deleted)
    queued = submit_job()
    for id, status, code in (
        (queued, 409, "wrong_state"),
        (failed, 409, "engine_error"),
        (deleted, 410, "deleted"),
        (UNKNOWN_ID, 404, "not_found"),
    ):
        response = await client.post("/results.zip", json={"ids": [completed, id]})
        assert id in await check_error(response, status, code)


async def test_the_job_of_another_is_not_found(
    connect: Connect, worker: HandWorker, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    users = {
        name: {"Authorization": f"Bearer {tokens.add(file, name, is_operator=False)}"}
        for name in ("alice", "bob")
    }
    client = await connect(tokens_file=file)
    answer = await client.post("/edit", data=form(), headers=users["alice"])
    id = (await answer.json())["request_id"]
    worker.finish()
    for name, status in (("alice", 200), ("bob", 404)):
        response = await client.post("/results.zip", json={"ids": [id]}, headers=users[name])
        assert response.status == status
    assert await check_error(response, 404, "not_found") == f"there is no job {id}"


async def test_a_zip_that_lacks_a_picture_never_looks_whole(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(2)]
    for _ in ids:
        worker.finish()
    pack = archive.pack

    def pack_and_delete(*arguments: Any) -> Any:
        parts = pack(*arguments)
        yield next(parts)
        actions.delete_job(spool, ids[1])
        yield from parts

    monkeypatch.setattr(archive, "pack", pack_and_delete)
    with pytest.raises((ClientPayloadError, ConnectionError)):
        await zipped(client, *ids)
