"""Jobs of dead workers."""

import os
import time
from typing import Any

import pytest

from i2ii_spool.spool import durable_io
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerLock, worker_name
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.recovery import Reaper, recover
from i2ii_spool.spool.status import read_status
from tests.support.jobs import ME, SubmitJob, claim_next, claims_of, names_in, result_of


def test_a_finished_job_of_a_dead_worker_is_not_run_again(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    claim = claim_next(spool)
    durable_io.write_file(claim.folder / "result.json", result_of(claim).to_json())
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.DONE


def test_a_failed_job_of_a_dead_worker_has_failed(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    (claim_next(spool).folder / "error.json").write_text("{}")
    recover(spool, ME, max_attempts=3)
    assert find(spool, id).state is State.FAILED


@pytest.mark.parametrize(
    ("attempts", "ending"),
    [(2, {"attempt": 1}), (1, {"attempt": 1, "worker": "elsewhere.gpu0"})],
    ids=["an earlier attempt", "another worker"],
)
def test_an_ending_that_another_attempt_has_written_does_not_count(
    spool: Spool, submit_job: SubmitJob, attempts: int, ending: dict[str, Any]
) -> None:
    id = submit_job()
    claim = claim_next(spool)
    for _ in range(attempts - 1):
        recover(spool, ME, max_attempts=3)
        claim = claim_next(spool)
    durable_io.write_file(claim.folder / "result.json", result_of(claim, **ending).to_json())
    recover(spool, ME, max_attempts=3)
    assert names_in(find(spool, id).folder) == [
        *(f"attempt-{number + 1}.json" for number in range(attempts)),
        *("input.jpg", "job.json"),
    ]
    assert find(spool, id).state is State.INCOMING


def test_a_cancelled_job_of_a_dead_worker_is_cancelled(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    (claim_next(spool).folder / "cancel").touch()
    recover(spool, ME, max_attempts=3)
    assert read_status(spool, id).status == "cancelled"


def test_job_that_kills_its_workers_fails_as_crashed(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    for _ in range(2):
        claim_next(spool)
        recover(spool, ME, max_attempts=2)
    status = read_status(spool, id)
    assert (status.status, status.attempts) == ("failed", 2)
    assert status.error is not None
    assert status.error["code"] == "crashed"


def test_job_moved_back_by_hand_keeps_its_attempt_limit(
    spool: Spool, submit_job: SubmitJob
) -> None:
    id = submit_job()
    claim = claims_of(spool, max_attempts=1).next()
    assert claim is not None
    claim.folder.rename(spool.incoming / id)
    assert claims_of(spool, max_attempts=1).next() is None
    assert read_status(spool, id).status == "failed"


def test_only_jobs_of_a_dead_worker_are_recovered(spool: Spool, submit_job: SubmitJob) -> None:
    id = submit_job()
    claim_next(spool)
    reaper = Reaper(spool, max_attempts=3, lease=60)
    lock = WorkerLock.take(spool, ME)
    assert lock is not None
    reaper.run_once()
    assert find(spool, id).state is State.RUNNING
    lock.release()
    reaper.run_once()
    assert find(spool, id).state is State.INCOMING


def test_a_worker_whose_lock_is_no_file_keeps_no_other_from_recovery(
    spool: Spool, submit_job: SubmitJob
) -> None:
    odd, dead = worker_name("gpu0"), worker_name("gpu1")
    ids = [submit_job(), submit_job()]
    for worker in (odd, dead):
        claim_next(spool, worker)
    (spool.locks / odd).unlink(missing_ok=True)
    (spool.locks / odd).mkdir()
    Reaper(spool, max_attempts=3, lease=60).run_once()
    assert [find(spool, id).state for id in ids] == [State.RUNNING, State.INCOMING]


def test_worker_of_another_host_is_dead_after_its_lease(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit_job()
    claim_next(spool, "elsewhere.gpu0")
    heartbeat = spool.workers / "elsewhere.gpu0.json"
    heartbeat.touch()
    os.utime(heartbeat, (0, 0))  # its clock is decades behind: that means nothing
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reaper = Reaper(spool, max_attempts=3, lease=60)
    reaper.run_once()
    for _ in range(2):
        now += 29
        reaper.run_once()
    os.utime(heartbeat, (1, 1))
    for _ in range(3):
        now += 29
        reaper.run_once()
    assert find(spool, id).state is State.RUNNING
    now += 2
    reaper.run_once()
    assert find(spool, id).state is State.INCOMING
