"""Which workers are alive, to one who looks again and again."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from i2ii_spool.spool import hosts, liveness
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    LivenessTracker,
    WorkerLock,
    WorkerObserver,
    worker_name,
)
from tests.support.jobs import names_in
from tests.support.seams import failing_call, on_network
from tests.support.workers import write_worker

ELSEWHERE = "elsewhere.gpu0"
HERE = ("node1.a", "1111")


def look(observer: WorkerObserver) -> tuple[bool, float]:
    (worker,) = observer.look()
    return worker.alive, round(worker.heartbeat_age)


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_the_clock_of_another_host_counts_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = time.time() + skew
    write_worker(spool, ELSEWHERE, at=written)
    observer = WorkerObserver(spool, lease=60)
    observer.look()
    for second in range(3):
        now += 1
        write_worker(spool, ELSEWHERE, at=written + second + 1)
        assert look(observer) == (True, 0)
    now += 59
    assert look(observer) == (True, 59)
    now += 1
    assert look(observer) == (False, 60)
    now += 10**6
    write_worker(spool, ELSEWHERE, at=written + 4)
    assert look(observer) == (True, 0)


def test_a_clock_that_is_set_while_a_server_runs_kills_no_worker(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worker(spool, ELSEWHERE)
    observer = WorkerObserver(spool, lease=60)
    assert look(observer) == (True, 0)
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + 86400)
    assert look(observer) == (True, 0)


def test_a_first_look_reads_the_clock_of_the_file_server(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = time.time()
    monkeypatch.setattr(time, "time", lambda: moment + 86400)  # that of this host is wrong
    with on_network(*HERE):
        write_worker(spool, ELSEWHERE, at=moment - 50)
        (worker,) = WorkerObserver(spool, lease=60).look()
        assert worker.alive
        assert 49 < worker.heartbeat_age < 59
        assert moment + 86400 - worker.heartbeat_at == pytest.approx(worker.heartbeat_age)
        write_worker(spool, ELSEWHERE, at=moment - 70)
        assert look(WorkerObserver(spool, lease=60))[0] is False
    assert names_in(spool.staging) == []


def test_a_first_look_needs_no_right_to_write(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    write_worker(spool, ELSEWHERE)
    monkeypatch.setattr(liveness, "create_file", refuse)
    with on_network(*HERE):
        assert look(WorkerObserver(spool, lease=60)) == (True, 0)


class Looks:
    """Looks for dead workers every ten seconds, on a clock of its own."""

    def __init__(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        (spool.running / ELSEWHERE).mkdir()
        write_worker(spool, ELSEWHERE)
        self._tracker = LivenessTracker(spool, lease=60)

    def times(self, count: int) -> list[str]:
        for _ in range(count):
            dead = self._tracker.dead()
            self.now += 10
        return dead


def test_a_worker_is_dead_that_is_silent_while_files_can_be_written(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(spool, monkeypatch)
    with on_network(*HERE):
        assert looks.times(6) == []
        assert looks.times(1) == [ELSEWHERE]
        write_worker(spool, ELSEWHERE, at=time.time() + 1)
        assert looks.times(6) == []


@pytest.mark.parametrize("outage", ["refuses", "hangs"])
@pytest.mark.parametrize("call", ["worker_folders", "create_file"])
def test_an_outage_of_the_file_server_is_no_silence_of_a_worker(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, outage: str, call: str
) -> None:
    looks = Looks(spool, monkeypatch)
    served = getattr(liveness, call)

    def answer_late(*arguments: Any) -> Any:
        looks.now += 50
        if outage == "refuses":
            raise OSError(errno.EIO, "Input/output error")
        return served(*arguments)

    with on_network(*HERE):
        assert looks.times(4) == []
        with monkeypatch.context() as away:
            away.setattr(liveness, call, answer_late)
            for _ in range(3):
                with suppress(OSError):  # which the reaper tells, and looks again
                    assert looks.times(1) == []
        assert looks.times(3) == []
        assert looks.times(1) == [ELSEWHERE]
    assert names_in(spool.staging) == []


def test_a_file_server_that_stays_slow_is_told_once_a_lease(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = Looks(spool, monkeypatch)
    served = liveness.worker_folders

    def answer_late(spool: Spool) -> list[Path]:
        looks.now += 5
        return served(spool)

    with on_network(*HERE):
        with monkeypatch.context() as slow:
            slow.setattr(liveness, "worker_folders", answer_late)
            looks.times(3)
            assert caplog.messages == []
            assert looks.times(6) == []
        assert [message.partition(" the file server")[0] for message in caplog.messages] == [
            "for 65 s",
            "for 60 s",
        ]
        caplog.clear()
        looks.times(12)
    assert caplog.messages == []


def test_a_full_disk_is_no_silence_of_a_worker(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(spool, monkeypatch)
    with on_network(*HERE):
        looks.times(1)
        with failing_call(os, "write", "ENOSPC"):
            assert looks.times(20) == []
    assert names_in(spool.staging) == []


def test_a_worker_whose_heartbeat_cannot_be_read_hides_no_other(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(spool, monkeypatch)
    (spool.running / "sick.gpu0").mkdir()
    read = liveness.heartbeat

    def fail(spool: Spool, worker: str) -> int | None:
        if worker == "sick.gpu0":
            raise OSError(errno.EIO, "Input/output error")
        return read(spool, worker)

    monkeypatch.setattr(liveness, "heartbeat", fail)
    assert looks.times(7) == [ELSEWHERE]


def test_a_sleep_of_the_observer_is_no_silence_of_a_worker(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(spool, monkeypatch)
    looks.times(2)
    looks.now += 86400
    assert looks.times(1) == []


@pytest.mark.parametrize(
    ("host", "boot_id", "is_local"),
    [
        ("node1.a", "1111", True),
        ("node1.b", "2222", False),  # another host, or a cloned image
        ("node1.a", "2222", False),  # likewise, or this host before it booted
        ("node1.b", "1111", False),  # a host that is played by namespaces
        ("", "", False),  # of an older version: its heartbeat tells
    ],
)
def test_a_free_lock_is_a_death_on_the_same_host_only(
    spool: Spool, host: str, boot_id: str, *, is_local: bool
) -> None:
    write_worker(spool, "node1.gpu0", host=host, boot_id=boot_id)
    (spool.running / "node1.gpu0").mkdir()
    with on_network(*HERE):
        assert worker_name("gpu0") == "node1.gpu0"
        tracker = LivenessTracker(spool, lease=60)
        assert (tracker.dead() == ["node1.gpu0"]) == is_local
        assert look(WorkerObserver(spool, lease=60))[0] is not is_local


def test_a_host_that_does_not_know_itself_trusts_heartbeats(spool: Spool) -> None:
    """A sandbox hides /proc/sys."""
    write_worker(spool, "node1.gpu0", host="node1.a", boot_id="1111")
    with on_network("node1.a", ""):
        assert not hosts.is_local(spool, "node1.gpu0")
    assert hosts.is_local(spool, worker_name("gpu0"))


def test_on_a_local_file_system_every_worker_of_this_name_is_local(spool: Spool) -> None:
    write_worker(spool, worker_name("gpu0"), host="renamed", boot_id="0000")
    assert hosts.is_local(spool, worker_name("gpu0"))
    assert not hosts.is_local(spool, ELSEWHERE)


def test_a_lock_whose_file_was_removed_is_taken_again(spool: Spool) -> None:
    first = WorkerLock.take(spool, ELSEWHERE)
    assert first is not None
    first.remove()
    assert not first.is_in_place()
    second = WorkerLock.take(spool, ELSEWHERE)
    assert second is not None
    assert second.is_in_place()
    assert WorkerLock.take(spool, ELSEWHERE) is None
