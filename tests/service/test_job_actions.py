"""DELETE /jobs/ID, POST /jobs/ID/cancel and /retry in every state of a job."""

import pytest

from i2ii_spool.errors import Cancelled
from i2ii_spool.spool.layout import Spool
from tests.support.app import Connect, HandWorker, check_error, get, is_empty
from tests.support.jobs import SubmitJob


async def test_deleting_a_queued_job_cancels_it(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    response = await client.delete(f"/jobs/{id}")
    assert (response.status, await response.json()) == (
        200,
        {"request_id": id, "status": "cancelled"},
    )
    assert (spool.failed / id / "error.txt").read_text().startswith("cancelled")
    assert not list(spool.incoming.iterdir())


async def test_deleting_a_running_job_asks_it_to_stop(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    claim = worker.claim()
    response = await client.delete(f"/jobs/{id}")
    answer = await response.json()
    assert (response.status, answer["request_id"], answer["status"]) == (202, id, "running")
    assert (claim.folder / "cancel").exists()
    assert claim.is_cancelled()


@pytest.mark.parametrize("ending", ["done", "failed"])
async def test_deleting_a_job_that_has_ended_removes_it(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob, ending: str
) -> None:
    client = await connect()
    id = submit_job()
    if ending == "done":
        worker.finish()
    else:
        worker.fail()
    assert (spool.root / ending / id).is_dir()
    response = await client.delete(f"/jobs/{id}")
    assert (response.status, await response.json()) == (
        200,
        {"request_id": id, "status": "deleted"},
    )
    assert is_empty(spool)
    assert not (spool.trash / id).exists()


@pytest.mark.parametrize("ending", ["cancelled", "completed"])
async def test_a_delete_that_is_repeated_destroys_nothing_more(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob, ending: str
) -> None:
    """The first asked a job to stop; whatever became of it then is not what it asked for."""
    client = await connect()
    id = submit_job()
    claim = worker.claim()
    assert (await client.delete(f"/jobs/{id}")).status == 202
    if ending == "completed":
        worker.commit(claim)
    else:
        claim.fail(Cancelled("cancelled at step 1 of 2"))
    for _ in range(2):
        response = await client.delete(f"/jobs/{id}")
        answer = await response.json()
        assert (response.status, answer["status"]) == (200, ending)
        assert "?state=" in answer["message"]
    state = "done" if ending == "completed" else "failed"
    assert (spool.root / state / id).is_dir()
    response = await client.delete(f"/jobs/{id}?state={state}")
    assert (await response.json())["status"] == "deleted"
    assert (await client.delete(f"/jobs/{id}?state={state}")).status == 410


@pytest.mark.parametrize("seen", ["incoming", "running", "failed"])
async def test_a_delete_does_nothing_in_another_state_than_the_caller_saw(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob, seen: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    response = await client.delete(f"/jobs/{id}?state={seen}")
    assert "is in done" in await check_error(response, 409, "wrong_state")
    assert not (spool.done / id / "cancel").exists()


async def test_a_blank_state_is_none_that_the_caller_saw(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    """As of a script whose variable is empty: `?state=$STATE`."""
    client = await connect()
    id = submit_job()
    response = await client.delete(f"/jobs/{id}?state=")
    assert "must be one of" in await check_error(response, 400, "invalid_request", "state")
    assert (spool.incoming / id).is_dir()


async def test_a_cancel_never_deletes(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    waiting, running, done = submit_job(), submit_job(), submit_job()
    for _ in range(2):  # a repeated one is no error
        response = await client.post(f"/jobs/{waiting}/cancel")
        assert (response.status, (await response.json())["status"]) == (200, "cancelled")
    worker.claim()
    for _ in range(2):
        response = await client.post(f"/jobs/{running}/cancel")
        assert (response.status, (await response.json())["status"]) == (202, "running")
    worker.finish()
    await check_error(await client.post(f"/jobs/{done}/cancel"), 409, "wrong_state")
    assert (spool.done / done).is_dir()


async def test_a_failed_job_goes_back_to_the_queue(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    worker.fail()
    response = await client.post(f"/jobs/{id}/retry")
    assert (response.status, await response.json()) == (202, {"request_id": id, "status": "queued"})
    assert response.headers["Location"] == f"/status/{id}"
    assert (spool.incoming / id).is_dir()
    assert (await get(client, f"/status/{id}"))["status"] == "queued"
    made = worker.finish()
    assert await (await client.get(f"/result/{id}")).read() == made["result.png"]


async def test_a_cancelled_job_can_be_retried(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    id = submit_job()
    await client.delete(f"/jobs/{id}")
    assert (await client.post(f"/jobs/{id}/retry")).status == 202
    assert (await get(client, f"/status/{id}"))["status"] == "queued"


@pytest.mark.parametrize("state", ["incoming", "running", "done"])
async def test_only_a_failed_job_can_be_retried(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob, state: str
) -> None:
    client = await connect()
    id = submit_job()
    if state == "running":
        worker.claim()
    if state == "done":
        worker.finish()
    assert state in await check_error(await client.post(f"/jobs/{id}/retry"), 409, "wrong_state")
    assert len(list((spool.root / state).rglob("job.json"))) == 1
