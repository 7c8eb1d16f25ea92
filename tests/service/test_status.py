"""GET /status/ID: every state of a job, and the wait for its end."""

import asyncio
from datetime import datetime

import pytest
from yarl import URL

from i2ii_spool.jobs.records import Progress
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerState,
)
from tests.support import UNKNOWN_ID
from tests.support.app import Connect, HandWorker, check_error, get, let_it_arrive
from tests.support.jobs import SubmitJob


async def test_a_queued_job_has_a_position(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    first, second = submit_job(), submit_job(prompt="更亮", name="bright")
    assert (await get(client, f"/status/{first}"))["position"] == 1
    shown = await get(client, f"/status/{second}")
    assert datetime.fromisoformat(shown.pop("submitted_at")).tzinfo is not None
    assert shown == {
        "request_id": second,
        "status": "queued",
        "position": 2,
        "prompt": "更亮",
        "name": "bright",
    }


async def test_a_queued_job_has_an_eta_where_the_pace_is_known(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    worker.show(WorkerState.RUNNING, mean_job_seconds=3.0)
    _, id = submit_job(), submit_job()
    assert (await get(await connect(), f"/status/{id}"))["eta_seconds"] == 6.0


async def test_a_running_job_shows_its_progress(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    claim = worker.claim()
    shown = await get(client, f"/status/{id}")
    assert (shown["status"], shown["phase"], shown["step"]) == ("running", "starting", 0)
    claim.report(Progress(phase="editing", step=12, steps=50, eta_seconds=3.5))
    shown = await get(client, f"/status/{id}")
    del shown["submitted_at"], shown["prompt"]
    assert shown == {
        "request_id": id,
        "status": "running",
        "attempts": 1,
        "worker": worker.name,
        "phase": "editing",
        "step": 12,
        "steps": 50,
        "eta_seconds": 3.5,
    }


async def test_a_completed_job_tells_who_made_it_and_how_long_it_took(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish("result.png", "result-2.png")
    shown = await get(client, f"/status/{id}")
    assert shown["status"] == "completed"
    assert shown["processing_time"] == 1.75
    assert (shown["worker"], shown["gpu_id"], shown["engine"]) == (worker.name, 0, "hand")
    assert datetime.fromisoformat(shown["completed_at"]).tzinfo is not None
    assert shown["outputs"] == ["result.png", "result-2.png"]
    assert (shown["width"], shown["height"], shown["seed"]) == (64, 48, 7)
    assert shown["timings"] == {"queue": 0.1, "load": 0.25, "edit": 1.5, "save": 0.01}
    assert "error" not in shown
    assert "position" not in shown


async def test_a_failed_job_says_why(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.fail()
    shown = await get(client, f"/status/{id}")
    assert shown["status"] == "failed"
    assert shown["error"] == {"code": "engine_error", "message": "the paint ran out"}
    assert (shown["worker"], shown["attempts"]) == (worker.name, 1)


async def test_a_cancelled_job_is_not_called_failed(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    actions.cancel(spool, id)
    shown = await get(client, f"/status/{id}")
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
async def test_a_wait_ends_with_the_job(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob, ending: str
) -> None:
    client = await connect()
    id = submit_job()
    waiting = asyncio.create_task(get(client, f"/status/{id}?wait=300"))
    await let_it_arrive(client)
    assert not waiting.done()
    match ending:
        case "completed":
            worker.finish()
        case "failed":
            worker.fail()
        case _:
            actions.cancel(spool, id)
    shown = await asyncio.wait_for(waiting, 60)  # long before the 300 s are over
    assert shown["status"] == ending


async def test_a_wait_for_a_job_that_is_deleted_meanwhile_ends(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    waiting = asyncio.create_task(client.get(f"/status/{id}?wait=300"))
    await let_it_arrive(client)
    actions.cancel(spool, id)
    actions.delete_job(spool, id)
    response = await asyncio.wait_for(waiting, 60)
    assert response.status in (
        200,
        410,
    )  # whether the cancelled job was still seen, or only that it is no more


async def test_a_wait_that_is_over_shows_what_there_is(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    assert (await get(client, f"/status/{id}?wait=0.1"))["status"] == "queued"
    assert (await get(client, f"/status/{id}?wait=0"))["status"] == "queued"


async def test_a_wait_for_a_job_that_has_ended_is_answered_at_once(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    shown = await asyncio.wait_for(get(client, f"/status/{id}?wait=300"), 60)
    assert shown["status"] == "completed"


@pytest.mark.parametrize("wait", ["soon", "-1", "301", "nan", "inf", ""])
async def test_a_bad_wait_is_refused(connect: Connect, submit_job: SubmitJob, wait: str) -> None:
    client = await connect()
    response = await client.get(f"/status/{submit_job()}", params={"wait": wait})
    assert "0 to 300" in await check_error(response, 400, "invalid_request", "wait")


async def test_an_unknown_parameter_is_refused(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    response = await client.get(f"/status/{submit_job()}?timeout=3")
    assert "wait" in await check_error(response, 400, "invalid_request", "timeout")


async def test_a_parameter_given_twice_is_refused(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    response = await client.get(f"/status/{submit_job()}?wait=0&wait=1")
    assert "twice" in await check_error(response, 400, "invalid_request", "wait")


JOB_ROUTES = [
    ("GET", "/status/{}"),
    ("GET", "/result/{}"),
    ("DELETE", "/jobs/{}"),
    ("POST", "/jobs/{}/retry"),
]


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
@pytest.mark.parametrize(
    "id",
    [
        "nonsense",
        "..%2F..%2Fetc%2Fpasswd",
        UNKNOWN_ID.upper(),
        f"{UNKNOWN_ID}%0A",
        f"{UNKNOWN_ID}x",
    ],
)
async def test_what_is_no_id_is_refused(connect: Connect, method: str, route: str, id: str) -> None:
    client = await connect()
    response = await client.request(method, URL(route.format(id), encoded=True))
    assert "is not a job id" in await check_error(response, 400, "invalid_request", "id")


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
async def test_a_job_that_never_was_is_not_found(connect: Connect, method: str, route: str) -> None:
    client = await connect()
    assert UNKNOWN_ID in await check_error(
        await client.request(method, route.format(UNKNOWN_ID)), 404, "not_found"
    )


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
async def test_a_deleted_job_is_gone(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, method: str, route: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    assert (await client.delete(f"/jobs/{id}")).status == 200
    assert "deleted" in await check_error(
        await client.request(method, route.format(id)), 410, "deleted"
    )
