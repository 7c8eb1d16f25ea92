"""GET /result/ID: the pictures, ranges and caches, and the errors of jobs without a result."""

import pytest

from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from tests.support.app import Connect, HandWorker, check_error, get
from tests.support.jobs import SubmitJob


async def test_a_result_that_is_not_there_yet_is_202_with_the_status(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    queued = await client.get(f"/result/{id}")
    assert queued.status == 202
    assert int(queued.headers["Retry-After"]) >= 1
    assert (await queued.json())["status"] == "queued"
    worker.claim()
    assert (await get(client, f"/result/{id}", 202))["status"] == "running"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("result.png", "image/png"), ("result.jpg", "image/jpeg"), ("result.webp", "image/webp")],
)
async def test_a_result_is_the_picture(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, name: str, kind: str
) -> None:
    client = await connect()
    id = submit_job()
    made = worker.finish(name)
    response = await client.get(f"/result/{id}")
    assert response.status == 200
    assert response.headers["Content-Type"] == kind
    assert f"{id}-{name}" in response.headers["Content-Disposition"]
    assert await response.read() == made[name]


async def test_each_of_several_results_has_its_number(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    made = worker.finish("result.png", "result-2.png")
    assert await (await client.get(f"/result/{id}?n=1")).read() == made["result.png"]
    assert await (await client.get(f"/result/{id}?n=2")).read() == made["result-2.png"]
    assert "2 pictures" in await check_error(
        await client.get(f"/result/{id}?n=3"), 404, "not_found"
    )


@pytest.mark.parametrize("n", ["0", "5", "1.5", "first", ""])
async def test_a_bad_number_of_a_result_is_refused(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, n: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    response = await client.get(f"/result/{id}", params={"n": n})
    assert "1 to 4" in await check_error(response, 400, "invalid_request", "n")


async def test_a_part_of_a_result_can_be_had(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    response = await client.get(f"/result/{id}", headers={"Range": "bytes=100-199"})
    assert response.status == 206
    assert response.headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    assert await response.read() == whole[100:200]


async def test_a_range_beyond_the_result_is_refused(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    response = await client.get(f"/result/{id}", headers={"Range": f"bytes={len(whole)}-"})
    assert response.headers["Content-Range"] == f"bytes */{len(whole)}"
    assert str(len(whole)) in await check_error(response, 416, "range_not_satisfiable")


async def test_a_result_that_is_known_already_is_not_sent_again(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    tag = (await client.get(f"/result/{id}")).headers["ETag"]
    again = await client.get(f"/result/{id}", headers={"If-None-Match": tag})
    assert again.status == 304
    assert await again.read() == b""
    assert (await client.get(f"/result/{id}", headers={"If-None-Match": '"another"'})).status == 200


async def test_the_result_of_a_failed_job_is_its_error(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.fail()
    assert "the paint ran out" in await check_error(
        await client.get(f"/result/{id}"), 409, "engine_error"
    )


async def test_the_result_of_a_cancelled_job_is_that_it_was_cancelled(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    actions.cancel(spool, id)
    await check_error(await client.get(f"/result/{id}"), 409, "cancelled")
