"""What is left of the workers of hosts that will not come back."""

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from unittest import mock

import pytest

from i2ii_spool.spool import retirement
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerLock, list_workers
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.recovery import Reaper
from i2ii_spool.spool.retirement import RETIRE_LEASES, Retirement
from tests.support.jobs import ME, SubmitJob, claim_next
from tests.support.workers import write_worker

POD = "worker-x7k2p.gpu0"
LEASE = 60.0
SILENCE = RETIRE_LEASES * LEASE


class Clock:
    """The monotonic clock of this process, which a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch.object(time, "monotonic", clock):
        yield clock


def leave(spool: Spool, worker: str = POD) -> None:
    """Leave what a worker leaves that was killed."""
    lock = WorkerLock.take(spool, worker)
    assert lock is not None
    lock.release()
    (spool.running / worker).mkdir(exist_ok=True)
    write_worker(spool, worker)


def left(spool: Spool, worker: str = POD) -> list[bool]:
    """Whether its folder, its status file and its lock file are there."""
    paths = spool.running / worker, spool.workers / f"{worker}.json", spool.locks / worker
    return [path.exists() for path in paths]


def pass_silence(retirement: Retirement, clock: Clock) -> None:
    """Look, and look again when the silence was long enough."""
    retirement.run_once()
    clock.now += SILENCE
    retirement.run_once()


def test_a_silent_worker_of_another_host_is_retired(spool: Spool, clock: Clock) -> None:
    leave(spool)
    observer = Retirement(spool, lease=LEASE)
    observer.run_once()
    clock.now += SILENCE - 1
    observer.run_once()
    assert left(spool) == [True, True, True]
    assert [each.status.worker for each in list_workers(spool, lease=LEASE)] == [POD]
    clock.now += 1
    observer.run_once()
    assert left(spool) == [False, False, False]
    assert list_workers(spool, lease=LEASE) == []


def test_a_worker_that_was_stopped_leaves_no_folder_for_ever(spool: Spool, clock: Clock) -> None:
    leave(spool)
    (spool.workers / f"{POD}.json").unlink()
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert left(spool) == [False, False, False]


def test_a_heartbeat_begins_the_silence_anew(spool: Spool, clock: Clock) -> None:
    leave(spool)
    observer = Retirement(spool, lease=LEASE)
    observer.run_once()
    clock.now += SILENCE - 1
    write_worker(spool, POD)
    observer.run_once()
    clock.now += SILENCE - 1
    observer.run_once()
    assert left(spool) == [True, True, True]


def test_a_heartbeat_at_the_last_moment_counts(spool: Spool, clock: Clock) -> None:
    leave(spool)
    observer = Retirement(spool, lease=LEASE)
    observer.run_once()
    clock.now += SILENCE
    take = WorkerLock.take

    def beat_and_take(spool: Spool, worker: str) -> WorkerLock | None:
        write_worker(spool, POD)  # of a host that does not see this lock
        return take(spool, worker)

    with mock.patch.object(WorkerLock, "take", beat_and_take):
        observer.run_once()
    assert left(spool) == [True, True, True]


def test_a_job_is_recovered_before_its_worker_is_retired(
    spool: Spool, submit_job: SubmitJob, clock: Clock
) -> None:
    id = submit_job()
    leave(spool)
    claim_next(spool, POD)
    reaper, observer = Reaper(spool, max_attempts=3, lease=LEASE), Retirement(spool, lease=LEASE)
    reaper.run_once()
    pass_silence(observer, clock)
    assert left(spool) == [True, True, True]
    assert find(spool, id).state is State.RUNNING
    for _ in range(3):
        reaper.run_once()
        clock.now += LEASE / 2
    observer.run_once()
    assert find(spool, id).state is State.INCOMING
    assert left(spool) == [False, False, False]


def test_a_file_of_a_user_is_not_removed_with_a_worker(spool: Spool, clock: Clock) -> None:
    leave(spool)
    (spool.running / POD / "notes.txt").write_text("why it died")
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert (spool.running / POD / "notes.txt").read_text() == "why it died"


def test_a_worker_that_holds_its_lock_stays(spool: Spool, clock: Clock) -> None:
    leave(spool)
    lock = WorkerLock.take(spool, POD)
    assert lock is not None
    with lock:
        pass_silence(Retirement(spool, lease=LEASE), clock)
    assert left(spool) == [True, True, True]


def test_a_worker_of_this_host_stays_for_its_operator_to_see(spool: Spool, clock: Clock) -> None:
    leave(spool, ME)
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert left(spool, ME) == [True, True, True]


def test_no_other_file_is_taken_for_that_of_a_worker(spool: Spool, clock: Clock) -> None:
    others = [spool.locks / "webhooks", spool.locks / "webhooks.json", spool.workers / "notes.txt"]
    for path in others:
        path.touch()
    (spool.running / "mine").mkdir()
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert all(path.exists() for path in [*others, spool.running / "mine"])


KEPT = "node7-before-upgrade.gpu0"


def test_a_users_file_under_the_name_of_a_worker_stays(
    spool: Spool, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    notes, note = spool.workers / f"{KEPT}.json", spool.locks / "note.gpu1"
    notes.write_text("the driver was 550")
    note.write_text("keep me")
    copy = spool.workers / "copy.gpu0.json"
    leave(spool)
    shutil.copy(spool.workers / f"{POD}.json", copy)
    folders = [spool.running / name for name in (KEPT, "note.gpu1", "empty.gpu0")]
    folders += [spool.locks / "folder.gpu0", spool.workers / "folder.gpu1.json"]
    for folder in folders:
        folder.mkdir()
    caplog.set_level(logging.INFO)
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert notes.read_text() == "the driver was 550"
    assert note.read_text() == "keep me"
    assert copy.exists()
    assert all(folder.is_dir() for folder in folders)
    assert sorted(os.listdir(spool.locks)) == ["folder.gpu0", "note.gpu1"]
    assert f"{KEPT} is not retired: a file of that name is no worker's" in caplog.text
    assert left(spool) == [False, False, False]


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "EISDIR"])
@pytest.mark.parametrize("failing", ["heartbeat", "take"])
def test_a_worker_that_cannot_be_retired_delays_no_other(
    spool: Spool,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    code: str,
    failing: str,
) -> None:
    workers = ["a.gpu0", "b.gpu0", "c.gpu0"]
    for worker in workers:
        leave(spool, worker)
    place = retirement if failing == "heartbeat" else WorkerLock
    call = getattr(place, failing)
    number = getattr(errno, code)

    def fail_for_b(spool: Spool, worker: str) -> object:
        if worker == "b.gpu0":
            raise OSError(number, os.strerror(number))
        return call(spool, worker)

    observer = Retirement(spool, lease=LEASE)
    with mock.patch.object(place, failing, fail_for_b):
        pass_silence(observer, clock)
    assert [any(left(spool, worker)) for worker in workers] == [False, True, False]
    assert "worker b.gpu0 cannot be retired" in caplog.text
    pass_silence(observer, clock)
    assert left(spool, "b.gpu0") == [False, False, False]


def test_a_dead_worker_of_a_host_that_lives_stays_for_its_operator_to_see(
    spool: Spool, clock: Clock
) -> None:
    dead, living = "node7.gpu3", "node7.gpu0"
    leave(spool, dead)
    leave(spool, living)
    observer = Retirement(spool, lease=LEASE)
    observer.run_once()
    clock.now += SILENCE
    write_worker(spool, living)
    observer.run_once()
    assert left(spool, dead) == [True, True, True]
    clock.now += SILENCE
    observer.run_once()
    assert left(spool, dead) == left(spool, living) == [False, False, False]


@pytest.mark.parametrize("calls", range(3))
def test_who_dies_while_it_retires_leaves_the_rest_to_the_next(
    spool: Spool, clock: Clock, calls: int
) -> None:
    leave(spool)
    observer = Retirement(spool, lease=LEASE)
    observer.run_once()
    clock.now += SILENCE
    done = 0

    def dying(call: object) -> object:
        def die_or_call(*arguments: object, **more: object) -> object:
            nonlocal done
            if done == calls:
                raise KeyboardInterrupt
            done += 1
            return call(*arguments, **more)  # type: ignore[operator]

        return die_or_call

    with (
        mock.patch.object(os, "rmdir", dying(os.rmdir)),
        mock.patch.object(os, "unlink", dying(os.unlink)),
        pytest.raises(KeyboardInterrupt),
    ):
        observer.run_once()
    assert left(spool) == [calls < 1, calls < 2, True]
    pass_silence(Retirement(spool, lease=LEASE), clock)
    assert left(spool) == [False, False, False]


def test_a_worker_that_starts_at_that_moment_loses_nothing(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts again and again, while two processes retire it all the time."""
    monkeypatch.setattr(retirement, "RETIRE_LEASES", 0)
    stop = threading.Event()
    retired = []

    def retire() -> None:
        observer = Retirement(spool, lease=LEASE)
        while not stop.is_set():
            observer.run_once()
            retired.append(1)

    threads = [threading.Thread(target=retire) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            id = submit_job()
            while (lock := WorkerLock.take(spool, POD)) is None:
                pass
            with lock:
                write_worker(spool, POD)
                spool.create_worker(POD)
                claim = claim_next(spool, POD)
                assert claim.id == id
                assert left(spool) == [True, True, True]
                assert lock.is_in_place()
                claim.release(uncount_attempt=True)
            os.rename(spool.incoming / id, spool.done / id)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert retired
