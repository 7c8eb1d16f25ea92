"""What people do to a live service with `mv`, `cp`, `touch`, `cat` and `ls`, and nothing else."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, wait_until

pytestmark = pytest.mark.xdist_group("by_hand")  # one service serves them all

NEVER = "100000"


def shell(*command: str | Path) -> str:
    """Run one of the tools that every system has; return what it prints."""
    return os.fsdecode(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout
    )


def ls(folder: Path) -> list[str]:
    """The entries that a person sees."""
    return shell("ls", folder).split("\n")[:-1]


def make_guest(
    folder: Path,
    *pictures: str,
    prompt: str | None = None,
    request: dict[str, object] | None = None,
) -> Path:
    """Make a folder as people do, outside the spool: pictures, and a `prompt.txt` or a `job.json`."""
    folder.mkdir()
    for name in pictures:
        make_picture(folder / name)
    if prompt is not None:
        (folder / "prompt.txt").write_text(prompt + "\n")
    if request is not None:
        (folder / "job.json").write_text(json.dumps(request))
    return folder


def named(folder: Path, name: str) -> str | None:
    """The id in `folder` that ends with the name of the guest that it was."""
    return next((id for id in ls(folder) if is_id(id) and id.endswith(f"_{name}")), None)


def ending(spool: Spool, name: str) -> Path:
    """Where the guest called `name` has ended, once it has."""
    places = (spool.done, spool.failed)
    return wait_until(
        lambda: next((place / id for place in places if (id := named(place, name))), None)
    )


def request_of(job: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads((job / "job.json").read_text())
    return record


def assert_edited(job: Path, original: str) -> None:
    assert job.parent.name == "done", (job / "error.txt").read_text()
    with Image.open(job / "result.png") as edited, Image.open(job / original) as before:
        assert edited.size == before.size
        assert edited.convert("RGB").tobytes() != before.convert("RGB").tobytes()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One service with a classic worker for all tests that only add to it: each uses names of its
    own."""
    service = Service(tmp_path_factory.mktemp("live"))
    service.environment = {
        name: value
        for name, value in service.environment.items()
        if not name.startswith("I2II_") and name != "CUDA_VISIBLE_DEVICES"
    } | {
        "I2II_SPOOL": str(service.spool.root),
        "I2II_SETTLE_SECONDS": "0.2",
        "I2II_GUEST_PATIENCE_SECONDS": "0.5",
    }
    service.work()
    yield service
    service.stop_all()


@pytest.fixture
def failed_job(live: Service, picture: Path) -> str:
    """The id of a job whose instruction nobody understands."""
    id = cli(live, "submit", str(picture), "-p", "qwertyuiop").stdout.strip()
    wait_until((live.spool.failed / id).is_dir)
    return id


# --- folders moved and copied in ------------------------------------------------------------------


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
def test_a_name_that_is_not_utf_8_is_no_obstacle(
    service: Service, tmp_path: Path, case: str
) -> None:
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


# --- what is not yet whole ------------------------------------------------------------------------


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


def test_a_slowly_copied_folder_is_taken_only_when_it_has_been_still(
    service: Service, tmp_path: Path
) -> None:
    service.work(settle_seconds="3")
    slow = service.spool.incoming / "a-slow"
    slow.mkdir()

    # Complete with the first file on; each look afterwards finds one more, as old as the camera
    # says.
    for number in range(4):
        (slow / "prompt.txt").write_text("sepia")
        picture = make_picture(tmp_path / "next.jpg")
        os.utime(picture, (0, 0))
        shell("cp", "-p", picture, slow / ("photo.jpg" if number == 0 else f"result-{number}.jpg"))
        look_once(service, tmp_path, f"neighbour-{number}")
        assert ls(service.spool.incoming) == ["a-slow"]

    job = ending(service.spool, "a-slow")
    assert_edited(job, "photo.jpg")
    assert "result-3.jpg" in ls(job)


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


# --- what is wrong --------------------------------------------------------------------------------


def with_no_prompt(guest: Path) -> None:
    (guest / "prompt.txt").unlink()


def with_an_empty_prompt(guest: Path) -> None:
    (guest / "prompt.txt").write_text(" \n")


def with_no_picture(guest: Path) -> None:
    (guest / "photo.jpg").unlink()


def with_four_pictures(guest: Path) -> None:
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        make_picture(guest / name)


def with_a_truncated_picture(guest: Path) -> None:
    whole = (guest / "photo.jpg").read_bytes()
    (guest / "photo.jpg").write_bytes(whole[:-100])


def with_a_wrong_job_json(guest: Path) -> None:
    (guest / "job.json").write_text('{"prompt": "sepia", "seed": -1}')


def with_a_job_json_that_points_outside(guest: Path) -> None:
    (guest / "job.json").write_text('{"prompt": "sepia", "inputs": ["../../../outside.jpg"]}')


def with_a_symlink(guest: Path) -> None:
    (guest / "photo.jpg").unlink()
    (guest / "photo.jpg").symlink_to(guest.parent / "outside.jpg")


def with_a_fifo(guest: Path) -> None:
    os.mkfifo(guest / "pipe.jpg")


def with_a_subfolder(guest: Path) -> None:
    (guest / "more").mkdir()
    make_picture(guest / "more" / "photo.jpg")


def with_a_temp_named_file(guest: Path) -> None:
    (guest / "b.jpg.part").write_bytes(b"half of it")


WRONG: dict[Callable[[Path], None], str] = {
    with_no_prompt: "invalid_request: there is neither a prompt.txt nor a job.json",
    with_an_empty_prompt: "invalid_request: prompt must not be empty",
    with_no_picture: "invalid_request: there are 0 pictures",
    with_four_pictures: "invalid_request: there are 4 pictures",
    with_a_truncated_picture: "unsupported_picture: photo.jpg is truncated",
    with_a_wrong_job_json: "invalid_request: seed must be from 0",
    with_a_job_json_that_points_outside: "invalid_request: inputs names '../../../outside.jpg'",
    with_a_symlink: "invalid_request: 'photo.jpg' is a symbolic link",
    with_a_fifo: "invalid_request: 'pipe.jpg' is a FIFO",
    with_a_subfolder: "invalid_request: 'more' is a folder",
    with_a_temp_named_file: "invalid_request: 'b.jpg.part' is named like a file that is still being copied",
}


def tree(folder: Path) -> dict[str, object]:
    """All that is in a folder, and what it holds; links are not followed."""
    held: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        kind = path.lstat().st_mode
        content = (
            os.readlink(path)
            if path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else None
        )
        held[str(path.relative_to(folder))] = (kind, content)
    return held


@pytest.fixture(scope="module")
def wrong_guests(
    live: Service, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """Move one guest of each wrong kind in, with a good one beside it; return what was in each, and
    `outside`."""
    outside = tmp_path_factory.mktemp("outside")
    trees = {"outside": touched(make_picture(outside / "outside.jpg"))}
    for spoil in WRONG:
        name = guest_name(spoil)
        guest = make_guest(outside / name, "photo.jpg", prompt="sepia")
        spoil(guest)
        trees[name] = tree(guest)
        neighbour = make_guest(outside / f"beside-{name}", "photo.jpg", prompt="sepia")
        shell("mv", guest, neighbour, live.spool.incoming)
    return trees


def touched(path: Path) -> dict[str, object]:
    """All that changes when a file is written to, moved, linked or given other rights."""
    status = path.stat()
    return {
        "bytes": path.read_bytes(),
        "ctime": status.st_ctime_ns,
        "mode": status.st_mode,
        "links": status.st_nlink,
    }


def guest_name(spoil: Callable[[Path], None]) -> str:
    return spoil.__name__.replace("_", "-")


@pytest.mark.parametrize("spoil", WRONG, ids=guest_name)
def test_a_folder_that_stays_wrong_is_refused_with_the_reason_and_kept(
    live: Service, wrong_guests: dict[str, dict[str, object]], spoil: Callable[[Path], None]
) -> None:
    name = guest_name(spoil)
    original = wrong_guests[name]

    refused = ending(live.spool, name)

    assert refused.parent == live.spool.failed
    assert shell("cat", refused / "error.txt").startswith(WRONG[spoil])
    kept = tree(refused)
    assert {entry: kept.get(entry) for entry in original} == original
    assert_edited(ending(live.spool, f"beside-{name}"), "photo.jpg")


def test_what_a_link_in_a_folder_points_to_is_untouched(
    live: Service, wrong_guests: dict[str, dict[str, object]]
) -> None:
    refused = ending(live.spool, guest_name(with_a_symlink))

    assert touched(Path(os.readlink(refused / "photo.jpg"))) == wrong_guests["outside"]


def test_a_refused_folder_is_edited_once_it_is_put_right_and_moved_back(
    live: Service, tmp_path: Path
) -> None:
    guest = make_guest(tmp_path / "promptless", "photo.jpg")
    shell("mv", guest, live.spool.incoming)
    refused = ending(live.spool, "promptless")

    (refused / "prompt.txt").write_text("sepia")
    shell("mv", refused, live.spool.incoming)

    job = wait_until(lambda: named(live.spool.done, "promptless"))
    assert job.count("_") == 1, "the id it was refused under is not part of its new one"
    assert_edited(live.spool.done / job, "photo.jpg")
    assert "error.txt" not in ls(live.spool.done / job)
    assert named(live.spool.failed, "promptless") is None


def test_a_plain_picture_is_left_where_it_is_with_a_note_beside_it(
    live: Service, tmp_path: Path
) -> None:
    dropped = live.spool.incoming / "dropped.jpg"
    shell("cp", make_picture(tmp_path / "dropped.jpg"), dropped)

    note = dropped.with_name("dropped.jpg.rejected")
    wait_until(note.exists)

    said = shell("cat", note)
    assert "not a folder" in said
    assert "prompt.txt" in said
    with Image.open(dropped) as still_there:
        assert still_there.size == (64, 48)
    shell("rm", dropped)
    wait_until(lambda: not note.exists())


def test_a_link_to_a_folder_is_not_followed(live: Service, tmp_path: Path) -> None:
    target = make_guest(tmp_path / "target", "photo.jpg", prompt="sepia")
    before = tree(target)
    link = live.spool.incoming / "linked"
    shell("ln", "-s", target, link)

    wait_until(link.with_name("linked.rejected").exists)

    assert link.is_symlink()
    assert tree(target) == before
    shell("rm", link)


# --- the same job again ---------------------------------------------------------------------------


def test_error_txt_explains(live: Service, failed_job: str) -> None:
    said = shell("cat", live.spool.failed / failed_job / "error.txt")

    error = json.loads((live.spool.failed / failed_job / "error.json").read_text())
    assert said.startswith(f"{error['code']}: {error['message']}")
    assert "watercolour" in said


def test_a_failed_job_moved_back_runs_again_and_forgets_its_earlier_life(
    service: Service, picture: Path
) -> None:
    worker = service.work(engine="raises_in_edit")
    id = cli(service, "submit", str(picture), "-p", "raise").stdout.strip()
    failed = service.spool.failed / id
    wait_until(failed.is_dir)
    assert {"attempt-1.json", "error.json", "error.txt"} <= set(ls(failed))
    worker.kill()
    worker.wait()
    shell("mv", failed, service.spool.incoming)
    assert ls(service.spool.incoming) == [id]

    service.work("1", engine="quick")

    done = service.spool.done / id
    wait_until(done.is_dir)
    assert [name for name in ls(done) if name.startswith(("error", "attempt"))] == [
        "attempt-1.json"
    ]
    assert json.loads((done / "attempt-1.json").read_text())["worker"] == worker_name("gpu1")
    assert json.loads((done / "result.json").read_text())["attempt"] == 1
    assert not failed.exists()


def test_a_failed_job_copied_under_another_name_runs_as_a_new_job(
    live: Service, failed_job: str
) -> None:
    failed = live.spool.failed / failed_job
    before = tree(failed)

    shell("cp", "-r", failed, live.spool.incoming / "again")

    again = ending(live.spool, "again")
    assert again.parent == live.spool.failed  # it is no better than the first time
    assert again.name > failed_job
    assert [name for name in ls(again) if name.startswith("attempt")] == ["attempt-1.json"]
    assert (again / "error.json").read_bytes() != (failed / "error.json").read_bytes()
    assert tree(failed) == before


def test_a_done_job_moved_back_is_edited_again(live: Service, picture: Path) -> None:
    id = cli(live, "submit", str(picture), "-p", "sepia").stdout.strip()
    done = live.spool.done / id
    wait_until(done.is_dir)
    first = json.loads((done / "result.json").read_text())

    shell("mv", done, live.spool.incoming)

    wait_until((done / "result.json").exists)
    second = json.loads((done / "result.json").read_text())
    assert second["completed_at"] > first["completed_at"]
    assert second["attempt"] == 1
    assert id not in ls(live.spool.incoming)
    assert_edited(done, "input.jpg")


# --- watching and cancelling ----------------------------------------------------------------------


def where(spool: Spool, id: str) -> list[str]:
    """Every place in which `ls` shows the job."""
    places = [spool.incoming, spool.done, spool.failed, *spool.running.iterdir()]
    return [str(place.relative_to(spool.root)) for place in places if id in ls(place)]


def test_ls_shows_a_job_in_the_one_place_where_it_is(
    service: Service, submit_job: Callable[..., str]
) -> None:
    first, second = submit_job(num_inference_steps=20), submit_job(num_inference_steps=10)
    assert ls(service.spool.incoming) == [first, second]

    service.work(engine="slow")

    mine = f"running/{worker_name('gpu0')}"
    wait_until(lambda: (service.spool.root / mine / first / "progress.json").exists())
    assert (where(service.spool, first), where(service.spool, second)) == ([mine], ["incoming"])
    wait_until((service.spool.done / second).is_dir)
    assert (where(service.spool, first), where(service.spool, second)) == (["done"], ["done"])


def test_touching_cancel_stops_a_running_and_a_waiting_job(
    service: Service, submit_job: Callable[..., str]
) -> None:
    service.work(engine="slow")
    running, waiting = submit_job(num_inference_steps=100), submit_job()
    [folder] = wait_until(lambda: list(service.spool.running.glob(f"*/{running}")))
    assert ls(service.spool.incoming) == [waiting]

    shell("touch", service.spool.incoming / waiting / "cancel")
    shell("touch", folder / "cancel")

    for id in (running, waiting):
        wait_until((service.spool.failed / id).is_dir)
        assert shell("cat", service.spool.failed / id / "error.txt").startswith("cancelled: ")
        assert not list((service.spool.failed / id).glob("result*"))
    assert ls(service.spool.done) == []


def test_a_cancelled_job_moved_back_is_cancelled_again_only_if_asked_again(
    service: Service, submit_job: Callable[..., str]
) -> None:
    wanted, unwanted = submit_job(), submit_job()
    for id in (wanted, unwanted):
        assert cli(service, "cancel", id).returncode == 0
        assert "cancel" in ls(service.spool.failed / id)
        shell("mv", service.spool.failed / id, service.spool.incoming)
    shell("touch", service.spool.incoming / unwanted / "cancel")

    service.work()

    wait_until((service.spool.done / wanted / "result.json").exists)
    assert "cancel" not in ls(service.spool.done / wanted)
    wait_until((service.spool.failed / unwanted / "error.json").exists)
    assert shell("cat", service.spool.failed / unwanted / "error.txt").startswith("cancelled: ")


def test_a_folder_put_among_what_runs_becomes_a_guest(service: Service, tmp_path: Path) -> None:
    mine = service.spool.running / worker_name("gpu0")
    mine.mkdir()
    shell("mv", make_guest(tmp_path / "misplaced", "photo.jpg", prompt="sepia"), mine)

    service.work()

    assert_edited(ending(service.spool, "misplaced"), "photo.jpg")
    assert ls(mine) == []


# --- permissions ----------------------------------------------------------------------------------

WORKER_USER, GUEST_USER = 65533, 65534


# All that is needed is imported before the rights are given up: this Python may lie where others
# cannot read.
WORK_AS_ANOTHER = f"""
import encodings, importlib, os, pkgutil
import i2ii_spool
from PIL import Image
for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
    if module.name.startswith("encodings.utf"):
        importlib.import_module(module.name)
for module in pkgutil.walk_packages(i2ii_spool.__path__, "i2ii_spool."):
    if not module.name.endswith("__main__") and ".qwen." not in module.name:
        importlib.import_module(module.name)
Image.init()
os.setgroups([])
os.setgid({WORKER_USER})
os.setuid({WORKER_USER})
i2ii_spool.cli.main(["gpu", "0"])
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
