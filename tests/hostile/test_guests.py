"""Hostile folders in `incoming/` of a live service: refused with a reason, never followed, no hang.

Files outside the spool stay unchanged, and the guests after them are edited.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool import admission as admission_module
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.layout import Spool
from tests.support.disks import MEMORY, why_not
from tests.support.pictures import make_picture
from tests.support.service import Service, cli, get_json, wait_until

pytestmark = pytest.mark.xdist_group("guests")  # one service serves them all

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do this")
Spoil = Callable[[Path, Path], None]
SECRET = "the diary of another user"


class Target(Service):
    """A service, and a folder outside its spool."""

    @property
    def outside(self) -> Path:
        return self.spool.root.with_name("outside")


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A server and a worker, and beside the spool a folder that no guest may reach. That folder is
    unchanged at the end, and the same worker edits a good guest after all the others."""
    root = Path(
        tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None)
    )  # a hundred thousand files take their time
    service = Target(root)
    service.environment |= {"I2II_GUEST_PATIENCE_SECONDS": "0.5", "I2II_MAX_UPLOAD_MIB": "1"}
    service.serve()
    worker = service.work()
    outside = service.outside
    outside.mkdir()
    (outside / "diary.txt").write_text(SECRET)
    (outside / "prompt.txt").write_text(SECRET)
    make_picture(outside / "photo.png")
    before = state_of(outside)
    yield service
    move_in(service, guest_of(service, "neighbour"))
    wait_until(lambda: list(service.spool.done.glob("*_neighbour")), seconds=60)
    assert service.workers()[0]["pid"] == worker.pid
    assert state_of(outside) == before
    assert all(line.isprintable() for line in service.read_log().splitlines()), (
        "the log can be forged"
    )
    service.stop_all()
    subprocess.run(["rm", "-rf", str(root)], check=True)  # which goes as deep as need be


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mode) for path in folder.iterdir()}


def guest_of(target: Target, name: str, **texts: str) -> Path:
    """A folder that would be a good guest, outside the spool."""
    folder = target.spool.root.with_name("guests") / name
    folder.mkdir(parents=True)
    make_picture(folder / "photo.png")
    for file, text in {"prompt_txt": "sepia", **texts}.items():
        (folder / file.replace("_", ".")).write_text(text)
    return folder


def move_in(target: Target, guest: Path) -> None:
    guest.rename(target.spool.incoming / guest.name)


def why_refused(target: Target, name: str) -> str:
    """The error.txt of the guest `name`."""
    folder = wait_until(lambda: next(target.spool.failed.glob(f"*_{name}"), None), seconds=30)
    text = (folder / "error.txt").read_text()
    assert SECRET not in text
    assert json.loads((folder / "error.json").read_text())["code"] in (
        "invalid_request",
        "too_large",
    )
    return text


# --- contents -------------------------------------------------------------------------------------


def with_a_link(guest: Path, outside: Path) -> None:
    (guest / "photo.png").unlink()
    (guest / "photo.png").symlink_to(outside / "photo.png")


def with_a_link_for_its_prompt(guest: Path, outside: Path) -> None:
    (guest / "prompt.txt").unlink()
    (guest / "prompt.txt").symlink_to(outside / "diary.txt")


def with_a_link_for_its_request(guest: Path, outside: Path) -> None:
    (guest / "job.json").symlink_to(outside / "diary.txt")


def with_a_link_for_its_error(guest: Path, outside: Path) -> None:
    (guest / "prompt.txt").unlink()
    (guest / "error.txt").symlink_to(outside / "diary.txt")


def with_a_linked_folder(guest: Path, outside: Path) -> None:
    (guest / "more").symlink_to(outside)


def with_a_fifo(guest: Path, _outside: Path) -> None:
    (guest / "photo.png").unlink()
    os.mkfifo(guest / "photo.png")


def with_a_fifo_for_its_prompt(guest: Path, _outside: Path) -> None:
    (guest / "prompt.txt").unlink()
    os.mkfifo(guest / "prompt.txt")


def with_a_socket(guest: Path, _outside: Path) -> None:
    address = str(guest.parent.parent / "s")  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
    os.rename(address, guest / "socket")


def with_a_device(guest: Path, _outside: Path) -> None:
    os.mknod(guest / "zero.png", 0o666 | 0o020000, os.makedev(1, 5))


def with_a_hard_link(guest: Path, outside: Path) -> None:
    os.link(outside / "photo.png", guest / "theirs.png")


def with_a_setuid_bit(guest: Path, _outside: Path) -> None:
    (guest / "photo.png").chmod(0o4755)


def with_too_many_files(guest: Path, _outside: Path) -> None:
    for number in range(100_000):
        os.close(os.open(guest / f"{number}.txt", os.O_CREAT))


def with_a_deep_tree(guest: Path, _outside: Path) -> None:
    """Deeper than a path can be long, and than Python can recurse."""
    at = os.open(guest, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=at)
        deeper = os.open("deeper", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)


def with_a_sparse_picture(guest: Path, _outside: Path) -> None:
    os.truncate(guest / "photo.png", 2**40)


def with_a_sparse_file_beside(guest: Path, _outside: Path) -> None:
    (guest / "notes.txt").touch()
    os.truncate(guest / "notes.txt", 2**40)


def with_a_name_of_two_lines(guest: Path, _outside: Path) -> None:
    (guest / "photo.png\n12:00:00 INFO all is well").touch()


def with_a_name_that_is_no_number(guest: Path, _outside: Path) -> None:
    (guest / "photo.png").rename(guest / "input-²\x1b[2J.png")


def with_a_long_prompt(guest: Path, _outside: Path) -> None:
    (guest / "prompt.txt").write_text("a" * (64 * 1024 + 1))


def with_a_prompt_of_nothing(guest: Path, _outside: Path) -> None:
    (guest / "prompt.txt").write_bytes(b"\xef\xbb\xbf \n\t ")


WRONG = {
    with_a_link: "'photo.png' is a symbolic link",
    with_a_link_for_its_prompt: "'prompt.txt' is a symbolic link",
    with_a_link_for_its_request: "'job.json' is a symbolic link",
    with_a_link_for_its_error: "'error.txt' is a symbolic link",
    with_a_linked_folder: "'more' is a symbolic link",
    with_a_fifo: "'photo.png' is a FIFO",
    with_a_fifo_for_its_prompt: "'prompt.txt' is a FIFO",
    with_a_socket: "'socket' is a socket",
    with_a_hard_link: "'theirs.png' is a hard link",
    with_a_setuid_bit: "'photo.png' has its setuid",
    with_too_many_files: "more than 64 files",
    with_a_deep_tree: "'deeper' is a folder",
    with_a_sparse_picture: f"photo.png has {2**40} bytes",
    with_a_sparse_file_beside: f"notes.txt has {2**40} bytes",
    with_a_name_of_two_lines: "has a control character in its name",
    with_a_name_that_is_no_number: "has a control character in its name",
    with_a_long_prompt: "prompt.txt has more than 65536 bytes",
    with_a_prompt_of_nothing: "prompt must not be empty",
}


@pytest.fixture(scope="module")
def wrong_guests(target: Target) -> Target:
    """All of them at once."""
    for spoil in WRONG:
        spoil(guest := guest_of(target, name_of(spoil)), target.outside)
        move_in(target, guest)
    for bomb, text in BOMBS.items():
        move_in(target, guest_of(target, f"bomb-{bomb}", job_json=text))
    return target


def name_of(spoil: Spoil) -> str:
    return spoil.__name__.replace("_", "-")


@pytest.mark.parametrize("spoil", WRONG, ids=name_of)
def test_guest_with_forbidden_content_is_refused(wrong_guests: Target, spoil: Spoil) -> None:
    assert WRONG[spoil] in why_refused(wrong_guests, name_of(spoil))


@ROOT_ONLY
def test_a_device_is_not_opened(target: Target) -> None:
    guest = guest_of(target, "with-a-device")
    with_a_device(guest, target.outside)
    move_in(target, guest)
    assert "'zero.png' is a device" in why_refused(target, guest.name)


BOMBS = {
    "deep": '{"prompt": ' + "[" * 20_000 + "]" * 20_000 + "}",
    "huge-number": '{"prompt": "sepia", "seed": ' + "9" * 60_000 + "}",
    "many-fields": json.dumps({f"field{number}": number for number in range(4000)}),
    "many-pictures": json.dumps({"prompt": "sepia", "inputs": ["photo.png"] * 5000}),
    "no-number": '{"prompt": "sepia", "true_cfg_scale": NaN}',
    "not-an-object": "[1, 2, 3]",
    "half-a-character": '{"prompt": "\\ud800"}',
    "control-characters": json.dumps({"prompt": "sepia", "inputs": ["a\x00b.png"]}),
    "large": json.dumps({"prompt": "sepia", "negative_prompt": "a" * 70_000}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_request_that_is_a_bomb_is_refused(wrong_guests: Target, bomb: str) -> None:
    assert len(why_refused(wrong_guests, f"bomb-{bomb}")) < 2000


@pytest.mark.parametrize("spoil", [with_a_deep_tree, with_too_many_files], ids=name_of)
def test_refused_guest_can_be_deleted_at_any_depth(wrong_guests: Target, spoil: Spoil) -> None:
    why_refused(wrong_guests, name_of(spoil))
    (folder,) = wrong_guests.spool.failed.glob(f"*_{name_of(spoil)}")
    cli(wrong_guests, "rm", folder.name)
    assert not folder.exists()
    assert not [path for path in wrong_guests.spool.trash.iterdir() if path.is_dir()]


# --- what they are --------------------------------------------------------------------------------

NAMES = [
    "two\nlines",
    "\x1b[31mred",
    "\u202eevil",
    " ",
    "-rf",
    "x" * 255,
    "图" * 85,
    "a;b&c$(d)`e`",
]


def test_guest_with_a_strange_name_is_edited(target: Target) -> None:
    for number, name in enumerate(NAMES):
        guest_of(target, f"strange-{number}", prompt_txt=f"sepia, strange {number}").rename(
            target.spool.incoming / name
        )
    wait_until(lambda: len(jobs_asking_for(target, "strange")) == len(NAMES), seconds=40)


def jobs_asking_for(target: Target, words: str) -> list[Path]:
    return [
        record.parent
        for record in target.spool.done.glob("*/job.json")
        if words in record.read_text()
    ]


@pytest.mark.parametrize("name", ["linked", new_id()], ids=["linked", "as-an-id"])
def test_a_link_to_a_folder_is_neither_followed_nor_moved(target: Target, name: str) -> None:
    (target.outside / "job.json").write_bytes(Job(prompt="sepia").to_json())
    try:
        (target.spool.incoming / name).symlink_to(target.outside)
        wait_until((target.spool.incoming / f"{name}.rejected").exists)
        assert (target.spool.incoming / name).is_symlink()
        assert cli(target, "cancel", name, check=False).returncode == 64
    finally:
        (target.spool.incoming / name).unlink()
        (target.outside / "job.json").unlink()
    wait_until(lambda: not (target.spool.incoming / f"{name}.rejected").exists())


@pytest.mark.skipif(bool(why_not()), reason=f"nothing can be mounted: {why_not()}")
@pytest.mark.parametrize("where", [".", "photo.png"])
def test_mount_inside_a_guest_is_not_read(target: Target, where: str) -> None:
    name = f"mounted-{len(where)}"
    move_in(target, guest_of(target, name))
    place = target.spool.incoming / name / where
    subprocess.run(
        [
            "mount",
            "--bind",
            target.outside if where == "." else target.outside / "photo.png",
            place,
        ],
        check=True,
    )
    try:
        note = target.spool.incoming / f"{name}.rejected"
        wait_until(note.exists)
        assert "mounted" in note.read_text()
    finally:
        subprocess.run(["umount", place], check=True)
    wait_until(lambda: list(target.spool.done.glob(f"*_{name}")))


def test_guest_is_admitted_only_once_it_settles(target: Target) -> None:
    guest = guest_of(target, "restless")
    move_in(target, guest)
    settled = threading.Event()

    def write() -> None:
        place = target.spool.incoming / "restless" / "notes.txt"
        while not settled.wait(0.02):
            place.write_text("still writing")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        other = guest_of(target, "calm")
        move_in(target, other)
        wait_until(lambda: list(target.spool.done.glob("*_calm")))
        assert (target.spool.incoming / "restless").is_dir()
    finally:
        settled.set()
        writer.join()
    wait_until(lambda: list(target.spool.done.glob("*_restless")))


# --- swapped between check and use ----------------------------------------------------------------


SWAP = """
import os, sys
place, kept, target = sys.argv[1:]
while True:
    os.rename(place, kept)
    os.symlink(target, place)
    os.unlink(place)
    os.rename(kept, place)
"""


def test_folder_swapped_for_a_link_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    """Another process swaps them during the check."""
    (outside := tmp_path / "outside").mkdir()
    (outside / "prompt.txt").write_text(SECRET)
    (outside / "ready").touch()
    (place := spool.incoming / "swapped").mkdir()
    (place / "job.json").write_text("{")
    (place / "ready").touch()
    admission = Admission(spool, settle=0, patience=0, max_bytes=10**6, max_pixels=10**6)
    command = [sys.executable, "-c", SWAP, place, spool.root / "kept", outside]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as swapper:
        for _ in range(2000):
            admission.run_once()
            if os.listdir(spool.failed):  # it has been refused, and the swapper has lost it
                break
        swapper.kill()
    assert sorted(os.listdir(outside)) == ["prompt.txt", "ready"]
    assert all(SECRET not in path.read_text() for path in spool.failed.glob("*/*"))
    assert not list(spool.failed.glob("*/prompt.txt"))


@pytest.mark.parametrize("at", ["_check_access", "new_id"])
def test_a_guest_swapped_for_another_is_not_admitted_in_its_place(
    spool: Spool, tmp_path: Path, at: str
) -> None:
    (good := spool.incoming / "holiday").mkdir()
    make_picture(good / "photo.png")
    (good / "prompt.txt").write_text("sepia")
    (bad := tmp_path / "bad").mkdir()
    (bad / "photo.png").symlink_to("/etc/passwd")
    real = getattr(admission_module, at)

    def swap(*arguments: object) -> object:
        good.rename(tmp_path / "good")
        bad.rename(good)
        return real(*arguments)

    admission = Admission(spool, settle=0, patience=100, max_bytes=10**6, max_pixels=10**6)
    with mock.patch.object(admission_module, at, side_effect=swap):
        assert admission.run_once() == []
    assert os.listdir(spool.incoming) == ["holiday"]
    assert (spool.incoming / "holiday" / "photo.png").is_symlink()
    assert admission.run_once() == []


# --- put among the jobs ---------------------------------------------------------------------------


def a_job(target: Target, state: str) -> Path:
    """A job folder made by hand."""
    folder = target.spool.root / state / new_id()
    folder.mkdir()
    make_picture(folder / "input.png")
    (folder / "job.json").write_bytes(Job(prompt="sepia", inputs=("input.png",)).to_json())
    return folder


ODD = [
    "attempt-1.json",
    "error.json",
    "error.txt",
    "result.png",
    "result.json",
    "progress.json",
    "input-2.png",
    "more",
]


KINDS = ["folder", "fifo", "link"]


@pytest.fixture(scope="module")
def odd_jobs(target: Target) -> dict[tuple[str, str], str]:
    """Jobs in which an operator has changed a file, by what is odd in them."""
    return {(kind, name): put_odd_job(target, kind, name) for kind in KINDS for name in ODD}


def put_odd_job(target: Target, kind: str, name: str) -> str:
    folder = a_job(target, ".tmp")
    match kind:
        case "folder":
            (folder / name).mkdir()
        case "fifo":
            os.mkfifo(folder / name)
        case "link":
            (folder / name).symlink_to(target.outside / "diary.txt")
    folder.rename(target.spool.incoming / folder.name)
    return folder.name


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_entry_ends_its_job_alone(
    target: Target, odd_jobs: dict[tuple[str, str], str], kind: str, name: str
) -> None:
    id = odd_jobs[kind, name]
    status = wait_until(lambda: ended(target, id), seconds=60)
    if status["status"] == "failed":
        assert f"'{name}' is a " in (target.spool.failed / id / "error.txt").read_text()


def ended(target: Target, id: str) -> dict[str, object] | None:
    status: dict[str, object] = get_json(f"{target.url}/status/{id}")
    return status if status["status"] in ("completed", "failed") else None


@pytest.mark.parametrize("record", ["job.json", "result.json", "error.json", "progress.json"])
@pytest.mark.parametrize("state", ["done", "failed"])
def test_unreadable_record_does_not_block_other_jobs(
    target: Target, state: str, record: str
) -> None:
    folder = a_job(target, state)
    (folder / record).unlink(missing_ok=True)
    os.mkfifo(folder / record)
    assert get_json(f"{target.url}/status/{folder.name}")["status"] in ("completed", "failed")
    assert folder.name in cli(target, "ls", state).stdout
    shutil.rmtree(folder)


def test_unreadable_status_file_does_not_block_others(target: Target) -> None:
    for path in (
        target.spool.workers / "node9.gpu0.json",
        target.spool.workers / "node9.gpu1.json",
    ):
        os.mkfifo(path)
    try:
        status = get_json(f"{target.url}/system/status")
        assert len(status["workers"]) == 1
    finally:
        for path in target.spool.workers.glob("node9.*"):
            path.unlink()
