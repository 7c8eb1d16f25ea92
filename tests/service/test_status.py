"""GET /status/ID: every state of a job, and the wait for its end."""

import asyncio
import shutil
from datetime import datetime
from pathlib import Path
from unittest import mock

import pytest
from aiohttp import web
from PIL import Image
from yarl import URL

from i2ii_spool.jobs.records import Progress
from i2ii_spool.server import long_poll
from i2ii_spool.server.app import create_app
from i2ii_spool.server.long_poll import LONG_POLLS
from i2ii_spool.settings import Settings
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerState,
)
from tests.support import UNKNOWN_ID, raw_http
from tests.support.app import Connect, HandWorker, check_error, form, get, let_it_arrive
from tests.support.guests import make_guest
from tests.support.jobs import SubmitJob
from tests.support.pictures import encoded, saved
from tests.support.seams import no_inotify
from tests.support.service import wait_until


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
        "inputs": ["input.jpg"],
        "has_mask": False,
        "request": {"name": "bright"},
    }


async def test_a_queued_job_has_an_eta_where_the_pace_is_known(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    worker.show(WorkerState.RUNNING, mean_job_seconds=3.0)
    _, id = submit_job(), submit_job()
    client = await connect()
    assert (await get(client, f"/status/{id}"))["eta_seconds"] == 6.0
    listed = {job["request_id"]: job for job in (await get(client, "/jobs"))["jobs"]}
    assert listed[id]["eta_seconds"] == 6.0


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
        "inputs": ["input.jpg"],
        "has_mask": False,
        "request": {},
    }


async def test_a_job_shows_what_was_asked_for(connect: Connect) -> None:
    client = await connect()
    asked = {
        "negative_prompt": "rain",
        "preset": "fast",
        "num_inference_steps": 4,
        "true_cfg_scale": 1.5,
        "seed": 2**64 - 4,
        "size": "input",
        "output_format": "webp",
        "output_compression": 80,
        "n": 3,
        "name": "me",
        "parent": UNKNOWN_ID,
        "parent_n": 2,
    }
    pictures = (encoded(".png"), encoded(".jpg"))
    data = form(*pictures, **{name: str(value) for name, value in asked.items()})
    data.add_field("mask", saved(Image.new("RGBA", (64, 48)), "PNG"), filename="mask.png")
    id = (await (await client.post("/edit", data=data)).json())["request_id"]
    shown = await get(client, f"/status/{id}")
    assert shown["request"] == asked
    assert shown["inputs"] == ["input.png", "input-2.jpg"]
    assert shown["has_mask"] is True
    assert (await get(client, "/jobs"))["jobs"][0]["request"] == asked


async def test_a_value_that_is_the_default_is_not_shown(connect: Connect) -> None:
    client = await connect()
    data = form(seed="0", n="1", output_format="png", size="auto", name="")
    id = (await (await client.post("/edit", data=data)).json())["request_id"]
    assert (await get(client, f"/status/{id}"))["request"] == {}


async def test_a_folder_that_does_not_name_its_pictures_shows_them(
    connect: Connect, spool: Spool, tmp_path: Path
) -> None:
    client = await connect(settle_seconds=0)
    guest = make_guest(tmp_path / "g", "b.png", "a.jpg", request={"prompt": "sepia"})
    shutil.copytree(guest, spool.incoming / "20260101-000000-000-aaaaaa")
    shown = await get(client, "/status/20260101-000000-000-aaaaaa")
    assert (shown["inputs"], shown["has_mask"]) == (["a.jpg", "b.png"], False)
    for name in shown["inputs"]:
        (spool.incoming / shown["request_id"] / name).unlink()
    assert "inputs" not in await get(client, f"/status/{shown['request_id']}")


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


async def test_a_wait_ends_where_no_event_arrives(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    with no_inotify():
        client = await connect()
    ended, deleted = submit_job(), submit_job()
    waits = [asyncio.create_task(client.get(f"/status/{id}?wait=300")) for id in (ended, deleted)]
    await let_it_arrive(client)
    worker.finish()
    actions.cancel(spool, deleted)
    actions.delete_job(spool, deleted)
    first, second = await asyncio.wait_for(asyncio.gather(*waits), 60)
    assert (await first.json())["status"] == "completed"
    assert second.status in (200, 410)


async def test_a_waiting_poll_does_not_read_its_job(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_poll, "SWEEP_SECONDS", 0.01)
    sweeps = mock.Mock(side_effect=long_poll.unended_ids)
    reads = mock.Mock(side_effect=long_poll.load_authorized)
    monkeypatch.setattr(long_poll, "unended_ids", sweeps)
    monkeypatch.setattr(long_poll, "load_authorized", reads)
    client = await connect()
    id = submit_job()
    waits = [asyncio.create_task(get(client, f"/status/{id}?wait=300")) for _ in range(5)]
    await let_it_arrive(client)
    claim = worker.claim()
    before = sweeps.call_count
    await asyncio.to_thread(wait_until, lambda: sweeps.call_count > before + 5)
    assert reads.call_count == 5
    worker.commit(claim)
    shown = await asyncio.wait_for(asyncio.gather(*waits), 60)
    assert {each["status"] for each in shown} == {"completed"}


async def test_a_poll_ends_when_its_client_goes(spool: Spool, submit_job: SubmitJob) -> None:
    app = create_app(Settings(spool=spool.root, min_free_mib=0, _env_file=None))
    runner = web.AppRunner(app)  # aiohttp's test server would cancel the handler
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    _, writer = await asyncio.open_connection(host, port)
    writer.write(raw_http.get(f"/status/{submit_job()}?wait=300"))
    polls = app[LONG_POLLS]
    await asyncio.to_thread(wait_until, lambda: polls.count(host) == 1)
    writer.close()
    await asyncio.to_thread(wait_until, lambda: polls.count(host) == 0)
    await runner.cleanup()


async def test_a_client_with_many_polls_gets_quick_answers(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect(max_connections=4)
    id = submit_job()
    waits = [asyncio.create_task(get(client, f"/status/{id}?wait=300")) for _ in range(2)]
    await let_it_arrive(client)
    shown = await asyncio.wait_for(get(client, f"/status/{id}?wait=300"), 60)
    assert shown["status"] == "queued"
    assert not any(wait.done() for wait in waits)
    for wait in waits:
        wait.cancel()


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
