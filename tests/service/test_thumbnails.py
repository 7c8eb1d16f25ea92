"""GET /thumbnails/ID: small, upright, made once, never stale, and gone with the job."""

import errno
import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from aiohttp import ClientResponse
from PIL import Image

from i2ii_spool.images import codec
from i2ii_spool.spool import actions, retention, thumbnails
from i2ii_spool.spool.layout import Spool
from tests.support.app import Client, Connect, HandWorker, check_error, form
from tests.support.jobs import SubmitJob, result_of
from tests.support.pictures import encoded, gradient, saved

Submit = Callable[..., Awaitable[str]]


async def submit(client: Client, picture: bytes) -> str:
    answer = await (await client.post("/edit", data=form(picture))).json()
    id: str = answer["request_id"]
    return id


def finish_with(worker: HandWorker, picture: bytes) -> str:
    claim = worker.claim()
    claim.save("result.png", picture)
    claim.commit(result_of(claim, "result.png"))
    return claim.id


async def shown(response: ClientResponse) -> Image.Image:
    assert response.status == 200, await response.text()
    assert response.content_type == "image/webp"
    return Image.open(io.BytesIO(await response.read()))


def kept(spool: Spool, id: str) -> list[str]:
    folder = spool.thumbnails / id
    return sorted(os.listdir(folder)) if folder.exists() else []


def no_decoder() -> Any:
    return mock.patch.object(codec, "thumbnail", side_effect=AssertionError("made again"))


async def test_a_result_is_made_small_once_and_kept(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()
    finish_with(worker, saved(gradient((1200, 900)), "PNG"))
    response = await client.get(f"/thumbnails/{id}")
    assert (await shown(response)).size == (480, 360)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    [name] = kept(spool, id)
    assert (spool.thumbnails / id / name).read_bytes() == await response.read()
    with no_decoder():
        again = await (await connect()).get(f"/thumbnails/{id}")
        assert await again.read() == await response.read()
        known = {"If-None-Match": response.headers["ETag"]}
        assert (await client.get(f"/thumbnails/{id}", headers=known)).status == 304


async def test_an_input_is_upright_and_larger_if_wanted(connect: Connect, spool: Spool) -> None:
    client = await connect()
    exif = Image.Exif()
    exif[274] = 6  # its right side is up
    photo = gradient((2000, 1000))
    photo.paste("red", (0, 0, 200, 200))  # at the upper left, so at the upper right when upright
    id = await submit(client, saved(photo, "JPEG", exif=exif))
    for side, size in ((480, (240, 480)), (1600, (800, 1600))):
        image = await shown(await client.get(f"/thumbnails/{id}?of=input&side={side}"))
        assert image.size == size
        red, green, blue = image.convert("RGB").getpixel((size[0] - 10, 10))  # type: ignore[misc]
        assert red > 200 > 100 > max(green, blue)
    assert len(kept(spool, id)) == 2


@pytest.mark.parametrize("suffix", [".tiff", ".gif", ".webp", ".png"])
async def test_every_format_can_be_shown(connect: Connect, suffix: str) -> None:
    client = await connect()
    id = await submit(client, encoded(suffix, (640, 480)))
    response = await client.get(f"/thumbnails/{id}?of=input&side=1600")
    assert (await shown(response)).size == (640, 480)


async def test_transparency_is_kept(connect: Connect) -> None:
    client = await connect()
    id = await submit(client, saved(Image.new("RGBA", (600, 600), (255, 0, 0, 0)), "PNG"))
    image = await shown(await client.get(f"/thumbnails/{id}?of=input"))
    assert image.convert("RGBA").getchannel("A").getextrema() == (0, 0)


async def test_even_noise_is_small(connect: Connect) -> None:
    client = await connect()
    id = await submit(client, encoded(".png", (560, 560)))
    data = await (await client.get(f"/thumbnails/{id}?of=input")).read()
    assert len(data) <= 25_000


async def test_a_result_may_have_any_shape(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    finish_with(worker, saved(gradient((4096, 16)), "PNG"))
    assert (await shown(await client.get(f"/thumbnails/{id}"))).size == (480, 2)


async def test_another_result_has_another_thumbnail(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    id = submit_job()
    finish_with(worker, saved(Image.new("RGB", (64, 48), "red"), "PNG"))
    first = await client.get(f"/thumbnails/{id}")
    before = kept(spool, id)
    (spool.done / id / "result.png").write_bytes(saved(Image.new("RGB", (64, 48)), "PNG"))
    response = await client.get(
        f"/thumbnails/{id}", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert max((await shown(response)).convert("RGB").getpixel((32, 24))) < 9  # type: ignore[arg-type, type-var]
    assert len(kept(spool, id)) == 1
    assert kept(spool, id) != before


@pytest.mark.parametrize("content", [b"", b"RIFF\xff\xff\0\0WEBP", bytes(500)])
async def test_one_that_a_power_failure_cut_off_is_made_again(
    connect: Connect, submit_job: SubmitJob, spool: Spool, content: bytes
) -> None:
    client = await connect()
    id = submit_job()
    whole = await (await client.get(f"/thumbnails/{id}?of=input")).read()
    [name] = kept(spool, id)
    path = spool.thumbnails / id / name
    path.write_bytes(content)
    assert await (await client.get(f"/thumbnails/{id}?of=input")).read() == whole
    assert path.read_bytes() == whole


async def test_a_full_disk_keeps_none_and_shows_them(
    connect: Connect, submit_job: SubmitJob, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    id = submit_job()
    client = await connect(min_free_mib=2**40)
    await shown(await client.get(f"/thumbnails/{id}?of=input"))
    assert not caplog.records
    client = await connect()
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("i2ii_spool.spool.thumbnails.create_file", side_effect=full):
        await shown(await client.get(f"/thumbnails/{id}?of=input"))
    assert "a thumbnail is not kept" in caplog.text
    assert kept(spool, id) == []
    assert os.listdir(spool.staging) == []


async def test_they_go_with_their_job(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    ids = [submit_job() for _ in range(2)]
    for id in ids:
        worker.finish()
        await shown(await client.get(f"/thumbnails/{id}"))
    assert (await client.delete(f"/jobs/{ids[0]}")).status == 200
    assert os.listdir(spool.thumbnails) == [ids[1]]
    await check_error(await client.get(f"/thumbnails/{ids[0]}"), 410, "deleted")
    retention.prune(spool, retention.RetentionPolicy(jobs=0))
    assert os.listdir(spool.thumbnails) == []


async def test_a_job_that_is_deleted_meanwhile_leaves_none(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = await connect()
    id = submit_job()
    worker.finish()
    check_disk = thumbnails.check_disk

    def delete_it(spool: Spool, *, min_free: int) -> None:
        actions.delete_job(spool, id)
        check_disk(spool, min_free=min_free)

    monkeypatch.setattr(thumbnails, "check_disk", delete_it)
    await check_error(await client.get(f"/thumbnails/{id}"), 410, "deleted")
    assert os.listdir(spool.thumbnails) == []


async def test_the_sweep_removes_what_has_no_job(
    connect: Connect, submit_job: SubmitJob, spool: Spool
) -> None:
    client = await connect()
    live, dead = submit_job(), submit_job()
    for id in (live, dead):
        await shown(await client.get(f"/thumbnails/{id}?of=input"))
    (spool.incoming / dead).rename(spool.root / "elsewhere")
    temp = spool.staging / f".thumbnail.{'0' * 16}"
    temp.touch()
    users = [spool.thumbnails / "mine", spool.staging / ".thumbnail.mine"]
    for path in users:
        path.touch()
    retention.sweep(spool)
    assert {path.name for path in spool.thumbnails.iterdir()} == {live, "mine"}
    assert temp.exists()
    with mock.patch.object(retention, "STALE_SUBMISSION_SECONDS", -1):
        retention.sweep(spool)
    assert not temp.exists()
    assert all(path.exists() for path in users)


async def test_a_job_without_a_result_has_no_thumbnail_of_it(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    await check_error(await client.get(f"/thumbnails/{id}"), 409, "wrong_state")
    await shown(await client.get(f"/thumbnails/{id}?of=input"))
    worker.fail()
    await check_error(await client.get(f"/thumbnails/{id}"), 409, "engine_error")


@pytest.mark.parametrize(
    ("field", "value"),
    [("side", "481"), ("side", ""), ("side", "0480"), ("of", "mask"), ("of", ""), ("n", "0")],
)
async def test_a_wrong_parameter_is_refused(
    connect: Connect, submit_job: SubmitJob, field: str, value: str
) -> None:
    client = await connect()
    response = await client.get(f"/thumbnails/{submit_job()}", params={field: value})
    await check_error(response, 400, "invalid_request", field)


async def test_a_link_in_place_of_the_folder_is_not_followed(
    connect: Connect, submit_job: SubmitJob, spool: Spool, tmp_path: Path
) -> None:
    client = await connect()
    id = submit_job()
    (tmp_path / "outside").mkdir()
    (spool.thumbnails / id).symlink_to(tmp_path / "outside")
    await shown(await client.get(f"/thumbnails/{id}?of=input"))
    thumbnails.delete(spool, id)
    assert os.listdir(tmp_path / "outside") == []
