"""POST /edit: what is accepted, and what is on disk then."""

import json

from aiohttp import FormData

from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerState,
)
from tests.support.app import Connect, HandWorker, check_error, form, get
from tests.support.jobs import SubmitJob
from tests.support.pictures import encoded


async def test_an_edit_is_accepted_and_on_disk_when_answered(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    picture = encoded(".jpg")
    prompt = "将图像转换为水彩画风格"
    response = await client.post(
        "/edit", data=form(picture, prompt=prompt, seed="42", true_cfg_scale="4.5")
    )
    answer = await response.json()
    assert response.status == 202
    id = answer["request_id"]
    assert is_id(id)
    assert response.headers["Location"] == f"/status/{id}"
    message = answer.pop("message")
    assert isinstance(message, str)
    assert answer == {
        "request_id": id,
        "status": "submitted",
        "ready_workers": 0,
        "total_requests": 1,
        "estimated_position": 1,
        "status_url": f"/status/{id}",
        "result_url": f"/result/{id}",
        "eta_seconds": None,
    }
    folder = spool.incoming / id
    assert sorted(path.name for path in folder.iterdir()) == ["input.jpg", "job.json"]
    assert (folder / "input.jpg").read_bytes() == picture
    asked = json.loads((folder / "job.json").read_text())
    assert (asked["prompt"], asked["seed"], asked["true_cfg_scale"]) == (prompt, 42, 4.5)
    assert asked["negative_prompt"] == ""
    assert "num_inference_steps" not in asked, "the model decides"


async def test_an_answer_counts_who_is_ready_and_what_is_ahead(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    worker.show(WorkerState.READY, mean_job_seconds=2.5)
    submit_job()
    submit_job()
    worker.finish()
    client = await connect()
    answer = await (await client.post("/edit", data=form())).json()
    assert answer["ready_workers"] == 1
    assert answer["total_requests"] == 3
    assert answer["estimated_position"] == 2
    assert answer["eta_seconds"] == 5.0


async def test_positions_count_up_within_one_server(connect: Connect) -> None:
    client = await connect()
    answers = [await (await client.post("/edit", data=form())).json() for _ in range(4)]
    assert [answer["estimated_position"] for answer in answers] == [1, 2, 3, 4]
    assert [answer["total_requests"] for answer in answers] == [1, 2, 3, 4]


async def test_three_pictures_are_kept_in_their_order_and_formats(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    pictures = [encoded(".webp", seed=1), encoded(".png", seed=2), encoded(".jpg", seed=3)]
    answer = await (await client.post("/edit", data=form(*pictures))).json()
    folder = spool.incoming / answer["request_id"]
    names = ["input.webp", "input-2.png", "input-3.jpg"]
    assert json.loads((folder / "job.json").read_text())["inputs"] == names
    assert [(folder / name).read_bytes() for name in names] == pictures


async def test_a_field_may_come_before_the_picture(connect: Connect) -> None:
    client = await connect()
    data = FormData({"prompt": "sepia"})
    data.add_field("image", encoded(), filename="photo.png")
    assert (await client.post("/edit", data=data)).status == 202


async def test_a_name_stands_behind_the_id(connect: Connect) -> None:
    client = await connect()
    answer = await (await client.post("/edit", data=form(name="wedding 042"))).json()
    assert answer["request_id"].endswith("_wedding-042")
    shown = await get(client, answer["status_url"])
    assert shown["name"] == "wedding 042"


async def test_a_picture_larger_than_a_chunk_arrives_whole(connect: Connect, spool: Spool) -> None:
    client = await connect()
    picture = encoded(".png", (640, 480))
    assert len(picture) > 3 * 256 * 1024
    answer = await (await client.post("/edit", data=form(picture))).json()
    assert (spool.incoming / answer["request_id"] / "input.png").read_bytes() == picture


async def test_the_same_idempotency_key_is_the_same_job(connect: Connect, spool: Spool) -> None:
    client = await connect()
    headers = {"Idempotency-Key": "order-17"}
    first, second = [await client.post("/edit", data=form(), headers=headers) for _ in range(2)]
    assert (first.status, second.status) == (202, 202)
    assert (await first.json())["request_id"] == (await second.json())["request_id"]
    assert len(list(spool.incoming.iterdir())) == 1
    for changed in ({"prompt": "invert"}, {"num_inference_steps": "50"}):
        other = await client.post("/edit", data=form(**changed), headers=headers)
        await check_error(other, 409, "idempotency_key_reused", "Idempotency-Key")
    too_long = await client.post("/edit", data=form(), headers={"Idempotency-Key": "k" * 256})
    assert "255" in await check_error(too_long, 400, "invalid_request", "Idempotency-Key")
    assert not list(spool.staging.iterdir())
