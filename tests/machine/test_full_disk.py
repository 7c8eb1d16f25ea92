"""Real disks that are full, or that fail, under a live service: what comes is refused honestly,
nothing is lost, and all goes on when the disk does."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.submit import submit
from tests.support.disks import MountedDisk, why_not
from tests.support.http import ask, error_of, form, multipart, post
from tests.support.raw_http import Wire, head, length
from tests.support.service import Service, cli, get_json, wait_until

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=f"no disk of its own: {why_not()}"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MountedDisk]:
    with MountedDisk(tmp_path, mib=24, inodes=1024) as disk:
        yield disk


@pytest.fixture
def service(disk: MountedDisk) -> Iterator[Service]:
    """A service on a disk of 24 MiB, of which it keeps four."""
    service = Service(disk.folder)
    service.log = disk.folder.with_name("service.log")
    service.environment["I2II_MIN_FREE_MIB"] = "4"
    yield service
    service.stop_all()


def accept(url: str, picture: bytes) -> str:
    """Submit a picture; return the id of the job that was accepted."""
    answer = post(url, picture)
    assert answer.status == 202, answer
    id: str = answer.json()["request_id"]
    return id


def fill(disk: MountedDisk, *, keep: int) -> Path:
    """Fill the disk up to so many bytes."""
    status = os.statvfs(disk.folder)
    path = disk.folder / "ballast"
    subprocess.run(
        ["fallocate", "-l", str(status.f_bavail * status.f_frsize - keep), path], check=True
    )
    return path


def json_body(picture: bytes) -> tuple[bytes, dict[str, str]]:
    """A body of the OpenAI API in JSON, and its headers."""
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    body = {"prompt": "sepia", "images": [{"image_url": url}]}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def is_done(service: Service, id: str) -> bool:
    return (service.spool.done / id).exists()


@pytest.fixture
def noise(tmp_path: Path) -> bytes:
    """A picture of some 700 KB."""
    Image.effect_noise((800, 800), 90).save(tmp_path / "noise.png")
    return (tmp_path / "noise.png").read_bytes()


def test_disk_fills_to_its_floor_and_every_accepted_job_is_done(
    service: Service, noise: bytes
) -> None:
    url = service.serve()
    accepted = 0
    while (answer := post(url, noise)).status == 202:
        accepted += 1

    message = answer.json()["error"]["message"]
    assert (error_of(answer), "i2ii gc" in message) == ((507, "disk_full"), True)
    assert accepted > 5
    assert os.listdir(service.spool.staging) == []
    assert cli(service, "doctor", check=False).returncode == 1
    service.work(engine="quick")
    deleted = 0

    def all_are_done() -> bool:  # each needs the room that another leaves
        nonlocal deleted
        deleted += int(cli(service, "gc", "--keep-jobs", "0").stdout.split()[0])
        assert os.listdir(service.spool.failed) == []
        return deleted == accepted

    wait_until(all_are_done, seconds=180)
    accept(url, noise)


def test_uploads_that_come_at_once_keep_the_floor(service: Service, disk: MountedDisk) -> None:
    Image.effect_noise((1000, 1400), 90).save(disk.folder.with_name("large.png"))
    body = multipart(
        ("prompt", b"sepia"), ("image", disk.folder.with_name("large.png").read_bytes())
    )
    url = service.serve()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(url)) for _ in range(30)]
        for wire in wires:
            wire.send(head(length(body), "Expect: 100-continue"))
        let_in = [wire for wire in wires if wire.begins_with() == b"HTTP/1.1 100 "]
        assert 5 < len(let_in) < 20, "each has 1.9 MB; the disk takes 20 MiB"
        for wire in let_in:
            wire.send(body)
        assert [wire.answer().status for wire in wires].count(202) == len(let_in)
    status = os.statvfs(disk.folder)
    assert status.f_bavail * status.f_frsize >= 4 * 2**20


def test_a_worker_waits_for_room_and_says_so(
    service: Service, disk: MountedDisk, picture: Path
) -> None:
    url = service.serve()
    worker = service.work(engine="quick")
    id = submit(service.spool, [picture], EditRequest(prompt="sepia"), max_pixels=10**6)
    wait_until(lambda: is_done(service, id))
    ballast = fill(disk, keep=2**20)
    waiting = submit(service.spool, [picture], EditRequest(prompt="sepia"), max_pixels=10**6)
    status = wait_until(
        lambda: [status for status in service.workers() if status["state"] == "degraded"]
    )
    assert "MiB free" in status[0]["note"]
    assert os.listdir(service.spool.incoming) == [waiting]
    ballast.unlink()
    wait_until(lambda: is_done(service, waiting))
    assert worker.poll() is None
    assert get_json(f"{url}/health")["status"] == "healthy"


def test_disk_without_free_inodes_is_full(
    service: Service, disk: MountedDisk, noise: bytes
) -> None:
    url = service.serve()
    many = disk.folder / "many"
    many.mkdir()
    for number in range(os.statvfs(disk.folder).f_favail - 200):
        (many / str(number)).touch()
    answer = post(url, noise)
    message = answer.json()["error"]["message"]
    assert (error_of(answer), "more files" in message) == ((507, "disk_full"), True)
    shutil.rmtree(many)
    accept(url, noise)


def test_a_disk_that_is_full_in_the_midst_of_it_loses_nothing(
    service: Service, disk: MountedDisk, noise: bytes
) -> None:
    """Others fill it below any floor: uploads are refused, results cannot be written, and all of it
    goes on after."""
    service.environment["I2II_MIN_FREE_MIB"] = "0"
    url = service.serve()
    accepted = [accept(url, noise) for _ in range(3)]
    ballast = fill(disk, keep=100_000)
    assert error_of(post(url, noise)) == (507, "disk_full")
    for body, headers in (form({"prompt": "sepia"}, noise), json_body(noise)):
        with closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
            answer = ask(connection, "POST", "/v1/images/edits", body, headers)
        assert error_of(answer) == (507, "disk_full")
    assert os.listdir(service.spool.staging) == []
    worker = service.work(engine="quick")
    assert worker.wait(30) == 1
    assert "No space left on device" in service.read_log()
    ballast.unlink()
    service.work(engine="quick")
    wait_until(lambda: all(is_done(service, id) for id in accepted))
    accept(url, noise)


def test_a_disk_that_fails_under_an_edit_is_not_the_jobs_fault(
    service: Service, disk: MountedDisk, noise: bytes
) -> None:
    url = service.serve()
    worker = service.work(engine="slow")
    id = post(url, noise, num_inference_steps="60").json()["request_id"]
    wait_until(lambda: get_json(f"{url}/status/{id}").get("step"))
    disk.cut_power()
    assert worker.wait(30) == 1
    service.stop_all()
    disk.boot()
    service.work(engine="quick")
    wait_until(lambda: is_done(service, id))


def test_read_only_disk_is_reported(
    service: Service, disk: MountedDisk, noise: bytes, picture: Path
) -> None:
    url = service.serve()
    accepted = accept(url, noise)
    disk.remount("ro")
    answer = post(url, noise)
    message = answer.json()["error"]["message"]
    assert (error_of(answer), "Read-only file system" in message) == ((503, "spool_unusable"), True)
    assert get_json(f"{url}/status/{accepted}")["status"] == "queued"
    refused = cli(service, "submit", str(picture), "-p", "sepia", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "Read-only file system" in refused.stderr
    disk.remount("rw")
    service.work(engine="quick")
    wait_until(lambda: is_done(service, accepted))
    accept(url, noise)


def test_lost_disk_is_reported_and_the_service_recovers(
    service: Service, disk: MountedDisk, noise: bytes
) -> None:
    """Every call fails with EIO, as when its cable is pulled: the server says so, and the worker
    ends."""
    url = service.serve()
    worker = service.work(engine="quick")
    accepted = accept(url, noise)
    wait_until(lambda: is_done(service, accepted))
    disk.cut_power()
    assert error_of(post(url, noise)) == (503, "spool_unusable")
    assert worker.wait(30) == 1
    service.stop_all()
    disk.boot()
    url = service.serve()
    service.work(engine="quick")
    assert is_done(service, accepted)
    again = accept(url, noise)
    wait_until(lambda: is_done(service, again))
