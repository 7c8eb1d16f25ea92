"""Cancel, retry and delete in every state."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.errors import (
    Deleted,
    EngineError,
    WrongState,
)
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.records import Progress
from i2ii_spool.spool import actions
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import count, find
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.retention import sweep
from i2ii_spool.spool.status import read_status
from tests.support.jobs import ME, SubmitJob, claim_next, claims_of, finish, names_in
from tests.support.seams import failing_call


def test_a_waiting_job_is_cancelled_at_once(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    assert actions.cancel(spool, id) is State.FAILED
    assert read_status(spool, id).status == "cancelled"
    assert claims_of(spool).next() is None


def test_a_running_job_is_asked_to_stop(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim = claim_next(spool)
    assert not claim.is_cancelled()
    assert actions.cancel(spool, id) is State.RUNNING
    assert claim.is_cancelled()


def test_a_cancel_that_loses_to_a_claim_still_stops_the_job(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    (spool.incoming / id / "cancel").touch()
    assert claims_of(spool).next() is None
    assert read_status(spool, id).status == "cancelled"


def test_a_cancel_interrupted_after_its_rename_reads_as_cancelled(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    (spool.incoming / id / "cancel").touch()
    (spool.incoming / id).rename(spool.failed / id)
    assert read_status(spool, id).status == "cancelled"


def test_exactly_one_of_cancel_and_claim_wins(spool: Spool, submit_job: SubmitJob) -> None:
    ids = [submit_job() for _ in range(60)]
    claims = claims_of(spool)
    with ThreadPoolExecutor(2) as pool:
        cancelling = pool.submit(lambda: [actions.cancel(spool, id) for id in reversed(ids)])
        while (claim := claims.next()) is not None:
            finish(claim)
        with suppress(WrongState):  # the two met in the middle
            cancelling.result()
    counts = count(spool)
    assert counts[State.DONE] + counts[State.FAILED] == 60


@pytest.mark.parametrize("how", ["retry", "mv"])
def test_retried_job_has_no_traces_of_the_first_run(
    spool: Spool, submit_job: SubmitJob, how: str
) -> None:
    id = submit_job()
    claim = claim_next(spool)
    claim.save("result.png", b"half a result")
    claim.report(Progress(phase="editing", step=1, steps=2))
    (claim.folder / "cancel").touch()
    claim.fail(EngineError("x"))
    if how == "retry":
        actions.retry(spool, id)
    else:
        (spool.failed / id).rename(spool.incoming / id)
    assert read_status(spool, id).status == "queued"
    again = claim_next(spool)
    assert names_in(again.folder) == ["attempt-1.json", "input.jpg", "job.json"]


def test_a_cancel_holds_beside_one_that_a_user_has_made(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    (spool.incoming / id / "cancel").touch()
    with failing_call(os, "utime", "EACCES"):
        assert actions.cancel(spool, id) is State.FAILED


def test_a_retried_job_that_is_cancelled_while_a_worker_resets_it_stops(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    actions.cancel(spool, id)
    os.utime(spool.failed / id / "error.json", (1, 1))
    os.utime(spool.failed / id / "cancel", (0, 0))
    actions.retry(spool, id)
    job = JobFolder(spool.create_worker(ME) / id)
    job.retry_marker.touch()
    (spool.incoming / id).rename(job.path)  # and has not reset it yet
    assert actions.cancel(spool, id) is State.RUNNING
    recover(spool, ME, max_attempts=3)
    assert read_status(spool, id).status == "cancelled"


def test_a_retried_job_that_is_cancelled_by_hand_stops(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("no"))
    actions.retry(spool, id)
    os.utime(
        spool.incoming / id / "error.json", (0, 0)
    )  # some kernels tell only hundredths of a second apart
    (spool.incoming / id / "cancel").touch()
    assert claims_of(spool).next() is None
    assert read_status(spool, id).status == "cancelled"


def in_one_second(*files: Path) -> None:
    """Have the files show what they show on a file system that counts whole seconds."""
    for file in files:
        os.utime(file, (1_700_000_000, 1_700_000_000))


def test_a_cancel_in_the_second_in_which_the_job_failed_and_was_retried_holds(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("no"))
    actions.retry(spool, id)
    waiting = spool.incoming / id
    (waiting / "cancel").touch()
    in_one_second(waiting / "cancel", waiting / "error.json")
    assert claims_of(spool).next() is None
    assert read_status(spool, id).status == "cancelled"


def test_a_job_that_was_cancelled_runs_when_it_is_retried_in_the_same_second(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    actions.cancel(spool, id)
    actions.retry(spool, id)
    in_one_second(spool.incoming / id / "cancel", spool.incoming / id / "error.json")
    assert not claim_next(spool).is_cancelled()


def test_a_cancel_that_came_too_late_does_not_hold_when_the_job_runs_again(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    claim = claim_next(spool)
    actions.cancel(spool, id)
    finish(claim)
    in_one_second(spool.done / id / "cancel", spool.done / id / "result.json")
    (spool.done / id).rename(spool.incoming / id)
    assert not claim_next(spool).is_cancelled()


def test_missing_file_in_a_claimed_job_is_not_a_lost_claim(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_job()
    claim = claim_next(spool)
    monkeypatch.setattr(os, "rename", lambda source, _target: os.stat(f"{source}.gone"))
    with pytest.raises(FileNotFoundError):
        claim.save("result.png", b"a picture")


def test_worker_without_its_folder_ends(spool: Spool, submit_job: SubmitJob) -> None:
    submit_job()
    claims = claims_of(spool)
    (spool.running / ME).rmdir()
    with pytest.raises(FileNotFoundError):
        claims.next()


def test_interrupted_retry_is_completed_by_the_next_claim(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("x"))
    actions.retry(spool, id)
    unlink = Path.unlink

    def die_at_the_record(path: Path, missing_ok: bool = False) -> None:
        if path.name == "error.json":
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die_at_the_record)
        with pytest.raises(KeyboardInterrupt):
            claims_of(spool).next()
    assert set(names_in(find(spool, id).folder)) >= {"error.json", "job.json", "input.jpg"}
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.INCOMING
    assert names_in(claim_next(spool).folder) == ["attempt-1.json", "input.jpg", "job.json"]


def test_a_deleted_job_is_gone_and_remembered(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    finish(claim_next(spool))
    actions.delete_job(spool, id)
    with pytest.raises(Deleted):
        find(spool, id)
    assert names_in(spool.trash) == [f"{id}.gone"]


def test_a_named_job_that_was_deleted_does_not_stop_the_sweep(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job(name="wedding")
    actions.cancel(spool, id)
    actions.delete_job(spool, id)
    sweep(spool)
    with pytest.raises(Deleted):
        find(spool, id)


def test_a_folder_that_is_swapped_for_a_link_does_not_lead_outside(
    spool: Spool, submit_job: SubmitJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    (outside / "album").mkdir(parents=True)
    (outside / "album" / "photo.jpg").touch()
    id = submit_job()
    (spool.incoming / id / "more").mkdir()
    (spool.incoming / id / "more" / "file").touch()
    (spool.incoming / id).rename(spool.trash / id)
    rename = os.rename

    def rename_and_swap(source: Any, target: Any, **folders: int) -> None:
        rename(source, target, **folders)
        rename(spool.trash / target, spool.root / "swapped")
        (spool.trash / target).symlink_to(outside)

    monkeypatch.setattr(os, "rename", rename_and_swap)
    with pytest.raises(OSError, match="Not a directory"):
        actions.delete_tree(spool.trash / id)
    assert (outside / "album" / "photo.jpg").exists()


def test_a_deletion_cut_short_is_finished_by_the_sweep(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    (spool.incoming / id).rename(spool.trash / id)
    sweep(spool)
    assert names_in(spool.trash) == [f"{id}.gone"]


@pytest.mark.parametrize(
    ("act", "state"),
    [
        (actions.cancel, State.DONE),
        (actions.cancel, State.FAILED),
        (actions.retry, State.INCOMING),
        (actions.retry, State.RUNNING),
        (actions.retry, State.DONE),
        (actions.delete_job, State.INCOMING),
        (actions.delete_job, State.RUNNING),
    ],
)
def test_what_a_state_does_not_allow_is_refused(
    spool: Spool, submit_job: SubmitJob, act: Callable[[Spool, str], object], state: State
) -> None:
    id = submit_job()
    if state is not State.INCOMING:
        claim = claim_next(spool)
        if state is State.DONE:
            finish(claim)
        elif state is State.FAILED:
            claim.fail(EngineError("x"))
    with pytest.raises(WrongState, match=state):
        act(spool, id)
    assert find(spool, id).state is state
