"""GET /result/ID: the pictures, ranges and caches, and the errors of jobs without a result."""

import asyncio

import pytest

from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from tests.support.app import Connect, HandWorker, check_error, get, let_it_arrive
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


async def test_a_wait_for_a_result_ends_with_the_picture(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    waiting = asyncio.create_task(client.get(f"/result/{id}?wait=300"))
    await let_it_arrive(client)
    assert not waiting.done()
    made = worker.finish()
    response = await asyncio.wait_for(waiting, 60)  # long before the 300 s are over
    assert (response.status, await response.read()) == (200, made["result.png"])


async def test_a_wait_for_a_result_that_fails_ends_with_its_error(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    waiting = asyncio.create_task(client.get(f"/result/{id}?wait=300"))
    await let_it_arrive(client)
    worker.fail()
    await check_error(await asyncio.wait_for(waiting, 60), 409, "engine_error")


@pytest.mark.parametrize("wait", ["0", "0.1"])
async def test_a_wait_that_is_over_is_an_error(
    connect: Connect, submit_job: SubmitJob, wait: str
) -> None:
    client = await connect()
    id = submit_job()
    response = await client.get(f"/result/{id}", params={"wait": wait})
    assert "queued" in await check_error(response, 409, "not_ready")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("wait", ["soon", "-1", "301", "nan", ""])
async def test_a_bad_wait_for_a_result_is_refused(
    connect: Connect, submit_job: SubmitJob, wait: str
) -> None:
    client = await connect()
    response = await client.get(f"/result/{submit_job()}", params={"wait": wait})
    assert "0 to 300" in await check_error(response, 400, "invalid_request", "wait")


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("image/*", 409),
        ("image/png", 409),
        ("image/avif, IMAGE/webp;q=0.8", 409),
        ("*/*", 202),
        ("image/avif,image/webp,*/*;q=0.5", 202),
        ("image/*, application/json", 202),
        ("application/json", 202),
        ("text/html", 202),
        ("", 202),
    ],
)
async def test_json_is_no_result_for_a_client_that_accepts_pictures_only(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, accept: str, status: int
) -> None:
    client = await connect()
    id = submit_job()
    response = await client.get(f"/result/{id}", headers={"Accept": accept})
    if status == 409:
        await check_error(response, 409, "not_ready")
    assert (response.status, response.content_type) == (status, "application/json")
    made = worker.finish()
    response = await client.get(f"/result/{id}", headers={"Accept": accept})
    assert (response.status, await response.read()) == (200, made["result.png"])


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


async def test_a_range_of_a_head_is_ignored(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    for asked in ("bytes=0-9", "bytes=99999999-"):
        response = await client.head(f"/result/{id}", headers={"Range": asked})
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(whole)))


RANGES = [
    ("bytes=0-9", 0, 10),
    ("Bytes=10-", 10, None),
    ("bytes=-10", -10, None),
    ("bytes=-99999999", 0, None),
    ("bytes=5-99999999", 5, None),
]


@pytest.mark.parametrize(("asked", "start", "end"), RANGES)
async def test_a_single_range_is_honoured(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    asked: str,
    start: int,
    end: int | None,
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    response = await client.get(f"/result/{id}", headers={"Range": asked})
    assert (response.status, await response.read()) == (206, whole[start:end])


@pytest.mark.parametrize(
    "asked",
    [
        "pixels=0-9",
        "bytes=0-9,20-29",
        "bytes=9-0",
        "bytes=-",
        "bytes=a-b",
        "bytes",
        "bytes=0-9;x",
        "bytes=" + "9" * 5000 + "-",
        "",
    ],
)
@pytest.mark.parametrize("condition", [{}, {"If-Range": "Wed, 21 Oct 2037 07:28:00 GMT"}])
async def test_another_range_is_ignored(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    asked: str,
    condition: dict[str, str],
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    response = await client.get(f"/result/{id}", headers={"Range": asked, **condition})
    assert (response.status, await response.read()) == (200, whole)


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
async def test_a_range_without_a_byte_of_the_result_is_refused(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, asked: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    response = await client.get(f"/result/{id}", headers={"Range": asked})
    await check_error(response, 416, "range_not_satisfiable")


async def test_a_range_of_another_version_is_the_whole_result(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    whole = worker.finish()["result.png"]
    known = (await client.get(f"/result/{id}")).headers
    for version, is_this in [
        (known["ETag"], True),
        (known["Last-Modified"], True),
        ('"another"', False),
        (f"W/{known['ETag']}", False),
        ("Wed, 21 Oct 2015 07:28:00 GMT", False),
        ("Wed, 21 Oct 2037 07:28:00 GMT", False),
        ("yesterday", False),
    ]:
        headers = {"Range": "bytes=0-9", "If-Range": version}
        response = await client.get(f"/result/{id}", headers=headers)
        expected = (206, whole[:10]) if is_this else (200, whole)
        assert (response.status, await response.read()) == expected, version


async def test_conditions_count_before_a_range(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    known = (await client.get(f"/result/{id}")).headers
    beyond = {"Range": "bytes=99999999-"}
    for condition in (
        {"If-None-Match": known["ETag"]},
        {"If-None-Match": f'"another", W/{known["ETag"]}'},
        {"If-None-Match": "*"},
        {"If-Modified-Since": known["Last-Modified"]},
    ):
        response = await client.get(f"/result/{id}", headers={**beyond, **condition})
        assert (response.status, await response.read()) == (304, b"")
        assert response.headers["ETag"] == known["ETag"]
    for condition in (
        {"If-Match": '"another"'},
        {"If-Match": f"W/{known['ETag']}"},
        {"If-Unmodified-Since": "Wed, 21 Oct 2015 07:28:00 GMT"},
    ):
        response = await client.get(f"/result/{id}", headers={**beyond, **condition})
        await check_error(response, 412, "precondition_failed")
    for condition in (
        {"If-Match": known["ETag"]},
        {"If-Unmodified-Since": known["Last-Modified"]},
        {"If-None-Match": '"another"', "If-Modified-Since": known["Last-Modified"]},
    ):
        assert (await client.get(f"/result/{id}", headers=condition)).status == 200


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
