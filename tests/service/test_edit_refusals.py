"""POST /edit: each form that is refused, with its error; nothing of it stays in the spool."""

import asyncio
import os
import re
import struct
import zlib

import pytest
from aiohttp import FormData

from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    WorkerState,
)
from tests.support.app import (
    Client,
    Connect,
    HandWorker,
    check_error,
    form,
    in_chunks,
    is_empty,
)
from tests.support.http import BOUNDARY, MULTIPART, multipart, part
from tests.support.jobs import SubmitJob
from tests.support.pictures import encoded
from tests.support.seams import failing_call
from tests.support.service import wait_until


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
        ("seed", "-2", ["-1", "18446744073709551615"]),
        ("seed", "18446744073709551616", ["-1", "18446744073709551615"]),
        ("seed", "1e1", ["integer", "1e1"]),
        ("seed", "true", ["integer", "true"]),
        ("size", "huge", ["auto", "input", "WxH"]),
        ("size", "15x512", ["16", "4096"]),
        ("size", "512x4097", ["16", "4096"]),
        ("output_format", "gif", ["png", "jpeg", "webp"]),
        ("output_compression", "101", ["0", "100"]),
        ("output_compression", "50", ["jpeg and webp", "output_format"]),
        ("n", "0", ["1", "4"]),
        ("n", "5", ["1", "4"]),
        ("name", "x" * 201, ["200"]),
        ("preset", "x" * 65, ["64"]),
        ("markup", "x", ["mask", "prompt", "true_cfg_scale"]),
        ("seeds", "1", ["seed"]),
    ],
)
async def test_a_bad_field_is_named_with_its_limit(
    connect: Connect, spool: Spool, field: str, value: str, limits: list[str]
) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(**{field: value}))
    message = await check_error(response, 400, "invalid_request", field)
    assert field in message
    for limit in limits:
        assert re.search(limit, message), message
    assert is_empty(spool)


async def test_a_missing_prompt_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    data = FormData()
    data.add_field("image", encoded(), filename="photo.png")
    assert "required" in await check_error(
        await client.post("/edit", data=data), 400, "invalid_request", "prompt"
    )
    assert is_empty(spool)


async def test_a_missing_image_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post("/edit", data=multipart(("prompt", b"sepia")), headers=MULTIPART)
    assert "required" in await check_error(response, 400, "invalid_request", "image")
    assert is_empty(spool)


@pytest.mark.parametrize(
    ("of_model", "most", "times"),
    [
        (1, 1, "exactly once (the model"),
        (3, 3, "at most 3 times (the model"),
        (10, 10, "at most 10 times;"),
        (None, 10, "at most 10 times;"),
    ],
)
async def test_more_images_than_the_model_takes_are_refused_at_once(
    connect: Connect,
    spool: Spool,
    worker: HandWorker,
    of_model: int | None,
    most: int,
    times: str,
) -> None:
    worker.show(WorkerState.READY, max_images=of_model)
    client = await connect()
    response = await client.post("/edit", data=form(*[encoded()] * (most + 1)))
    assert times in await check_error(response, 400, "invalid_request", "image")
    assert is_empty(spool)
    assert (await client.post("/edit", data=form(*[encoded()] * most))).status == 202


async def test_a_dead_worker_does_not_limit_the_images(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY, max_images=1)
    worker.die()
    client = await connect()
    assert (await client.post("/edit", data=form(encoded(), encoded()))).status == 202


async def test_a_field_given_twice_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    data = form(seed="1")
    data.add_field("seed", "2")
    assert "twice" in await check_error(
        await client.post("/edit", data=data), 400, "invalid_request", "seed"
    )
    assert is_empty(spool)


async def test_text_that_is_not_utf_8_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = multipart(("image", encoded()), ("prompt", "Übermalen".encode("latin-1")))
    response = await client.post("/edit", data=body, headers=MULTIPART)
    assert "UTF-8" in await check_error(response, 400, "invalid_request", "prompt")
    assert is_empty(spool)


async def test_a_field_of_endless_text_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    response = await client.post("/edit", data=form(prompt="x" * 70_000))
    assert "at most" in await check_error(response, 400, "invalid_request", "prompt")
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
    assert reason in await check_error(response, 400, "unsupported_picture", "image")
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
    await check_error(response, 400, "unsupported_picture", "image")
    assert is_empty(spool)


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"")  # no data: a decoder finds it truncated
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


async def test_a_pixel_bomb_is_refused_by_its_header(connect: Connect, spool: Spool) -> None:
    client = await connect(max_megapixels=64)
    response = await client.post("/edit", data=form(_png_that_claims(60_000, 60_000)))
    message = await check_error(response, 413, "too_large", "image")
    assert "60000x60000" in message
    assert "64 million" in message
    assert is_empty(spool)


@pytest.mark.parametrize(("size", "limit"), [((7, 7), "8"), ((272, 16), "16")])
async def test_sides_that_no_engine_can_use_are_refused(
    connect: Connect, spool: Spool, size: tuple[int, int], limit: str
) -> None:
    client = await connect()
    message = await check_error(
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
    assert "0.05 MiB" in await check_error(response, 413, "too_large", "image")
    assert is_empty(spool)


async def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(
    connect: Connect, spool: Spool
) -> None:
    client = await connect(max_upload_mib=0.05)
    body = multipart(("prompt", b"sepia"), ("image", encoded(size=(200, 200))))
    response = await client.post("/edit", data=in_chunks(body), headers=MULTIPART)
    assert "0.05 MiB" in await check_error(response, 413, "too_large", "image")
    assert is_empty(spool)


async def test_a_small_body_of_unknown_length_is_accepted(connect: Connect) -> None:
    client = await connect(max_upload_mib=0.05)
    body = multipart(("prompt", b"sepia"), ("image", encoded()))
    response = await client.post("/edit", data=in_chunks(body), headers=MULTIPART)
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
    assert "multipart/form-data" in await check_error(response, 415, "unsupported_media_type")
    assert is_empty(spool)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"sepia, please", id="no boundary in it"),
        pytest.param(part("prompt", b"sepia") + part("image", encoded()), id="no end"),
        pytest.param(
            part("prompt", b"sepia") + part("image", encoded())[:-900], id="ends within a picture"
        ),
        pytest.param(
            b"--b\r\nno header at all\r\n\r\nx\r\n--b--\r\n",
            id="a header that is none",
        ),
        pytest.param(
            multipart(("prompt", b"sepia")).replace(b'; name="prompt"', b""),
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


async def test_body_with_wrong_content_encoding_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = multipart(("prompt", b"sepia"), ("image", encoded()))
    answer = await _send_raw(client, ["Content-Encoding: gzip"], body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'{"error": {"code": "invalid_request"' in answer
    assert is_empty(spool)


async def test_a_field_name_that_is_not_utf_8_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = multipart(("prompt", b"sepia")).replace(b"prompt", b"pr\xffmpt")
    answer = await _send_raw(client, [], body)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'{"error": {"code": "invalid_request"' in answer
    assert is_empty(spool)


async def test_idempotency_key_that_is_not_utf_8_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = multipart(("prompt", b"sepia"), ("image", encoded()))
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
        "Host: localhost",
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
    await check_error(response, 400, "invalid_request")
    assert is_empty(spool)


async def test_a_form_within_the_form_is_refused(connect: Connect, spool: Spool) -> None:
    client = await connect()
    body = b"--b\r\nContent-Type: multipart/mixed; boundary=inner\r\n\r\n--inner--\r\n--b--\r\n"
    await check_error(
        await client.post("/edit", data=body, headers=MULTIPART), 400, "invalid_request"
    )
    assert is_empty(spool)


async def test_a_full_queue_says_when_to_come_back(
    connect: Connect, spool: Spool, submit_job: SubmitJob
) -> None:
    client = await connect(max_queue=1)
    submit_job()
    response = await client.post("/edit", data=form())
    assert "at most 1" in await check_error(response, 429, "queue_full")
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
    await check_error(response, 429, "queue_full")
    assert response.headers["Retry-After"] == "14"


async def test_a_full_disk_refuses_the_job(connect: Connect, spool: Spool) -> None:
    client = await connect(min_free_mib=10**12)
    await check_error(await client.post("/edit", data=form()), 507, "disk_full")
    assert is_empty(spool)


async def test_upload_is_streamed_to_disk_and_removed_on_disconnect(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    picture = encoded(size=(640, 480))
    body = multipart(("prompt", b"sepia"), ("image", picture))
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = f"POST /edit HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
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


async def test_a_key_on_a_file_system_without_hard_links_is_refused(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    with failing_call(os, "link", "EPERM"):
        keyed = await client.post("/edit", data=form(), headers={"Idempotency-Key": "once"})
        message = await check_error(keyed, 503, "spool_unusable", "Idempotency-Key")
        assert "send the job without the key" in message
        assert is_empty(spool)
        assert (await client.post("/edit", data=form())).status == 202
