"""What lies in the folders of people: names that they have, and what their systems leave beside."""

import json
from pathlib import Path

import pytest

from i2ii_spool.jobs.ids import new_id
from tests.support.guests import ending, make_guest, request_of, shell, tree
from tests.support.pictures import encoded, make_picture
from tests.support.service import Service, cli, wait_until

pytestmark = pytest.mark.xdist_group("guest_names")  # one service for the file

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(58)
MANY_SIDE_FILES = {
    **{f"._{name}": APPLE_DOUBLE for name in ("photo.jpg", "prompt.txt", "photo.backup")},
    **dict.fromkeys((".DS_Store", ".localized", "Icon\r", ".apdisk"), b""),
    **dict.fromkeys(("Thumbs.db", "desktop.ini", "photo.jpg:Zone.Identifier"), b"[x]"),
    **dict.fromkeys((".directory", "picasa.ini", ".picasa.ini", ".nomedia", "IMG_1.AAE"), b"x"),
    **dict.fromkeys((".nfs000000000010a4c200000001", ".fuse_hidden0000001200000001"), b"x"),
    **dict.fromkeys(("prompt.txt~", "photo.jpg.bak", "#prompt.txt#", ".prompt.txt.swp"), b"x"),
    **dict.fromkeys((".gitkeep", ".dropbox.attr", ".~lock.prompt.txt#", "~$prompt.txt"), b""),
}
SIDE_FOLDERS = ("@eaDir", ".AppleDouble", "__MACOSX", ".@__thumb", "#recycle", ".stfolder")


def admitted(live: Service, guest: Path) -> Path:
    """Move a guest in; return where it has ended, which is `done/`."""
    shell("mv", guest, live.spool.incoming)
    job = ending(live.spool, guest.name)
    assert job.parent == live.spool.done, (job / "error.txt").read_text()
    return job


def refused(live: Service, guest: Path) -> str:
    """Move a guest in; return why it was refused. All that it held is still there."""
    before = tree(guest)
    shell("mv", guest, live.spool.incoming)
    job = ending(live.spool, guest.name)
    assert job.parent == live.spool.failed
    kept = tree(job)
    assert {name: kept.get(name) for name in before} == before
    return (job / "error.txt").read_text()


def test_what_systems_leave_beside_the_files_is_no_obstacle(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "littered", "photo.jpg", prompt="sepia")
    for name, data in MANY_SIDE_FILES.items():
        (guest / name).write_bytes(data)
    for name in SIDE_FOLDERS:
        (guest / name).mkdir()
        make_picture(guest / name / "photo.jpg")
    (guest / ".#prompt.txt").symlink_to("somebody@nowhere.4711:1")
    before = tree(guest)

    job = admitted(live, guest)

    assert request_of(job)["inputs"] == ["photo.jpg"]
    kept = tree(job)
    assert {name: kept.get(name) for name in before} == before


def test_twice_as_many_files_as_are_read_are_no_obstacle(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "doubled", "photo.jpg", prompt="sepia")
    for number in range(60):
        (guest / f"note {number}.txt").write_text("x")
        (guest / f"._note {number}.txt").write_bytes(APPLE_DOUBLE)

    admitted(live, guest)


@pytest.mark.parametrize(
    "name", [".photo.jpg", ".photo.jpg.Xy12ab", "b.jpg.part", ".photo.jpg.0123abcd.tmp"]
)
def test_a_picture_that_is_being_copied_holds_the_folder_up(
    live: Service, tmp_path: Path, name: str
) -> None:
    guest = make_guest(tmp_path / f"under-way-{name.strip('.')}", "photo.jpg", prompt="sepia")
    (guest / name).write_bytes(encoded(".jpg"))

    assert f"'{name}' is named like a file that is still being copied" in refused(live, guest)


REMOVED_WHILE_OPEN = ".nfs000000000010a4c200000001"


def test_a_picture_that_nfs_keeps_until_it_is_closed_is_no_obstacle(
    live: Service, tmp_path: Path
) -> None:
    guest = make_guest(tmp_path / "open-elsewhere", "photo.jpg", prompt="sepia")
    (guest / REMOVED_WHILE_OPEN).write_bytes(encoded(".jpg"))

    assert request_of(admitted(live, guest))["inputs"] == ["photo.jpg"]


def test_a_picture_that_nfs_keeps_is_no_input_of_a_job(live: Service, tmp_path: Path) -> None:
    request = {"prompt": "sepia", "size": "input"}
    job = make_guest(tmp_path / new_id(), "photo.jpg", request=request)
    (job / REMOVED_WHILE_OPEN).write_bytes(encoded(".jpg", (32, 32)))

    shell("mv", job, live.spool.incoming)

    record = live.spool.done / job.name / "result.json"
    wait_until(record.exists)
    result = json.loads(record.read_text())
    assert (result["width"], result["height"]) == (64, 48)


NAMES = {
    "macos-screenshot": "Screenshot 2026-11-26 at 9.41.00\N{NARROW NO-BREAK SPACE}AM.png",
    "ideographic-space": "照片\N{IDEOGRAPHIC SPACE}1.png",
    "no-break-space": "photo\N{NO-BREAK SPACE}1.png",
    "emoji": "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}.png",
    "persian": "می\N{ZERO WIDTH NON-JOINER}خواهم.png",
    "hebrew": "\N{RIGHT-TO-LEFT MARK}תמונה.png",
    "shell": "a'b\"c;d&e|f$(g).png",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_people_have_is_taken(live: Service, tmp_path: Path, kind: str) -> None:
    job = admitted(live, make_guest(tmp_path / kind, NAMES[kind], prompt="sepia"))

    assert request_of(job)["inputs"] == [NAMES[kind]]


@pytest.mark.parametrize("name", ["photo\x1b[31m.png", "a\nb.png", "\udcd5\udcd5.png"])
def test_a_name_with_control_characters_or_no_utf_8_is_refused(
    live: Service, tmp_path: Path, name: str
) -> None:
    guest = make_guest(tmp_path / f"unprintable-{len(name)}", prompt="sepia")
    try:
        (guest / name).write_bytes(encoded())
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")

    assert "has a control character in its name, or is not UTF-8" in refused(live, guest)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("photo.jfif", ".jpg"), ("photo", ".jpg"), ("IMG.JPE", ".jpg"), ("misnamed.jpg", ".png")],
)
def test_a_picture_is_known_by_its_content(
    live: Service, tmp_path: Path, name: str, suffix: str
) -> None:
    guest = make_guest(tmp_path / f"content-{name}", prompt="sepia")
    (guest / name).write_bytes(encoded(suffix))

    assert request_of(admitted(live, guest))["inputs"] == [name]


@pytest.mark.parametrize("name", ["Prompt.txt", "PROMPT.TXT", "prompt.txt.txt", "prompt"])
def test_a_prompt_is_found_under_the_names_that_systems_give_it(
    live: Service, tmp_path: Path, name: str
) -> None:
    guest = make_guest(tmp_path / f"prompt-{name}", "photo.jpg")
    (guest / name).write_text("sepia")

    assert request_of(admitted(live, guest))["prompt"] == "sepia"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_prompt_is_read_in_the_encoding_that_its_mark_names(
    live: Service, tmp_path: Path, encoding: str
) -> None:
    guest = make_guest(tmp_path / f"text-{encoding}", "photo.jpg")
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}" if encoding == "utf-16-be" else ""
    (guest / "prompt.txt").write_bytes(f"{mark}怀旧".encode(encoding))

    assert request_of(admitted(live, guest))["prompt"] == "怀旧"


@pytest.mark.parametrize("name", ["prompt.txt", "job.json"])
@pytest.mark.parametrize("encoding", ["gbk", "utf-16-le", "latin-1"])
def test_text_in_an_encoding_that_nothing_names_is_refused(
    live: Service, tmp_path: Path, encoding: str, name: str
) -> None:
    guest = make_guest(tmp_path / f"text-{encoding}-{name}", "photo.jpg")
    prompt = "más grande" if encoding == "latin-1" else "turn 照片 grey"
    text = json.dumps({"prompt": prompt}, ensure_ascii=False) if name == "job.json" else prompt
    (guest / name).write_bytes(text.encode(encoding))

    assert f"{name} is not text in UTF-8" in refused(live, guest)


def test_every_picture_of_a_folder_is_an_input(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "styled", "a.png", "input.jpg", prompt="invert")
    shell("mv", guest, live.spool.incoming)

    assert request_of(ending(live.spool, "styled"))["inputs"] == ["input.jpg", "a.png"]


# --- what a user gave stays -----------------------------------------------------------------------


def test_a_result_is_the_picture_of_the_next_edit(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "second-edit", "result.png", prompt="sepia")
    original = (guest / "result.png").read_bytes()

    job = admitted(live, guest)

    assert (job / "result.png").read_bytes() == original
    assert json.loads((job / "result.json").read_text())["outputs"] == ["result-2.png"]
    assert (job / "result-2.png").read_bytes() != original


NEAR_NAMES = (
    *("results-2024.jpg", "result-notes.txt", "result-10.png", "result.txt", "result.json.txt"),
    *("result-2.png", "attempts.txt", "attempt-one.json", "attempt-01.json", "cancel.txt"),
)


@pytest.mark.parametrize("how", ["mv", "retry"])
def test_a_retry_removes_no_file_of_the_user(live: Service, tmp_path: Path, how: str) -> None:
    request = {"prompt": "qwertyuiop", "inputs": ["results-2024.jpg"], "n": 2}
    guest = make_guest(tmp_path / f"near-names-{how}", "results-2024.jpg", request=request)
    for name in NEAR_NAMES[1:]:
        (guest / name).write_text(f"this is {name}")
    before = tree(guest)
    shell("mv", guest, live.spool.incoming)
    failed = ending(live.spool, guest.name)
    assert "unknown_instruction" in (failed / "error.txt").read_text()

    (failed / "job.json").write_text(json.dumps({**request, "prompt": "sepia"}))
    if how == "mv":
        shell("mv", failed, live.spool.incoming)
    else:
        cli(live, "retry", failed.name)

    done = live.spool.done / failed.name
    wait_until(done.is_dir)
    kept = tree(done)
    assert {name: kept[name] for name in NEAR_NAMES} == {name: before[name] for name in NEAR_NAMES}
    outputs = json.loads((done / "result.json").read_text())["outputs"]
    assert outputs == ["result.png", "result-3.png"]


def test_a_result_that_became_the_input_survives_the_retry(live: Service, tmp_path: Path) -> None:
    job = admitted(live, make_guest(tmp_path / "edit-again", "photo.jpg", prompt="sepia"))
    first = (job / "result.png").read_bytes()
    request = {**request_of(job), "inputs": ["result.png"]}
    (job / "job.json").write_text(json.dumps(request))

    shell("mv", job, live.spool.incoming)

    wait_until((job / "result-2.png").exists)
    assert (job / "result.png").read_bytes() == first


def test_a_file_with_the_name_of_a_record_is_kept_beside_it(live: Service, tmp_path: Path) -> None:
    guest = make_guest(tmp_path / "errata", "photo.jpg")
    (guest / "error.txt").write_text("errors found in print")
    shell("mv", guest, live.spool.incoming)

    failed = ending(live.spool, "errata")

    assert "neither a prompt.txt nor a job.json" in (failed / "error.txt").read_text()
    (kept,) = failed.glob("error.txt.*")
    assert kept.read_text() == "errors found in print"


def test_a_changed_prompt_of_a_job_that_failed_is_not_passed_over(
    live: Service, tmp_path: Path
) -> None:
    guest = make_guest(tmp_path / "changed-prompt", "photo.jpg", prompt="qwertyuiop")
    shell("mv", guest, live.spool.incoming)
    failed = ending(live.spool, guest.name)
    assert "unknown_instruction" in (failed / "error.txt").read_text()

    (failed / "prompt.txt").write_text("sepia")
    shell("mv", failed, live.spool.incoming)

    words = "prompt.txt and job.json have different prompts"
    wait_until(lambda: failed.is_dir() and words in (failed / "error.txt").read_text())
