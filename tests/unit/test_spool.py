"""The protocol, verb by verb: where a job lies, what lies in it, and who may do what."""

import errno
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from i2ii_spool.errors import (
    ClaimLost,
    Deleted,
    DiskFull,
    EngineError,
    InvalidRequest,
    NotFound,
    QueueFull,
    SpoolUnusable,
    WrongState,
)
from i2ii_spool.jobs.ids import new_id
from i2ii_spool.jobs.records import Progress, Result, Timings
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, durable_io
from i2ii_spool.spool.capacity import check_disk, check_queue
from i2ii_spool.spool.claim import Backlog, Claim, Claims
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerLock, worker_name
from i2ii_spool.spool.lookup import count, find, list_jobs, waiting
from i2ii_spool.spool.recovery import Reaper, recover
from i2ii_spool.spool.retention import RetentionPolicy, prune, sweep
from i2ii_spool.spool.status import read_status
from i2ii_spool.spool.submit import Submission, submit

Submit = Callable[..., str]
ME = worker_name("gpu0")


def claims_of(spool: Spool, worker: str = ME, max_attempts: int = 3) -> Claims:
    (spool.running / worker).mkdir(exist_ok=True)
    return Claims(spool, worker, max_attempts=max_attempts)


def claim_next(spool: Spool, worker: str = ME) -> Claim:
    claim = claims_of(spool, worker).next()
    assert claim is not None
    return claim


def result_of(claim: Claim) -> Result:
    return Result(
        outputs=("result.png",), width=64, height=48, seed=0, attempt=claim.attempt, worker=ME, gpu_id=0,
        completed_at=datetime.now(UTC), timings=Timings(queue=0, load=0, edit=1, save=0),
        engine="none", model="none", revision="0", versions={},
    )  # fmt: skip


def finish(claim: Claim) -> None:
    claim.save("result.png", b"a picture")
    claim.commit(result_of(claim))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- submit ---------------------------------------------------------------------------------------


def test_a_submitted_job_lies_whole_in_incoming(
    spool: Spool, submit_job: Submit, picture: Path
) -> None:
    id = submit_job(prompt="水彩", seed=7)
    folder = spool.incoming / id
    assert names(folder) == {"job.json", "input.jpg"}
    assert (folder / "input.jpg").read_bytes() == picture.read_bytes()
    assert json.loads((folder / "job.json").read_text())["prompt"] == "水彩"
    assert names(spool.staging) == set()


def test_a_job_is_for_its_group_and_nobody_else(spool: Spool, submit_job: Submit) -> None:
    folder = spool.incoming / submit_job()
    assert folder.stat().st_mode & 0o7777 == 0o2770
    assert not any(
        path.stat().st_mode & 0o007 for path in [spool.root, *spool.root.rglob("job.json")]
    )


def test_a_refused_picture_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hello")
    with pytest.raises(InvalidRequest):
        submit(spool, [tmp_path / "words.txt"], EditRequest(prompt="a"), max_pixels=10**6)
    assert names(spool.incoming) == names(spool.staging) == set()


@pytest.mark.parametrize("pictures", [0, 4])
def test_a_job_has_one_to_three_pictures(spool: Spool, picture: Path, pictures: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        submit(spool, [picture] * pictures, EditRequest(prompt="a"), max_pixels=10**6)
    assert refused.value.field == "image"


def test_a_failed_fsync_is_reported_and_never_retried(
    spool: Spool, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(descriptor: int) -> None:
        calls.append(descriptor)
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="I/O error"):
        submit_job()
    assert len(calls) == 1
    assert names(spool.incoming) == set()


def test_the_door_says_when_to_come_back() -> None:
    check_queue(9, max_queue=10, seconds_between_completions=4.0)
    with pytest.raises(QueueFull) as full:
        check_queue(12, max_queue=10, seconds_between_completions=4.0)
    assert full.value.retry_after == 12  # three jobs must go before a place is free


def test_the_door_keeps_the_disk_above_its_floor(spool: Spool) -> None:
    with pytest.raises(DiskFull, match="i2ii gc"):
        check_disk(spool, min_free=2**62)


def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpoolUnusable, match="I2II_SPOOL"):
        Spool(tmp_path / "file" / "spool").create()


# --- idempotency keys -----------------------------------------------------------------------------


def test_a_jobs_name_stands_behind_its_id(spool: Spool, submit_job: Submit) -> None:
    id = submit_job(name="wedding 042/é")
    assert id.endswith("_wedding-042")
    assert waiting(spool) == [id]


def submit_with_key(spool: Spool, picture: Path, key: str, prompt: str = "sepia") -> str:
    submission = Submission(spool)
    Path(submission.upload()).write_bytes(picture.read_bytes())
    return submission.publish(EditRequest(prompt=prompt, name="n"), max_pixels=10**6, key=key)


def test_one_key_makes_one_job(spool: Spool, picture: Path) -> None:
    first = submit_with_key(spool, picture, "a")
    assert submit_with_key(spool, picture, "a") == first
    assert submit_with_key(spool, picture, "b") != first
    assert len(waiting(spool)) == 2
    assert names(spool.staging) == set()


def test_many_at_once_with_one_key_make_one_job(spool: Spool, picture: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: submit_with_key(spool, picture, "a"), range(40)))
    assert list(ids) == waiting(spool)


def test_a_key_is_not_for_another_request(spool: Spool, picture: Path) -> None:
    submit_with_key(spool, picture, "a")
    with pytest.raises(WrongState, match="another request"):
        submit_with_key(spool, picture, "a", prompt="blur")


def test_the_next_with_the_key_finishes_what_a_dead_submitter_began(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Submission, "_move", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            submit_with_key(spool, picture, "a")
    (begun,) = names(spool.staging)
    assert submit_with_key(spool, picture, "a") == f"{begun}_n"
    assert waiting(spool) == [f"{begun}_n"]


# --- claim ----------------------------------------------------------------------------------------


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_jobs_are_claimed_in_queue_order(spool: Spool, order: list[int], hinted: int) -> None:
    ids = sorted(new_id() for _ in order)
    backlog = Backlog(spool)
    for index in order[hinted:]:
        (spool.incoming / ids[index]).mkdir()
    backlog.scan()
    for index in order[:hinted]:  # these arrive after the scan, by event
        (spool.incoming / ids[index]).mkdir()
        backlog.hint(ids[index])
    assert [backlog.pop() for _ in ids] == ids
    for id in ids:
        (spool.incoming / id).rmdir()


def test_a_claim_is_counted_before_work_starts(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claim = claim_next(spool)
    assert claim.id == id
    assert names(spool.running / ME / id) == {"job.json", "input.jpg", "attempt-1.json"}
    assert find(spool, id).worker == ME


def test_each_job_is_claimed_once_by_many_workers(spool: Spool, submit_job: Submit) -> None:
    ids = [submit_job() for _ in range(40)]

    def claim_all(worker: str) -> list[str]:
        claims = claims_of(spool, worker)
        claimed = []
        while (claim := claims.next()) is not None:
            claimed.append(claim.id)
        return claimed

    with ThreadPoolExecutor(8) as pool:
        claimed = pool.map(claim_all, [worker_name(f"gpu{n}") for n in range(8)])
    assert sorted(id for each in claimed for id in each) == ids


def test_a_rename_whose_answer_was_lost_is_still_a_claim(
    spool: Spool, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit_job()
    rename = os.rename

    def renamed_but_says_no(source: Path, target: Path) -> None:
        rename(source, target)
        if Path(target).name == id:
            raise FileNotFoundError(errno.ENOENT, "lost reply")

    monkeypatch.setattr(os, "rename", renamed_but_says_no)
    claim = claims_of(spool).next()
    assert claim is not None
    assert claim.id == id


def test_a_committed_job_has_its_result(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    finish(claim_next(spool))
    assert names(spool.done / id) >= {"result.json", "result.png"}
    assert count(spool) == {State.INCOMING: 0, State.RUNNING: 0, State.DONE: 1, State.FAILED: 0}


def test_a_failed_job_says_why_to_people_and_programs(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("out of paint"), "Traceback: ...")
    assert (
        spool.failed / id / "error.txt"
    ).read_text() == "engine_error: out of paint\n\nTraceback: ..."
    assert json.loads((spool.failed / id / "error.json").read_text())["attempt"] == 1


def test_a_job_given_back_keeps_its_place_and_its_count(spool: Spool, submit_job: Submit) -> None:
    first, second = submit_job(), submit_job()
    claim_next(spool).release(uncount_attempt=True)
    assert waiting(spool) == [first, second]
    assert claim_next(spool).attempt == 1
    recover(spool, ME, max_attempts=3)
    claim_next(spool).release(uncount_attempt=False)
    assert claim_next(spool).attempt == 3


@pytest.mark.parametrize(
    "ending",
    [
        finish,
        lambda claim: claim.fail(EngineError("x")),
        lambda claim: claim.release(uncount_attempt=True),
        lambda claim: claim.report(Progress(phase="editing", step=1, steps=2)),
    ],
    ids=["commit", "fail", "give back", "report"],
)
def test_a_worker_whose_job_was_taken_away_drops_it(
    spool: Spool, submit_job: Submit, ending: Callable[[Claim], None]
) -> None:
    submit_job()
    claim = claim_next(spool)
    recover(spool, ME, max_attempts=3)  # it was taken for dead
    other = claim_next(spool, worker_name("gpu1"))
    with pytest.raises(ClaimLost):
        ending(claim)
    finish(other)
    assert count(spool)[State.DONE] == 1


def test_a_job_copied_in_under_its_own_id_overwrites_nothing(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job()
    finish(claim_next(spool))
    (spool.incoming / id).mkdir()
    (spool.incoming / id / "job.json").write_text('{"prompt": "again"}')
    finish(claim_next(spool))
    assert count(spool)[State.DONE] == 2
    assert all((spool.done / name / "result.json").exists() for name in names(spool.done))


# --- recover --------------------------------------------------------------------------------------


def test_a_finished_job_of_a_dead_worker_is_not_run_again(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claim = claim_next(spool)
    durable_io.write_file(claim.folder / "result.json", result_of(claim).to_json())
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.DONE


def test_a_failed_job_of_a_dead_worker_has_failed(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    (claim_next(spool).folder / "error.json").write_text("{}")
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.FAILED


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    (claim_next(spool).folder / "cancel").touch()
    recover(spool, ME, max_attempts=3)
    assert read_status(spool, id).status == "cancelled"


def test_a_job_that_kills_its_workers_is_given_up(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    for _ in range(2):
        claim_next(spool)
        recover(spool, ME, max_attempts=2)
    status = read_status(spool, id)
    assert (status.status, status.attempts) == ("failed", 2)
    assert status.error is not None
    assert status.error["code"] == "crashed"


def test_a_job_moved_back_by_hand_is_not_begun_more_often_than_allowed(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job()
    claim = claims_of(spool, max_attempts=1).next()
    assert claim is not None
    claim.folder.rename(spool.incoming / id)
    assert claims_of(spool, max_attempts=1).next() is None
    assert read_status(spool, id).status == "failed"


def test_a_living_worker_is_left_alone_and_a_dead_one_recovered(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job()
    claim_next(spool)
    undertaker = Reaper(spool, max_attempts=3, lease=60)
    lock = WorkerLock.take(spool, ME)
    assert lock is not None
    undertaker.run_once()
    assert find(spool, id).state is State.RUNNING
    lock.release()
    undertaker.run_once()
    assert find(spool, id).state is State.INCOMING


def test_another_hosts_worker_is_dead_after_its_lease_on_our_clock(
    spool: Spool, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit_job()
    claim_next(spool, "elsewhere.gpu0")
    heartbeat = spool.workers / "elsewhere.gpu0.json"
    heartbeat.touch()
    os.utime(heartbeat, (0, 0))  # its clock is decades behind: that means nothing
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    undertaker = Reaper(spool, max_attempts=3, lease=60)
    undertaker.run_once()
    now += 59
    os.utime(heartbeat, (1, 1))
    undertaker.run_once()
    now += 59
    undertaker.run_once()
    assert find(spool, id).state is State.RUNNING
    now += 2
    undertaker.run_once()
    assert find(spool, id).state is State.INCOMING


# --- cancel, retry, remove ------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    assert actions.cancel(spool, id) is State.FAILED
    assert read_status(spool, id).status == "cancelled"
    assert claims_of(spool).next() is None


def test_a_running_job_is_asked_to_stop(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claim = claim_next(spool)
    assert not claim.is_cancelled()
    assert actions.cancel(spool, id) is State.RUNNING
    assert claim.is_cancelled()


def test_a_cancel_that_loses_to_a_claim_still_stops_the_job(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job()
    (spool.incoming / id / "cancel").touch()
    assert claims_of(spool).next() is None
    assert read_status(spool, id).status == "cancelled"


def test_a_cancel_interrupted_after_its_rename_reads_as_cancelled(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job()
    (spool.incoming / id / "cancel").touch()
    (spool.incoming / id).rename(spool.failed / id)
    assert read_status(spool, id).status == "cancelled"


def test_exactly_one_of_cancel_and_claim_wins(spool: Spool, submit_job: Submit) -> None:
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
def test_a_retried_job_is_as_good_as_new(spool: Spool, submit_job: Submit, how: str) -> None:
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
    assert names(again.folder) == {"job.json", "input.jpg", "attempt-1.json"}


def test_a_retried_job_that_is_cancelled_by_hand_stops(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claim_next(spool).fail(EngineError("no"))
    actions.retry(spool, id)
    os.utime(
        spool.incoming / id / "error.json", (0, 0)
    )  # some kernels tell only hundredths of a second apart
    (spool.incoming / id / "cancel").touch()
    assert claims_of(spool).next() is None
    assert read_status(spool, id).status == "cancelled"


def test_a_file_that_is_missing_in_a_job_that_is_there_is_not_a_job_taken_away(
    spool: Spool, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit_job()
    claim = claim_next(spool)
    monkeypatch.setattr(os, "rename", lambda source, _target: os.stat(f"{source}.gone"))
    with pytest.raises(FileNotFoundError):
        claim.save("result.png", b"a picture")


def test_a_worker_whose_folder_is_gone_does_not_wait_for_ever(
    spool: Spool, submit_job: Submit
) -> None:
    submit_job()
    claims = claims_of(spool)
    (spool.running / ME).rmdir()
    with pytest.raises(FileNotFoundError):
        claims.next()


def test_a_retry_whose_clearing_was_cut_short_is_cleared_by_the_next(
    spool: Spool, submit_job: Submit, monkeypatch: pytest.MonkeyPatch
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
    assert names(find(spool, id).folder) >= {"error.json", "job.json", "input.jpg"}
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.INCOMING
    assert names(claim_next(spool).folder) == {"job.json", "input.jpg", "attempt-1.json"}


def test_a_deleted_job_is_gone_and_remembered(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    finish(claim_next(spool))
    actions.delete_job(spool, id)
    with pytest.raises(Deleted):
        find(spool, id)
    assert names(spool.trash) == {f"{id}.gone"}


def test_a_named_job_that_was_deleted_does_not_stop_the_sweep(
    spool: Spool, submit_job: Submit
) -> None:
    id = submit_job(name="wedding")
    actions.cancel(spool, id)
    actions.delete_job(spool, id)
    sweep(spool)
    with pytest.raises(Deleted):
        find(spool, id)


def test_a_deletion_cut_short_is_finished_by_the_sweep(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    (spool.incoming / id).rename(spool.trash / id)
    sweep(spool)
    assert names(spool.trash) == {f"{id}.gone"}


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
    spool: Spool, submit_job: Submit, act: Callable[[Spool, str], object], state: State
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


# --- look-up and retention ------------------------------------------------------------------------


def test_what_never_was_is_not_found(spool: Spool) -> None:
    with pytest.raises(NotFound):
        find(spool, new_id())


def test_a_job_that_moves_all_the_time_is_always_found(spool: Spool, submit_job: Submit) -> None:
    id = submit_job()
    claims = claims_of(spool)
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(lambda: [find(spool, id) for _ in range(1500)])
        while not looking.done():
            claims.backlog.hint(id)
            claim = claims.next()
            assert claim is not None
            claim.release(uncount_attempt=True)
        assert len(looking.result()) == 1500


def test_a_list_is_newest_first_and_continues_without_gaps(
    spool: Spool, submit_job: Submit
) -> None:
    ids = [submit_job() for _ in range(7)]
    finish(claim_next(spool))
    first = [place.id for place in list_jobs(spool, limit=4)]
    rest = [place.id for place in list_jobs(spool, limit=4, after=first[-1])]
    assert first + rest == ids[::-1]
    assert [place.id for place in list_jobs(spool, State.DONE)] == ids[:1]


def ended_jobs(spool: Spool, submit_job: Submit, ages: list[float]) -> list[str]:
    ids = []
    for age in ages:
        ids.append(submit_job())
        finish(claim_next(spool))
        ended = time.time() - age
        os.utime(spool.done / ids[-1] / "result.json", (ended, ended))
    return ids


def test_retention_by_age_and_by_number_takes_the_longest_ended_first(
    spool: Spool, submit_job: Submit
) -> None:
    newest, oldest, middle = ended_jobs(spool, submit_job, [10, 300, 100])
    waits, runs = submit_job(), submit_job()
    assert claim_next(spool).id == waits
    assert prune(spool, RetentionPolicy()) == []
    assert prune(spool, RetentionPolicy(age=200)) == [oldest]
    assert prune(spool, RetentionPolicy(jobs=1)) == [middle]
    assert prune(spool, RetentionPolicy(free=2**62)) == [newest]
    assert {find(spool, waits).state, find(spool, runs).state} == {State.RUNNING, State.INCOMING}


def test_dead_submissions_are_swept_and_living_ones_are_not(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = Submission(spool)
    Path(submission.upload()).touch()
    sweep(spool)
    assert names(spool.staging) == {submission.id}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    sweep(spool)
    assert names(spool.staging) == set()
