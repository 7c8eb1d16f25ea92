"""GET /inputs/ID: the pictures of a request, in every state of its job."""

import os
from pathlib import Path

import pytest

from i2ii_spool.errors import EngineError
from i2ii_spool.images.formats import EXTENSIONS
from i2ii_spool.server.pictures import MEDIA_TYPES
from i2ii_spool.spool import actions
from i2ii_spool.spool import pictures as spool_pictures
from i2ii_spool.spool.layout import Spool
from tests.support import UNKNOWN_ID
from tests.support.app import Connect, HandWorker, check_error, form
from tests.support.jobs import SubmitJob
from tests.support.pictures import encoded


async def test_the_bytes_are_those_of_the_client_in_every_state(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, picture: Path, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()

    async def check() -> None:
        response = await client.get(f"/inputs/{id}")
        assert (response.status, response.content_type) == (200, "image/jpeg")
        assert await response.read() == picture.read_bytes()
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        shown = response.headers["Content-Disposition"]
        assert shown == f'inline; filename="{id}-input.jpeg"'

    await check()
    claim = worker.claim()
    await check()
    claim.fail(EngineError("no"))
    await check()
    actions.retry(spool, id)
    worker.finish()
    await check()


async def test_each_of_several_has_its_number_and_a_mask_has_none(connect: Connect) -> None:
    client = await connect()
    sent = [encoded(".png"), encoded(".webp")]
    id = (await (await client.post("/edit", data=form(*sent))).json())["request_id"]
    for n, data in enumerate(sent, 1):
        assert await (await client.get(f"/inputs/{id}?n={n}")).read() == data
    response = await client.get(f"/inputs/{id}?n=3")
    assert "has 2 pictures" in await check_error(response, 404, "not_found")


@pytest.mark.parametrize("n", ["0", "11", "1.5", "first", ""])
async def test_a_bad_number_is_refused(connect: Connect, submit_job: SubmitJob, n: str) -> None:
    response = await (await connect()).get(f"/inputs/{submit_job()}", params={"n": n})
    assert "1 to 10" in await check_error(response, 400, "invalid_request", "n")


async def test_parts_and_conditions_work_as_for_a_result(
    connect: Connect, submit_job: SubmitJob, picture: Path
) -> None:
    client = await connect()
    path = f"/inputs/{submit_job()}"
    part = await client.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status, await part.read()) == (206, picture.read_bytes()[10:20])
    same = await client.get(path, headers={"If-None-Match": part.headers["ETag"]})
    assert (same.status, await same.read()) == (304, b"")
    other = await client.get(path, headers={"If-Match": '"other"'})
    await check_error(other, 412, "precondition_failed")


async def test_the_media_type_is_that_of_the_content(
    connect: Connect, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()
    for kind, data in (
        ("image/gif", encoded(".gif")),
        ("image/tiff", encoded(".tiff")),
        ("image/webp", encoded(".webp")),
    ):
        (spool.incoming / id / "input.jpg").write_bytes(data)
        assert (await client.get(f"/inputs/{id}")).content_type == kind
    assert MEDIA_TYPES.keys() >= EXTENSIONS.keys()


@pytest.mark.parametrize(
    "content", [b"<script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b""]
)
async def test_what_is_no_picture_is_not_sent(
    connect: Connect, submit_job: SubmitJob, spool: Spool, content: bytes
) -> None:
    client = await connect()
    id = submit_job()
    (spool.incoming / id / "input.jpg").write_bytes(content)
    await check_error(await client.get(f"/inputs/{id}"), 404, "not_found")


async def test_a_link_or_a_pipe_is_not_followed(
    connect: Connect, submit_job: SubmitJob, spool: Spool, picture: Path
) -> None:
    client = await connect()
    id = submit_job()
    path = spool.incoming / id / "input.jpg"
    path.unlink()
    await check_error(await client.get(f"/inputs/{id}"), 404, "not_found")
    path.symlink_to(picture)
    await check_error(await client.get(f"/inputs/{id}"), 404, "not_found")
    path.unlink()
    os.mkfifo(path)
    await check_error(await client.get(f"/inputs/{id}"), 404, "not_found")


async def test_a_job_that_moves_meanwhile_is_found_again(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = await connect()
    id = submit_job()
    original = spool_pictures._open_input

    def move_first(*arguments: object) -> object:
        monkeypatch.setattr(spool_pictures, "_open_input", original)
        worker.claim()
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(spool_pictures, "_open_input", move_first)
    assert await (await client.get(f"/inputs/{id}")).read() == picture.read_bytes()
    assert spool_pictures._open_input is original


async def test_a_deleted_job_is_gone(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    actions.delete_job(spool, id)
    await check_error(await client.get(f"/inputs/{id}"), 410, "deleted")
    await check_error(await client.get(f"/inputs/{UNKNOWN_ID}"), 404, "not_found")
