"""Files of users that lie in the spool: nothing removes or overwrites what i2ii has not made."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool import actions
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.claim import Claim
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.outputs import output_names
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.retention import KEY_SECONDS, STALE_SUBMISSION_SECONDS, sweep
from tests.support.guests import tree
from tests.support.jobs import ME, SubmitJob, claim_next, finish, result_of


@pytest.fixture
def a_year_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 400 * 86400)


USERS = ("notes.txt", "photo.jpg", ".hidden", "beef", "ready.gone", ".health.txt")


@pytest.mark.usefixtures("a_year_later")
@pytest.mark.parametrize("folder", ["trash", "staging", "keys", "locks"])
def test_sweep_leaves_what_a_user_has_put_into_a_hidden_folder(spool: Spool, folder: str) -> None:
    place: Path = getattr(spool, folder)
    for name in USERS:
        (place / name).write_text("mine")
    (place / "my folder").mkdir()
    (place / "my folder" / "photo.jpg").write_text("mine")
    before = tree(place)

    sweep(spool)

    assert tree(place) == before


@pytest.mark.usefixtures("a_year_later")
def test_sweep_removes_what_its_own_writers_have_left(spool: Spool) -> None:
    assert KEY_SECONDS < 400 * 86400 > STALE_SUBMISSION_SECONDS
    id, digest = "20261123-101530-482-k7m2qf", "ab" * 32
    (spool.trash / f"{id}.gone").touch()
    (spool.trash / ".0123456789abcdef").mkdir()
    (spool.staging / id).mkdir()
    (spool.staging / ".0123456789abcdef").mkdir()
    (spool.staging / ".health").touch()
    (spool.staging / "..health.0123abcd.tmp").touch()
    for name in (digest, f".{digest}.0123abcd"):
        (spool.keys / name).touch()

    sweep(spool)

    assert not any(os.listdir(folder) for folder in (spool.trash, spool.staging, spool.keys))


def test_a_folder_that_an_earlier_version_did_not_have_stops_no_sweep(spool: Spool) -> None:
    id = "20261123-101530-482-k7m2qf"
    (spool.trash / id).mkdir()
    for folder in (spool.thumbnails, spool.keys, spool.staging):
        folder.rmdir()

    sweep(spool)

    assert not (spool.trash / id).exists()


def test_a_file_named_like_a_note_is_no_note(spool: Spool) -> None:
    admission = Admission(spool, settle=0, patience=0, max_bytes=10**6, max_pixels=10**6)
    (spool.incoming / "photo.jpg").write_text("not a folder")
    (spool.incoming / "essays.rejected").write_text("a list of essays")
    admission.run_once()
    note = spool.incoming / "photo.jpg.rejected"
    assert "it is not a folder" in note.read_text()
    (spool.incoming / "photo.jpg").unlink()

    admission.run_once()

    assert not note.exists()
    assert (spool.incoming / "essays.rejected").read_text() == "a list of essays"


def test_a_file_among_what_runs_replaces_none_in_incoming(spool: Spool) -> None:
    worker = spool.create_worker(ME)
    (worker / "list.txt").write_text("of the worker's folder")
    (spool.incoming / "list.txt").write_text("of incoming")

    recover(spool, ME, max_attempts=3)

    contents = sorted(path.read_text() for path in spool.incoming.glob("list.txt*"))
    assert contents == ["of incoming", "of the worker's folder"]


def release_and_claim(spool: Spool, claim: Claim) -> Claim:
    claim.release(uncount_attempt=True)
    return claim_next(spool)


def die_and_claim(spool: Spool, _claim: Claim) -> Claim:
    recover(spool, ME, max_attempts=3)
    return claim_next(spool)


def fail_and_retry(spool: Spool, claim: Claim) -> Claim:
    claim.fail(EngineError("out of paint"))
    actions.retry(spool, claim.id)
    return claim_next(spool)


def finish_and_move_back(spool: Spool, claim: Claim) -> Claim:
    claim.commit(result_of(claim, "result-2.png"))
    (spool.done / claim.id).rename(spool.incoming / claim.id)
    return claim_next(spool)


@pytest.mark.parametrize(
    "again", [release_and_claim, die_and_claim, fail_and_retry, finish_and_move_back]
)
def test_a_result_of_the_user_is_kept_whatever_becomes_of_the_job(
    spool: Spool, submit_job: SubmitJob, again: Callable[[Spool, Claim], Claim]
) -> None:
    id = submit_job()
    (spool.incoming / id / "result.png").write_text("of the user")
    claim = claim_next(spool)
    assert claim.kept == ("result.png",)
    claim.save("result-2.png", b"of the worker")

    claim = again(spool, claim)

    assert claim.kept == ("result.png",)
    assert (claim.folder / "result.png").read_text() == "of the user"


def test_a_failed_job_holds_no_picture_of_a_worker(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim = claim_next(spool)
    claim.save("result.png", b"half of two results")
    claim.fail(EngineError("the second cannot be encoded"))

    # So that one which is there later is the user's, whatever its name.
    assert not (spool.failed / id / "result.png").exists()
    (spool.failed / id / "result.png").write_text("put there by the user")
    actions.retry(spool, id)
    assert claim_next(spool).kept == ("result.png",)


def test_a_cancelled_job_that_was_being_saved_holds_no_picture_of_a_worker(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    claim_next(spool).save("result.png", b"half of two results")
    recover(spool, ME, max_attempts=3)

    actions.cancel(spool, id)

    assert not (spool.failed / id / "result.png").exists()


def test_temporary_files_of_the_user_are_not_swept(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    ours, users = ".result.png.0123abcd.tmp", ".photo.jpg.0123abcd.tmp"
    for name in (ours, users):
        (spool.incoming / id / name).touch()

    claim = claim_next(spool)

    assert not (claim.folder / ours).exists()
    assert (claim.folder / users).exists()


def test_a_side_folder_does_not_fail_a_job(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    (spool.incoming / id / "@eaDir").mkdir()
    finish(claim_next(spool))
    assert find(spool, id).state is State.DONE
    assert JobFolder(spool.done / id).path.joinpath("@eaDir").is_dir()


def test_results_take_the_names_that_are_free() -> None:
    taken = {"result.png", "result-3.png"}
    assert output_names(2, "png", taken=taken) == ["result-2.png", "result-4.png"]
    assert output_names(1, "jpeg", taken=taken) == ["result.jpg"]
