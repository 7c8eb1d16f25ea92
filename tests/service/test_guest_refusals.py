"""Folders in `incoming/` that are refused, with the reason, and nothing of them is lost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.support.guests import assert_edited, ending, ls, make_guest, named, shell, tree
from tests.support.pictures import make_picture
from tests.support.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("guest_refusals")  # one service for the file


def with_no_prompt(guest: Path) -> None:
    (guest / "prompt.txt").unlink()


def with_an_empty_prompt(guest: Path) -> None:
    (guest / "prompt.txt").write_text(" \n")


def with_no_picture(guest: Path) -> None:
    (guest / "photo.jpg").unlink()


def with_eleven_pictures(guest: Path) -> None:
    for number in range(10):
        make_picture(guest / f"{number}.jpg")


def with_a_truncated_picture(guest: Path) -> None:
    whole = (guest / "photo.jpg").read_bytes()
    (guest / "photo.jpg").write_bytes(whole[:-100])


def with_a_wrong_job_json(guest: Path) -> None:
    (guest / "job.json").write_text('{"prompt": "sepia", "seed": -2}')


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


def with_an_unread_picture(guest: Path) -> None:
    (guest / "IMG_0001.BMP").write_bytes(b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(40))


def with_a_document_alone(guest: Path) -> None:
    (guest / "photo.jpg").unlink()
    (guest / "letter.pdf").write_bytes(b"%PDF-1.7\n")


def with_two_prompts(guest: Path) -> None:
    (guest / "Prompt.txt").write_text("invert")


def with_a_prompt_of_a_word_processor(guest: Path) -> None:
    (guest / "prompt.txt").rename(guest / "prompt.rtf")


def with_a_job_json_under_another_name(guest: Path) -> None:
    (guest / "job.json.txt").write_text('{"prompt": "invert"}')


def with_a_job_json_that_says_it_twice(guest: Path) -> None:
    (guest / "job.json").write_text('{"prompt": "sepia", "seed": 1, "seed": 2}')


def with_another_prompt_in_its_job_json(guest: Path) -> None:
    (guest / "job.json").write_text('{"prompt": "invert"}')


def with_a_progress_json_of_its_own(guest: Path) -> None:
    (guest / "progress.json").write_text('{"level": 3}')


def with_a_result_too_wide_for_its_format(guest: Path) -> None:
    (guest / "photo.jpg").unlink()
    make_picture(guest / "wide.png", (16400, 1100))
    (guest / "job.json").write_text('{"prompt": "sepia", "size": "input", "output_format": "webp"}')


WRONG: dict[Callable[[Path], None], str] = {
    with_no_prompt: "invalid_request: there is neither a prompt.txt nor a job.json",
    with_an_empty_prompt: "invalid_request: prompt must not be empty",
    with_no_picture: "invalid_request: there is no picture in the folder",
    with_eleven_pictures: "invalid_request: there are 11 pictures",
    with_a_truncated_picture: "unsupported_picture: photo.jpg is truncated",
    with_a_wrong_job_json: "invalid_request: seed must be from -1",
    with_a_job_json_that_points_outside: "invalid_request: inputs names '../../../outside.jpg'",
    with_a_symlink: "invalid_request: 'photo.jpg' is a symbolic link",
    with_a_fifo: "invalid_request: 'pipe.jpg' is a FIFO",
    with_a_subfolder: "invalid_request: 'more' is a folder",
    with_a_temp_named_file: (
        "invalid_request: 'b.jpg.part' is named like a file that is still being copied"
    ),
    with_an_unread_picture: (
        "unsupported_picture: IMG_0001.BMP is a BMP picture, which is not read here"
    ),
    with_a_document_alone: (
        "invalid_request: there is no picture in the folder: letter.pdf is a PDF document"
    ),
    with_two_prompts: "invalid_request: there are two prompts",
    with_a_prompt_of_a_word_processor: (
        "invalid_request: there is neither a prompt.txt nor a job.json; found prompt.rtf"
    ),
    with_a_job_json_under_another_name: (
        "invalid_request: job.json.txt is not read; rename it to job.json"
    ),
    with_a_job_json_that_says_it_twice: "invalid_request: job.json has 'seed' twice",
    with_another_prompt_in_its_job_json: (
        "invalid_request: prompt.txt and job.json have different prompts"
    ),
    with_a_progress_json_of_its_own: (
        "invalid_request: progress.json is a name that i2ii gives to a record"
    ),
    with_a_result_too_wide_for_its_format: (
        "invalid_request: output_format is webp, whose sides have at most 16383 pixels"
    ),
}


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
def test_invalid_folder_is_refused_with_the_reason_and_kept(
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


def test_refused_folder_is_edited_after_repair_and_moving_back(
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
