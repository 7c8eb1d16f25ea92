"""Folders with pictures and a prompt that a person moves or copies into `incoming/`."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from i2ii_spool.jobs.ids import new_id
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.status import read_status
from tests.support.guests import assert_edited, ending, ls, make_guest, request_of, shell
from tests.support.pictures import make_picture
from tests.support.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("guests")  # one service for the file

NEVER = "100000"


@pytest.mark.parametrize("tool", [["mv"], ["cp", "-r"]])
def test_a_folder_with_a_picture_and_a_prompt_is_edited(
    live: Service, tmp_path: Path, tool: list[str]
) -> None:
    name = f"{tool[0]}-wedding.042"
    guest = make_guest(tmp_path / name, "DSC_0042.JPG", prompt="turn this into a watercolour")

    shell(*tool, guest, live.spool.incoming)

    job = ending(live.spool, name)
    assert_edited(job, "DSC_0042.JPG")
    assert request_of(job)["prompt"] == "turn this into a watercolour"
    assert name not in ls(live.spool.incoming)
    assert guest.exists() == (tool[0] == "cp")


def test_a_folder_with_a_job_json_is_edited_as_it_says(live: Service, tmp_path: Path) -> None:
    request = {"prompt": "invert", "seed": 42, "output_format": "webp", "n": 2}
    guest = make_guest(tmp_path / "full", "a.png", request=request)
    (guest / "notes.txt").write_text("from the second day")

    shell("mv", guest, live.spool.incoming)

    job = ending(live.spool, "full")
    assert {"result.webp", "result-2.webp", "notes.txt"} < set(ls(job))
    assert json.loads((job / "result.json").read_text())["seed"] == 42


def test_a_folder_with_three_pictures_is_one_job_with_three_inputs(
    service: Service, tmp_path: Path
) -> None:
    service.work(engine="quick")
    guest = make_guest(
        tmp_path / "three", "p10.png", "p2.png", "p1.png", prompt="put them together"
    )

    shell("mv", guest, service.spool.incoming)

    job = ending(service.spool, "three")
    assert job.parent == service.spool.done
    assert "result.png" in ls(job)
    assert request_of(job)["inputs"] == ["p1.png", "p2.png", "p10.png"]


def test_a_chinese_prompt_in_a_chinese_folder_is_edited(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "婚礼 042", "照片.jpg", prompt="将图像转换为水彩画风格")

    shell("mv", guest, live.spool.incoming)

    job = ending(live.spool, "042")
    assert_edited(job, "照片.jpg")
    assert request_of(job)["prompt"] == "将图像转换为水彩画风格"
    assert request_of(job)["name"] == "婚礼 042"


def test_a_wholly_chinese_name_is_kept_in_the_request(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "全家福", "照片.jpg", prompt="怀旧")

    shell("mv", guest, live.spool.incoming)

    def admitted() -> Path | None:
        return next(
            (live.spool.done / id for id in ls(live.spool.done) if is_named(live.spool.done / id)),
            None,
        )

    def is_named(job: Path) -> bool:
        return request_of(job).get("name") == "全家福"

    assert_edited(wait_until(admitted), "照片.jpg")


@pytest.mark.parametrize("case", ["folder", "picture"])
def test_guest_with_a_non_utf_8_name_is_edited(service: Service, tmp_path: Path, case: str) -> None:
    service.work(guest_patience_seconds="0.5")
    gbk = os.fsdecode("婚礼".encode("gbk"))  # as old archives unpack
    guest = make_guest(tmp_path / (f"a{gbk}gbk" if case == "folder" else "a-gbk"), prompt="sepia")
    picture = guest / (f"{gbk}.jpg" if case == "picture" else "photo.jpg")
    try:
        make_picture(tmp_path / "photo.jpg").rename(picture)
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")

    shell("mv", guest, service.spool.incoming)
    shell(
        "mv", make_guest(tmp_path / "beside", "photo.jpg", prompt="sepia"), service.spool.incoming
    )

    assert_edited(ending(service.spool, "beside"), "photo.jpg")
    job = ending(service.spool, "a-gbk")
    assert (job / ("result.png" if job.parent == service.spool.done else "error.txt")).exists()


def test_an_old_folder_is_not_taken_for_one_that_has_settled(
    service: Service, tmp_path: Path
) -> None:
    service.work(settle_seconds=NEVER)
    old = make_guest(tmp_path / "a-old", "photo.jpg", prompt="sepia")
    for path in (*old.iterdir(), old):
        os.utime(path, (0, 0))
    shell("cp", "-rp", old, service.spool.incoming)

    look_once(service, tmp_path, "b")

    assert ls(service.spool.incoming) == ["a-old"]


def test_a_file_named_ready_skips_the_wait(service: Service, tmp_path: Path) -> None:
    service.work(settle_seconds=NEVER)
    shell("mv", make_guest(tmp_path / "hasty", "photo.jpg", prompt="sepia"), service.spool.incoming)
    look_once(service, tmp_path, "neighbour")
    assert ls(service.spool.incoming) == ["hasty"]

    shell("touch", service.spool.incoming / "hasty" / "ready")

    assert_edited(ending(service.spool, "hasty"), "photo.jpg")


def look_once(service: Service, tmp_path: Path, name: str) -> None:
    """Let the worker look at all guests: it has when this one, which is ready and comes last, has
    been edited."""
    neighbour = make_guest(tmp_path / name, "photo.jpg", prompt="sepia")
    (neighbour / "ready").touch()
    shell("mv", neighbour, service.spool.incoming)
    ending(service.spool, name)


def test_slowly_copied_folder_is_admitted_once_it_settles(service: Service, tmp_path: Path) -> None:
    service.work(settle_seconds="3")
    slow = service.spool.incoming / "a-slow"
    slow.mkdir()

    # Complete with the first file on; each look afterwards finds one more, as old as the camera
    # says.
    for number in range(4):
        (slow / "prompt.txt").write_text("sepia")
        if number == 0:
            file = make_picture(tmp_path / "photo.jpg")
        else:
            file = tmp_path / f"note-{number}.txt"
            file.write_text("from the camera")
        os.utime(file, (0, 0))
        shell("cp", "-p", file, slow)
        look_once(service, tmp_path, f"neighbour-{number}")
        assert ls(service.spool.incoming) == ["a-slow"]

    job = ending(service.spool, "a-slow")
    assert_edited(job, "photo.jpg")
    assert "note-3.txt" in ls(job)


def test_many_folders_at_once_do_not_hold_up_the_next(service: Service, tmp_path: Path) -> None:
    service.work(engine="quick", settle_seconds="0")
    many = [
        make_guest(tmp_path / f"one-of-{number}", "photo.jpg", prompt="sepia")
        for number in range(120)
    ]
    shell("mv", *many, service.spool.incoming)
    wait_until(lambda: len(ls(service.spool.done)) == len(many))

    shell("mv", make_guest(tmp_path / "next", "photo.jpg", prompt="sepia"), service.spool.incoming)

    assert ending(service.spool, "next").parent == service.spool.done


WORKER_USER, GUEST_USER = 65533, 65534


# All imports come before the change of user, which may not be able to read this Python.
WORK_AS_ANOTHER = f"""
import encodings, importlib, os, pkgutil
import i2ii_spool
from PIL import Image
from i2ii_spool.images.sandbox import pool
for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
    if module.name.startswith("encodings.utf"):
        importlib.import_module(module.name)
for module in pkgutil.walk_packages(i2ii_spool.__path__, "i2ii_spool."):
    if not module.name.endswith("__main__") and ".diffusers." not in module.name:
        importlib.import_module(module.name)
Image.init()
pool.warm_up()
os.setgroups([])
os.setgid({WORKER_USER})
os.setuid({WORKER_USER})
i2ii_spool.cli.main.main(["gpu", "0"])
"""


@pytest.fixture
def foreign_service(service: Service) -> Iterator[Service]:
    """A service in a folder that other users can reach, which one of them owns."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        service.spool = Spool(Path(folder) / "spool")
        service.spool.create()
        service.environment |= {"I2II_SPOOL": str(service.spool.root), "PATH": os.defpath}
        for path in (service.spool.root, *service.spool.root.iterdir()):
            os.chown(path, WORKER_USER, WORKER_USER)
            os.chmod(path, 0o2770)
        yield service
        service.stop_all()


def test_a_folder_that_may_not_be_moved_is_named_with_the_cure(foreign_service: Service) -> None:
    spool = foreign_service.spool
    foreign_service.start(sys.executable, "-c", WORK_AS_ANOTHER)
    guest = make_guest(spool.root.parent / "stranger", "photo.jpg", prompt="sepia")
    guest.chmod(0o755)
    for path in (guest, *guest.iterdir()):
        os.chown(path, GUEST_USER, WORKER_USER)
    shell("mv", guest, spool.incoming)

    note = spool.incoming / "stranger.rejected"
    wait_until(note.exists)

    assert "chmod -R g+rwX stranger" in shell("cat", note)
    assert ls(spool.incoming / "stranger") == ["photo.jpg", "prompt.txt"]
    shell("chmod", "-R", "g+rwX", spool.incoming / "stranger")
    assert_edited(ending(spool, "stranger"), "photo.jpg")
    wait_until(lambda: not note.exists())


@pytest.mark.parametrize("closed", ["job.json", "input.jpg"])
def test_a_job_with_a_file_that_the_worker_may_not_read_fails_alone(
    foreign_service: Service, closed: str
) -> None:
    spool = foreign_service.spool
    worker = foreign_service.start(sys.executable, "-c", WORK_AS_ANOTHER)
    jobs = []
    for closed_file in (closed, None):
        job = make_guest(spool.root.parent / new_id(), "input.jpg", request={"prompt": "sepia"})
        job.chmod(0o2770)
        for path in (job, *job.iterdir()):
            os.chown(path, GUEST_USER, WORKER_USER)
        if closed_file is not None:
            (job / closed_file).chmod(0o600)
        jobs.append(job.name)
        shell("mv", job, spool.incoming)

    wait_until((spool.failed / jobs[0] / "error.json").exists)
    wait_until((spool.done / jobs[1]).is_dir)

    assert f"{closed} is closed to the worker" in (spool.failed / jobs[0] / "error.txt").read_text()
    assert read_status(spool, jobs[0]).status == "failed"
    assert worker.poll() is None
