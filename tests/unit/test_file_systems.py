"""What the spool does on a file system that lacks a call."""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.errors import SpoolUnusable
from i2ii_spool.jobs.folder import read_record
from i2ii_spool.spool import durable_io, idempotency, layout, liveness
from i2ii_spool.spool.hosts import heartbeat
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerLock, WorkerState, WorkerStatus, write_status
from i2ii_spool.spool.lookup import find
from i2ii_spool.spool.recovery import Reaper
from i2ii_spool.spool.retention import RetentionPolicy, prune
from i2ii_spool.spool.status import read_status
from tests.support.jobs import ME, SubmitJob, claim_next, finish
from tests.support.seams import failing_call, on_file_system, on_network

NO_LOCKS = ["ENOLCK", "ENOSYS", "ENOTSUP", "EACCES"]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_a_worker_does_not_start_without_locks(spool: Spool, code: str) -> None:
    with (
        failing_call(fcntl, "flock", code),
        on_file_system(liveness, "lustre"),
        pytest.raises(SpoolUnusable, match=r"\.lock is on lustre without locks .*-o flock"),
    ):
        WorkerLock.take(spool, ME)


@pytest.mark.parametrize("code", NO_LOCKS)
def test_without_locks_a_local_worker_is_dead_after_its_lease(
    spool: Spool,
    submit_job: SubmitJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: str,
) -> None:
    id = submit_job()
    claim_next(spool)
    (spool.locks / ME).touch()
    (spool.workers / f"{ME}.json").touch()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with failing_call(fcntl, "flock", code), caplog.at_level(logging.WARNING, liveness.__name__):
        reaper = Reaper(spool, max_attempts=3, lease=60)
        for _ in range(7):
            reaper.run_once()
            assert find(spool, id).state is State.RUNNING
            now += 9
        reaper.run_once()
    assert find(spool, id).state is State.INCOMING
    said = [each.message for each in caplog.records if "without locks" in each.message]
    assert len(said) == 1
    assert "counts as dead after the lease" in said[0]


def test_without_locks_a_worker_that_beats_is_alive(spool: Spool) -> None:
    (spool.locks / ME).touch()
    write_status(
        spool,
        WorkerStatus(worker=ME, state=WorkerState.READY, pid=1, gpu_id=0, engine="x", model="x"),
    )
    with failing_call(fcntl, "flock", "ENOLCK"):
        [worker] = liveness.list_workers(spool, lease=60)
        assert worker.alive
        os.utime(spool.workers / f"{ME}.json", (0, 0))
        [worker] = liveness.list_workers(spool, lease=60)
        assert not worker.alive


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS"])
def test_a_file_system_need_not_sync_folders(tmp_path: Path, code: str) -> None:
    with failing_call(os, "fsync", code):
        durable_io.sync_folder(tmp_path)


@pytest.mark.parametrize("code", ["EBADF", "EACCES"])
def test_only_a_network_file_system_may_refuse_to_sync_a_folder(tmp_path: Path, code: str) -> None:
    with failing_call(os, "fsync", code):
        with on_file_system(durable_io, "cifs"):
            durable_io.sync_folder(tmp_path)
        with pytest.raises(OSError, match=rf"Errno {getattr(errno, code)}"):
            durable_io.sync_folder(tmp_path)


@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "ESTALE"])
def test_a_folder_that_was_not_synced_is_no_success(tmp_path: Path, code: str) -> None:
    with (
        failing_call(os, "fsync", code),
        on_file_system(durable_io, "nfs4"),
        pytest.raises(OSError, match=rf"Errno {getattr(errno, code)}"),
    ):
        durable_io.sync_folder(tmp_path)


@pytest.mark.parametrize("code", ["EPERM", "ENOTSUP", "ENOSYS"])
def test_without_hard_links_a_key_is_refused(spool: Spool, code: str) -> None:
    record = idempotency.KeyRecord(id="20261123-101530-482-k7m2qf", digest="0")
    with (
        failing_call(os, "link", code),
        on_file_system(idempotency, "cifs"),
        pytest.raises(SpoolUnusable, match=r"and cifs makes none .*: send the job without the key"),
    ):
        idempotency.reserve(spool, "", "once", record)
    assert os.listdir(spool.keys) == []


def test_a_folder_that_would_be_open_to_others_is_not_used(spool: Spool) -> None:
    before = os.umask(0o022)
    try:
        with (
            failing_call(os, "chmod", "EPERM"),
            on_file_system(layout, "cifs"),
            pytest.raises(SpoolUnusable, match="cifs refuses mode 2770 for a new folder"),
        ):
            layout.create_folder(spool.staging / "new")
    finally:
        os.umask(before)
    assert os.listdir(spool.staging) == []


def fail_first(call: Callable[..., Any], times: int, code: str) -> Callable[..., Any]:
    """The call, which fails with this error the first times."""
    number = getattr(errno, code)
    errors = [OSError(number, os.strerror(number)) for _ in range(times)]

    def called(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*arguments, **options)

    return called


@pytest.mark.parametrize(
    ("call", "code"), [("open", "ESTALE"), ("fstat", "ESTALE"), ("fstat", "ENOENT")]
)
def test_a_file_that_is_replaced_while_it_is_opened_is_read(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, code: str
) -> None:
    status = WorkerStatus(
        worker=ME, state=WorkerState.READY, pid=1, gpu_id=0, engine="x", model="x"
    )
    write_status(spool, status)
    path = spool.workers / f"{ME}.json"
    text, beat = path.read_bytes(), heartbeat(spool, ME)
    for read, answer in ((lambda: read_record(path), text), (lambda: heartbeat(spool, ME), beat)):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail_first(getattr(os, call), 2, code))
            assert read() == answer


@pytest.mark.parametrize("call", ["lstat", "open", "listdir"])
def test_a_job_that_another_host_has_just_moved_is_told(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    id = submit_job()
    claim_next(spool)
    with on_network("node1", "1111"), monkeypatch.context() as patch:
        patch.setattr(os, call, fail_first(getattr(os, call), 3, "ESTALE"))
        status = read_status(spool, id)
    assert (status.status, status.attempts, status.prompt) == ("running", 1, "sepia")


def test_a_job_that_was_moved_meanwhile_hinders_no_pruning(
    spool: Spool, submit_job: SubmitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit_job()
    finish(claim_next(spool))
    stat = Path.stat
    stale_once = fail_first(stat, 1, "ESTALE")

    def stat_record(path: Path, **options: Any) -> os.stat_result:
        return stale_once(path) if path.name == "result.json" else stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_record)
    assert prune(spool, RetentionPolicy(age=-1.0)) == [id]


def test_a_file_that_stays_stale_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.touch()
    with failing_call(os, "open", "ESTALE"), pytest.raises(OSError, match="Stale file handle"):
        read_record(file)
