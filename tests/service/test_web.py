"""The HTTP server: every endpoint, every refusal, through a real client on a real spool.

Workers are played by hand here: what a worker does to the spool, the tests do through the spool
package.
"""

import asyncio
import http.client
import io
import json
import random
import re
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, FormData, web
from aiohttp.test_utils import TestClient
from PIL import Image
from pytest_aiohttp import AiohttpClient
from yarl import URL

from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.jobs.records import Progress, Result, Timings
from i2ii_spool.server.app import create_app
from i2ii_spool.settings import Settings
from i2ii_spool.spool import actions
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerLock,
    WorkerState,
    WorkerStatus,
    worker_name,
    write_status,
)
from tests.support.service import Service, wait_until

UNKNOWN = "20200101-000000-000-aaaaaa"

Client = TestClient[web.Request, web.Application]
Connect = Callable[..., Awaitable[Client]]
SubmitJob = Callable[..., str]


class HandWorker:
    """Does to the spool what a worker does, one verb at a time; its lock is held, so that it is
    alive."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.name = worker_name("gpu0")
        lock = WorkerLock.take(spool, self.name)
        assert lock is not None
        self.lock = lock
        self.is_alive = True
        (spool.running / self.name).mkdir()

    def die(self) -> None:
        """Let the lock go, as the kernel does for a process that dies."""
        if self.is_alive:
            self.is_alive = False
            self.lock.release()

    def show(self, state: WorkerState, **more: Any) -> None:
        """Write the status file."""
        status = WorkerStatus(
            worker=self.name, state=state, pid=1, gpu_id=0, engine="hand", model="none", **more
        )
        write_status(self.spool, status)

    def claim(self) -> Claim:
        """Claim the oldest job."""
        claim = Claims(self.spool, self.name, max_attempts=3).next()
        assert claim is not None
        return claim

    def finish(self, *outputs: str) -> dict[str, bytes]:
        """Run the oldest job to its end; return the pictures it made."""
        return self.commit(self.claim(), *outputs)

    def commit(self, claim: Claim, *outputs: str) -> dict[str, bytes]:
        """End a job with these pictures, `result.png` if none are named; return their bytes."""
        made = {
            name: encoded(Path(name).suffix, seed=seed)
            for seed, name in enumerate(outputs or ("result.png",))
        }
        for name, data in made.items():
            claim.save(name, data)
        record = Result(
            outputs=tuple(made),
            width=64,
            height=48,
            seed=7,
            attempt=claim.attempt,
            worker=self.name,
            gpu_id=0,
            completed_at=datetime.now(UTC),
            timings=Timings(queue=0.1, load=0.25, edit=1.5, save=0.01),
            engine="hand",
            model="none",
            revision="0",
            versions={},
        )
        claim.commit(record)
        return made

    def fail(self) -> None:
        """Have the oldest job fail."""
        self.claim().fail(EngineError("the paint ran out"))


@pytest.fixture
def worker(spool: Spool) -> Iterator[HandWorker]:
    worker = HandWorker(spool)
    yield worker
    worker.die()


@pytest.fixture
def connect(spool: Spool, aiohttp_client: AiohttpClient) -> Connect:
    """Start a server on the spool; the arguments are settings."""

    async def start(**settings: Any) -> Client:
        return await aiohttp_client(
            create_app(
                Settings(**{"spool": spool.root, "min_free_mib": 0, "_env_file": None, **settings})
            )
        )

    return start


def encoded(suffix: str = ".png", size: tuple[int, int] = (64, 48), *, seed: int = 0) -> bytes:
    """A picture file that shows noise, so that it is about as large as its pixels and cutting it
    cuts pixels."""
    noise = random.Random(seed).randbytes(size[0] * size[1] * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", size, noise).save(buffer, Image.registered_extensions()[suffix])
    return buffer.getvalue()


def form(*pictures: bytes, **fields: str) -> FormData:
    """The form of an edit; without arguments a good one."""
    data = FormData()
    for picture in pictures or (encoded(),):
        data.add_field("image", picture, filename="photo.png")
    for name, value in {"prompt": "sepia", **fields}.items():
        data.add_field(name, value)
    return data


async def error_of(
    response: ClientResponse, status: int, code: str, field: str | None = None
) -> str:
    """Check that a response is this error, in the one shape of all errors; return its message."""
    text = await response.text()
    assert response.status == status, text
    assert response.content_type == "application/json"
    body = json.loads(text)
    assert list(body) == ["error"]
    assert body["error"].keys() <= {"code", "message", "field"}
    assert (body["error"]["code"], body["error"].get("field")) == (code, field)
    assert "Traceback" not in text
    message: str = body["error"]["message"]
    assert message
    return message


def is_empty(spool: Spool) -> bool:
    """Whether there is no job, nor a part of one."""
    return not any(
        list(folder.iterdir())
        for folder in (spool.incoming, spool.staging, spool.done, spool.failed)
    )


async def get(client: Client, path: str, status: int = 200) -> Any:
    response = await client.get(path)
    assert response.status == status, await response.text()
    return await response.json()


# --- POST /edit -----------------------------------------------------------------------------------


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
    assert (asked["negative_prompt"], asked["num_inference_steps"]) == ("", 50)


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
    other = await client.post("/edit", data=form(prompt="invert"), headers=headers)
    await error_of(other, 409, "idempotency_key_reused", "Idempotency-Key")
    too_long = await client.post("/edit", data=form(), headers={"Idempotency-Key": "k" * 256})
    assert "255" in await error_of(too_long, 400, "invalid_request", "Idempotency-Key")
    assert not list(spool.staging.iterdir())


# --- POST /edit: what bad input gets --------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "limits"),
    [
        ("prompt", "", ["empty"]),
        ("prompt", " \n ", ["empty"]),
        ("prompt", "画" * 4001, ["4000", "4001"]),
        ("negative_prompt", "x" * 4001, ["4000"]),
        ("num_inference_steps", "9", ["10", "100", "'9'|9"]),
        ("num_inference_steps", "101", ["10", "100"]),
        ("num_inference_steps", "many", ["integer", "many"]),
        ("num_inference_steps", "20.5", ["integer", "20.5"]),
        ("true_cfg_scale", "0.9", ["1", "10", "0.9"]),
        ("true_cfg_scale", "10.1", ["1", "10"]),
        ("true_cfg_scale", "nan", ["number", "nan"]),
        ("true_cfg_scale", "warm", ["number", "warm"]),
        ("seed", "-1", ["0", "4294967295"]),
        ("seed", "4294967296", ["0", "4294967295"]),
        ("seed", "", ["integer"]),
        ("size", "huge", ["auto", "input", "WxH"]),
        ("size", "15x512", ["16", "4096"]),
        ("size", "512x4097", ["16", "4096"]),
        ("output_format", "gif", ["png", "jpeg", "webp"]),
        ("n", "0", ["1", "4"]),
        ("n", "5", ["1", "4"]),
        ("name", "x" * 201, ["200"]),
        ("preset", "x" * 65, ["64"]),
        ("mask", "x", ["mask", "prompt", "true_cfg_scale"]),
        ("seed ", "1", ["seed"]),
    ],
)
async def test_a_bad_field_is_named_with_its_limit(
    connect: Connect, spool: Spool, field: str, value: str, limits: list[str]
) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(**{field: value}))
    message = await error_of(response, 400, "invalid_request", field)
    assert field in message
    for limit in limits:
        assert re.search(limit, message), message
    assert is_empty(spool)


async def test_a_missing_prompt_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    data = FormData()
    data.add_field("image", encoded(), filename="photo.png")
    assert "required" in await error_of(
        await client.post("/edit", data=data), 400, "invalid_request", "prompt"
    )
    assert is_empty(spool)


async def test_a_missing_image_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post(
        "/edit", data=_multipart([("prompt", b"sepia")]), headers=MULTIPART
    )
    assert "required" in await error_of(response, 400, "invalid_request", "image")
    assert is_empty(spool)


async def test_a_fourth_image_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(*[encoded()] * 4))
    assert "3 times" in await error_of(response, 400, "invalid_request", "image")
    assert is_empty(spool)


async def test_a_field_given_twice_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    data = form(seed="1")
    data.add_field("seed", "2")
    assert "twice" in await error_of(
        await client.post("/edit", data=data), 400, "invalid_request", "seed"
    )
    assert is_empty(spool)


async def test_text_that_is_not_utf_8_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = _multipart([("image", encoded()), ("prompt", "Übermalen".encode("latin-1"))])
    response = await client.post("/edit", data=body, headers=MULTIPART)
    assert "UTF-8" in await error_of(response, 400, "invalid_request", "prompt")
    assert is_empty(spool)


async def test_a_field_of_endless_text_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(prompt="x" * 70_000))
    assert "at most" in await error_of(response, 400, "invalid_request", "prompt")
    assert is_empty(spool)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"%PDF-1.7 not a picture", "PNG, JPEG, WEBP", id="something else"),
        pytest.param(encoded(".bmp"), "PNG, JPEG, WEBP", id="a format that is not read"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "", id="a signature alone"),
    ],
)
async def test_what_is_not_a_picture_is_refused(
    connect: Connect, spool: Spool, picture: bytes, reason: str
) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(encoded(), picture))
    assert reason in await error_of(response, 400, "unsupported_picture", "image")
    assert is_empty(spool)


@pytest.mark.parametrize("kept", [0.5, 0.98])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".gif", ".tiff"])
async def test_a_truncated_picture_is_refused(
    connect: Connect, spool: Spool, suffix: str, kept: float
) -> None:
    client = await connect()
    whole = encoded(suffix, (96, 80))
    assert (await client.post("/edit", data=form(whole))).status == 202
    actions.cancel(spool, next(spool.incoming.iterdir()).name)
    actions.delete_job(spool, next(spool.failed.iterdir()).name)
    response = await client.post("/edit", data=form(whole[: int(len(whole) * kept)]))
    await error_of(response, 400, "unsupported_picture", "image")
    assert is_empty(spool)


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"")  # none: whoever decodes finds it truncated
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


async def test_a_pixel_bomb_is_refused_by_its_header(connect: Connect, spool: Spool) -> None:
    client = await connect(max_megapixels=64)
    response = await client.post("/edit", data=form(_png_that_claims(60_000, 60_000)))
    message = await error_of(response, 413, "too_large", "image")
    assert "60000x60000" in message
    assert "64 million" in message
    assert is_empty(spool)


@pytest.mark.parametrize(("size", "limit"), [((7, 7), "8"), ((272, 16), "16")])
async def test_sides_that_no_engine_can_use_are_refused(
    connect: Connect, spool: Spool, size: tuple[int, int], limit: str
) -> None:
    client = await connect()
    message = await error_of(
        await client.post("/edit", data=form(encoded(size=size))), 400, "invalid_request", "image"
    )
    assert f"{size[0]}x{size[1]}" in message
    assert limit in message
    assert is_empty(spool)


async def test_a_body_that_announces_too_many_bytes_is_refused(
    connect: Connect, spool: Spool
) -> None:
    client = await connect(max_upload_mib=0.05)
    response = await client.post("/edit", data=form(encoded(size=(200, 200))))
    assert "0.05 MiB" in await error_of(response, 413, "too_large", "image")
    assert is_empty(spool)


async def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(
    connect: Connect, spool: Spool
) -> None:
    client = await connect(max_upload_mib=0.05)
    body = _multipart([("prompt", b"sepia"), ("image", encoded(size=(200, 200)))])
    response = await client.post("/edit", data=_in_chunks(body), headers=MULTIPART)
    assert "0.05 MiB" in await error_of(response, 413, "too_large", "image")
    assert is_empty(spool)


async def test_a_small_body_of_unknown_length_is_accepted(connect: Connect) -> None:
    client = await connect(max_upload_mib=0.05)
    body = _multipart([("prompt", b"sepia"), ("image", encoded())])
    response = await client.post("/edit", data=_in_chunks(body), headers=MULTIPART)
    assert response.status == 202, await response.text()


@pytest.mark.parametrize(
    "kind", ["application/json", "application/x-www-form-urlencoded", "multipart/mixed", None]
)
async def test_what_is_no_multipart_form_is_refused(
    connect: Connect, spool: Spool, kind: str | None
) -> None:
    client = await connect()
    headers = {} if kind is None else {"Content-Type": kind}
    response = await client.post("/edit", data=b'{"prompt": "sepia"}', headers=headers)
    assert "multipart/form-data" in await error_of(response, 415, "unsupported_media_type")
    assert is_empty(spool)


BOUNDARY = "frontier"
MULTIPART = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def _multipart(parts: list[tuple[str, bytes]]) -> bytes:
    return b"".join(_part(name, data) for name, data in parts) + f"--{BOUNDARY}--\r\n".encode()


def _part(name: str, data: bytes) -> bytes:
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
    )


async def _in_chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 8192):
        yield body[start : start + 8192]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"sepia, please", id="no boundary in it"),
        pytest.param(_part("prompt", b"sepia") + _part("image", encoded()), id="no end"),
        pytest.param(
            _part("prompt", b"sepia") + _part("image", encoded())[:-900], id="ends within a picture"
        ),
        pytest.param(
            b"--frontier\r\nno header at all\r\n\r\nx\r\n--frontier--\r\n",
            id="a header that is none",
        ),
        pytest.param(
            _multipart([("prompt", b"sepia")]).replace(b'; name="prompt"', b""),
            id="a part without a name",
        ),
    ],
)
async def test_a_malformed_form_is_refused(connect: Connect, spool: Spool, body: bytes) -> None:
    client = await connect()
    response = await client.post("/edit", data=body, headers=MULTIPART)
    assert response.status == 400
    answer = await response.json()
    assert answer["error"]["code"] == "invalid_request"
    assert is_empty(spool)


async def test_a_body_that_is_not_compressed_as_it_says_is_refused(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    body = _multipart([("prompt", b"sepia"), ("image", encoded())])
    answer = await _send_raw(client, ["Content-Encoding: gzip"], body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'{"error": {"code": "invalid_request"' in answer
    assert is_empty(spool)


async def test_a_field_name_that_is_not_utf_8_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = _multipart([("prompt", b"sepia")]).replace(b"prompt", b"pr\xffmpt")
    answer = await _send_raw(client, [], body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'{"error": {"code": "invalid_request"' in answer
    assert is_empty(spool)


async def test_an_idempotency_key_that_is_not_utf_8_is_not_our_fault(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    body = _multipart([("prompt", b"sepia"), ("image", encoded())])
    answer = await _send_raw(client, ["Idempotency-Key: caf\xe9"], body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'"field": "Idempotency-Key"' in answer
    assert is_empty(spool)


async def _send_raw(client: Client, headers: list[str], body: bytes) -> bytes:
    """POST a form with headers and a body that no well-behaved client sends; return the whole
    answer."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    lines = [
        "POST /edit HTTP/1.1",
        "Host: x",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    lines += [f"Content-Type: {MULTIPART['Content-Type']}", "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + body)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_form_without_a_boundary_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post(
        "/edit", data=b"--x\r\n", headers={"Content-Type": "multipart/form-data"}
    )
    await error_of(response, 400, "invalid_request")
    assert is_empty(spool)


async def test_a_form_within_the_form_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = b"--frontier\r\nContent-Type: multipart/mixed; boundary=inner\r\n\r\n--inner--\r\n--frontier--\r\n"
    await error_of(await client.post("/edit", data=body, headers=MULTIPART), 400, "invalid_request")
    assert is_empty(spool)


async def test_a_full_queue_says_when_to_come_back(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect(max_queue=1)
    submit_job()
    response = await client.post("/edit", data=form())
    assert "at most 1" in await error_of(response, 429, "queue_full")
    assert int(response.headers["Retry-After"]) >= 1
    assert len(list(spool.incoming.iterdir())) == 1
    assert not list(spool.staging.iterdir())


async def test_a_full_queue_gives_the_time_that_its_workers_need(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    worker.show(WorkerState.READY, mean_job_seconds=7.0)
    for _ in range(3):
        submit_job()
    client = await connect(max_queue=2)
    response = await client.post("/edit", data=form())
    await error_of(response, 429, "queue_full")
    assert response.headers["Retry-After"] == "14"


async def test_a_full_disk_refuses_the_job(connect: Connect, spool: Spool) -> None:
    client = await connect(min_free_mib=10**12)
    await error_of(await client.post("/edit", data=form()), 507, "disk_full")
    assert is_empty(spool)


async def test_pictures_go_to_disk_as_they_come_and_a_client_that_leaves_leaves_nothing(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    picture = encoded(size=(640, 480))
    body = _multipart([("prompt", b"sepia"), ("image", picture)])
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /edit HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    writer.write(head.encode() + body[: len(body) * 3 // 4])
    await writer.drain()

    def on_disk() -> int:
        return sum(path.stat().st_size for path in spool.staging.glob("*/*") if path.is_file())

    await asyncio.to_thread(wait_until, lambda: on_disk() >= len(body) // 2)
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    await asyncio.to_thread(wait_until, lambda: is_empty(spool))


# --- GET /status ----------------------------------------------------------------------------------


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
    await _let_it_arrive(client)
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
    await _let_it_arrive(client)
    actions.cancel(spool, id)
    actions.delete_job(spool, id)
    response = await asyncio.wait_for(waiting, 60)
    assert response.status in (
        200,
        410,
    )  # whether the cancelled job was still seen, or only that it is no more


async def _let_it_arrive(client: Client) -> None:
    """Wait until a request that was begun before is in its handler: a few that come behind it are
    answered."""
    for _ in range(3):
        await get(client, "/livez")


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
    assert "0 to 300" in await error_of(response, 400, "invalid_request", "wait")


async def test_an_unknown_parameter_is_refused(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    response = await client.get(f"/status/{submit_job()}?timeout=3")
    assert "wait" in await error_of(response, 400, "invalid_request", "timeout")


async def test_a_parameter_given_twice_is_refused(connect: Connect, submit_job: SubmitJob) -> None:
    client = await connect()
    response = await client.get(f"/status/{submit_job()}?wait=0&wait=1")
    assert "twice" in await error_of(response, 400, "invalid_request", "wait")


JOB_ROUTES = [
    ("GET", "/status/{}"),
    ("GET", "/result/{}"),
    ("DELETE", "/jobs/{}"),
    ("POST", "/jobs/{}/retry"),
]


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
@pytest.mark.parametrize(
    "id", ["nonsense", "..%2F..%2Fetc%2Fpasswd", UNKNOWN.upper(), f"{UNKNOWN}%0A", f"{UNKNOWN}x"]
)
async def test_what_is_no_id_is_refused(connect: Connect, method: str, route: str, id: str) -> None:
    client = await connect()
    response = await client.request(method, URL(route.format(id), encoded=True))
    assert "is not a job id" in await error_of(response, 400, "invalid_request", "id")


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
async def test_a_job_that_never_was_is_not_found(connect: Connect, method: str, route: str) -> None:
    client = await connect()
    assert UNKNOWN in await error_of(
        await client.request(method, route.format(UNKNOWN)), 404, "not_found"
    )


@pytest.mark.parametrize(("method", "route"), JOB_ROUTES)
async def test_a_deleted_job_is_gone(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, method: str, route: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    assert (await client.delete(f"/jobs/{id}")).status == 200
    assert "deleted" in await error_of(
        await client.request(method, route.format(id)), 410, "deleted"
    )


# --- GET /result ----------------------------------------------------------------------------------


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
    assert "2 pictures" in await error_of(await client.get(f"/result/{id}?n=3"), 404, "not_found")


@pytest.mark.parametrize("n", ["0", "5", "1.5", "first", ""])
async def test_a_bad_number_of_a_result_is_refused(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, n: str
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    response = await client.get(f"/result/{id}", params={"n": n})
    assert "1 to 4" in await error_of(response, 400, "invalid_request", "n")


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
    assert str(len(whole)) in await error_of(response, 416, "range_not_satisfiable")


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
    assert "the paint ran out" in await error_of(
        await client.get(f"/result/{id}"), 409, "engine_error"
    )


async def test_the_result_of_a_cancelled_job_is_that_it_was_cancelled(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    actions.cancel(spool, id)
    await error_of(await client.get(f"/result/{id}"), 409, "cancelled")


# --- DELETE /jobs/ID, POST /jobs/ID/retry ---------------------------------------------------------


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
    assert state in await error_of(await client.post(f"/jobs/{id}/retry"), 409, "wrong_state")
    assert len(list((spool.root / state).rglob("job.json"))) == 1


# --- GET /jobs ------------------------------------------------------------------------------------


async def test_the_list_shows_every_state_newest_first(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    done, failed, running, cancelled, queued = [submit_job() for _ in range(5)]
    worker.finish()
    worker.fail()
    worker.claim()
    actions.cancel(spool, cancelled)
    listed = await get(client, "/jobs")
    assert listed["next"] is None
    assert [(job["request_id"], job["status"]) for job in listed["jobs"]] == [
        (queued, "queued"),
        (cancelled, "cancelled"),
        (running, "running"),
        (failed, "failed"),
        (done, "completed"),
    ]
    for state, ids in [
        ("incoming", [queued]),
        ("running", [running]),
        ("done", [done]),
        ("failed", [cancelled, failed]),
    ]:
        of_state = await get(client, f"/jobs?state={state}")
        assert [job["request_id"] for job in of_state["jobs"]] == ids, state


async def test_an_entry_of_the_list_is_what_its_status_says(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job(prompt="做旧", name="first"), submit_job(), submit_job()]
    worker.finish()
    listed = await get(client, "/jobs")
    assert listed["jobs"] == [await get(client, f"/status/{id}") for id in reversed(ids)]


async def test_the_pages_of_the_list_are_the_list(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(10)]
    for end in (worker.finish, worker.fail, worker.claim, worker.finish):
        end()
    assert await _pages(client, limit=3) == sorted(ids, reverse=True)
    assert await _pages(client, limit=5) == sorted(ids, reverse=True)
    assert await _pages(client, limit=4, state="incoming") == sorted(ids[4:], reverse=True)


async def test_jobs_that_arrive_between_two_pages_repeat_nothing(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(7)]
    assert await _pages(client, limit=2, between=submit_job) == sorted(ids, reverse=True)


async def _pages(
    client: Client,
    *,
    limit: int,
    state: str | None = None,
    between: Callable[[], Any] = lambda: None,
) -> list[str]:
    """Walk through the list from page to page, doing something between two; return the ids in it."""
    query = f"/jobs?limit={limit}" + (f"&state={state}" if state else "")
    ids: list[str] = []
    page = await get(client, query)
    while True:
        assert len(page["jobs"]) <= limit
        ids += [job["request_id"] for job in page["jobs"]]
        if page["next"] is None:
            return ids
        between()
        page = await get(client, f"{query}&after={page['next']}")


async def test_a_damaged_job_does_not_hide_the_others(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    damaged, good = submit_job(), submit_job()
    worker.finish()
    worker.finish()
    (spool.done / damaged / "result.json").write_text("{")
    assert good in [job["request_id"] for job in (await get(client, "/jobs"))["jobs"]]


async def test_an_empty_spool_has_an_empty_list(connect: Connect) -> None:
    assert await get(await connect(), "/jobs") == {"jobs": [], "next": None}


@pytest.mark.parametrize(
    ("parameter", "value", "limits"),
    [
        ("state", "queue", ["incoming", "running", "done", "failed"]),
        ("state", "../done", ["incoming"]),
        ("limit", "0", ["1", "1000"]),
        ("limit", "1001", ["1", "1000"]),
        ("limit", "2.5", ["1", "1000"]),
        ("limit", "all", ["1", "1000"]),
        ("after", "nonsense", ["is not a job id"]),
        ("page", "2", ["state", "limit", "after"]),
    ],
)
async def test_a_bad_parameter_of_the_list_is_refused(
    connect: Connect, parameter: str, value: str, limits: list[str]
) -> None:
    client = await connect()
    response = await client.get("/jobs", params={parameter: value})
    message = await error_of(response, 400, "invalid_request", parameter)
    assert all(limit in message for limit in limits), message


# --- /system/status, /health, /livez --------------------------------------------------------------


async def test_the_system_status_counts_jobs_and_workers(
    connect: Connect, spool: Spool, worker: HandWorker, submit_job: SubmitJob
) -> None:
    for _ in range(7):
        submit_job()
    for end in (worker.finish, worker.finish, worker.fail):
        end()
    running = worker.claim().id
    worker.show(WorkerState.RUNNING, job=running, step=3, steps=50, jobs_done=2, jobs_failed=1)
    shown = await get(await connect(), "/system/status")
    (gpu,) = shown.pop("workers")
    assert gpu.pop("heartbeat_age") >= 0
    assert (gpu["worker"], gpu["gpu_id"], gpu["state"], gpu["alive"]) == (
        worker.name,
        0,
        "running",
        True,
    )
    assert (gpu["job"], gpu["step"], gpu["steps"]) == (running, 3, 50)
    assert (gpu["jobs_done"], gpu["jobs_failed"]) == (2, 1)
    disk = shown.pop("spool")
    assert disk["path"] == str(spool.root)
    assert disk["free_bytes"] > 0
    assert disk["oldest_waiting_seconds"] >= 0
    assert shown == {
        "total_gpus": 1,
        "alive_processes": 1,
        "ready_workers": 1,
        "total_requests": 7,
        "queued_requests": 3,
        "running_requests": 1,
        "completed_requests": 2,
        "failed_requests": 1,
    }


async def test_the_system_status_of_an_empty_spool_is_all_noughts(connect: Connect) -> None:
    shown = await get(await connect(), "/system/status")
    assert shown.pop("spool")["oldest_waiting_seconds"] is None
    assert shown.pop("workers") == []
    assert set(shown.values()) == {0}


async def test_a_dead_worker_is_shown_and_not_counted_as_alive(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    worker.die()
    shown = await get(client, "/system/status")
    assert (shown["total_gpus"], shown["alive_processes"], shown["ready_workers"]) == (1, 0, 0)
    assert shown["workers"][0]["alive"] is False


@pytest.mark.parametrize("state", [WorkerState.READY, WorkerState.RUNNING])
async def test_a_service_with_a_ready_worker_is_healthy(
    connect: Connect, worker: HandWorker, state: WorkerState
) -> None:
    worker.show(state)
    assert await get(await connect(), "/health") == {"status": "healthy", "ready_workers": 1}


@pytest.mark.parametrize("state", [WorkerState.LOADING, WorkerState.DEGRADED, WorkerState.STOPPING])
async def test_a_service_whose_workers_take_no_jobs_is_degraded(
    connect: Connect, worker: HandWorker, state: WorkerState
) -> None:
    worker.show(state)
    answer = await get(await connect(), "/health", 503)
    assert answer["status"] == "degraded"
    assert f"{worker.name} is {state}" in answer["reason"]


async def test_a_service_without_workers_is_unhealthy(connect: Connect) -> None:
    answer = await get(await connect(), "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "no worker" in answer["reason"]


async def test_a_service_whose_worker_is_dead_is_unhealthy(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    worker.die()
    assert (await get(client, "/health", 503))["status"] == "unhealthy"


async def test_a_service_on_a_full_disk_is_unhealthy(connect: Connect, worker: HandWorker) -> None:
    worker.show(WorkerState.READY)
    answer = await get(await connect(min_free_mib=10**12), "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "MiB free" in answer["reason"]


async def test_a_service_that_cannot_write_to_its_spool_is_unhealthy(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY)
    client = await connect()
    spool.staging.rmdir()
    answer = await get(client, "/health", 503)
    assert answer["status"] == "unhealthy"
    assert "cannot be written to" in answer["reason"]


async def test_asking_for_the_health_leaves_nothing_in_the_spool(
    connect: Connect, spool: Spool
) -> None:
    await get(await connect(), "/health", 503)
    assert is_empty(spool)


async def test_a_server_lives_whatever_its_workers_do(connect: Connect) -> None:
    assert await get(await connect(), "/livez") == {"status": "alive"}


# --- errors of any route, and more than one server ------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nothing", "/status/", "/jobs/", f"/jobs/{UNKNOWN}/again", "/edit/x"]
)
async def test_an_unknown_route_is_said_to_be_one(connect: Connect, path: str) -> None:
    client = await connect()
    assert path in await error_of(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/edit", "POST"),
        ("PUT", "/edit", "POST"),
        ("POST", f"/status/{UNKNOWN}", "GET"),
        ("GET", f"/jobs/{UNKNOWN}", "DELETE"),
        ("GET", f"/jobs/{UNKNOWN}/retry", "POST"),
        ("DELETE", "/jobs", "GET"),
        ("POST", "/health", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_one(
    connect: Connect, method: str, path: str, allowed: str
) -> None:
    client = await connect()
    response = await client.request(method, path)
    message = await error_of(response, 405, "method_not_allowed")
    assert allowed in message
    assert allowed in response.headers["Allow"]


async def test_a_bug_is_answered_in_the_one_shape_and_logged(
    spool: Spool, aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(_request: web.Request) -> web.Response:
        raise ZeroDivisionError("a secret of the house")

    app = create_app(Settings(spool=spool.root, _env_file=None))
    app.router.add_get("/bug", break_down)
    client = await aiohttp_client(app)
    response = await client.get("/bug")
    await error_of(response, 500, "internal_error")
    assert "secret" not in await response.text()
    assert "a secret of the house" in caplog.text
    assert (await client.get("/livez")).status == 200


async def test_a_spool_that_is_gone_is_answered_in_the_one_shape(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    spool.done.rmdir()
    response = await client.get("/jobs")
    await error_of(response, 500, "internal_error")
    assert str(spool.root) not in await response.text()


async def test_two_servers_on_one_spool_see_each_others_jobs(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    here, there = await connect(), await connect()
    ids = [
        (await (await server.post("/edit", data=form())).json())["request_id"]
        for server in (here, there, here)
    ]
    for server in (here, there):
        listed = await get(server, "/jobs")
        assert [job["request_id"] for job in listed["jobs"]] == sorted(ids, reverse=True)
    assert (await get(there, f"/status/{ids[0]}"))["position"] == 1
    made = worker.finish()
    for server in (here, there):
        assert await (await server.get(f"/result/{ids[0]}")).read() == made["result.png"]
    assert (await there.delete(f"/jobs/{ids[2]}")).status == 200
    assert (await get(here, f"/status/{ids[2]}"))["status"] == "cancelled"
    assert (await here.post(f"/jobs/{ids[2]}/retry")).status == 202
    assert (await get(there, f"/status/{ids[2]}"))["status"] == "queued"
    assert len(list(spool.incoming.iterdir())) == 2


async def test_a_key_sent_to_two_servers_is_one_job(connect: Connect, spool: Spool) -> None:
    servers = [await connect(), await connect()]
    answers = await asyncio.gather(
        *(
            server.post("/edit", data=form(), headers={"Idempotency-Key": "once"})
            for server in servers * 3
        )
    )
    assert {answer.status for answer in answers} == {202}
    assert len({(await answer.json())["request_id"] for answer in answers}) == 1
    assert len(list(spool.incoming.iterdir())) == 1
    assert not list(spool.staging.iterdir())


# --- as a process ---------------------------------------------------------------------------------


def test_a_server_that_stops_hears_out_who_has_just_connected(service: Service) -> None:
    host, _, port = service.serve().removeprefix("http://").partition(":")
    [server] = service.processes
    with closing(http.client.HTTPConnection(host, int(port), timeout=20)) as client:
        client.connect()
        server.terminate()
        wait_until(lambda: is_refused(host, int(port)))
        client.request("GET", "/livez")
        assert client.getresponse().status == 200
    assert server.wait(20) == 0


def is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except ConnectionRefusedError:
        return True
    return False
