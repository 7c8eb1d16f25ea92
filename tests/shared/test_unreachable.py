"""The file server is away for a while. It is the last of this lane: after an outage a server of NFS
opens no file for some seconds, so that its clients can claim theirs back."""

import threading
import time
from pathlib import Path
from typing import Self

import pytest

from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import LivenessTracker, WorkerState, WorkerStatus, write_status
from tests.shared.test_daemons import Services, result_of, submit_on, work_at
from tests.support.hosts import SharedFolder
from tests.support.service import wait_until

LEASE, OUTAGE = 5, 8
"""Seconds. The server is away for longer than a worker may be silent."""


class Observer:
    """Looks for dead workers again and again, as the reaper does, in a thread of its own."""

    def __init__(self, spool: Spool, *, lease: float) -> None:
        self._tracker = LivenessTracker(spool, lease=lease)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self.dead: list[str] = []

    def _look(self) -> None:
        while not self._stopping.wait(0.2):
            self.dead += self._tracker.dead()
            self.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


def test_an_outage_that_is_longer_than_the_lease_is_no_silence_of_a_worker(
    shared: SharedFolder, spools: tuple[Spool, Spool]
) -> None:
    if not shared.has_server:
        pytest.skip("a local folder has no server that could be away")
    here, there = spools
    worker = "h1.gpu0"
    here.create_worker(worker)
    status = WorkerStatus(
        worker=worker, state=WorkerState.READY, pid=1, gpu_id=0, engine="none", model="none"
    )
    write_status(here, status)
    with Observer(there, lease=LEASE) as observer:
        wait_until(lambda: observer.looks > 3)
        shared.stop_server()
        time.sleep(OUTAGE)  # it is what the test is about
        assert observer.dead == []
        shared.start_server()
        before = observer.looks
        wait_until(lambda: observer.looks > before + 3, seconds=90)
        assert observer.dead == []
        # It is silent while the server answers: so it is dead.
        wait_until(lambda: observer.dead, seconds=60)


@pytest.mark.long
def test_workers_go_on_after_an_outage_of_the_server(
    shared: SharedFolder, services: Services, picture: Path
) -> None:
    if not shared.has_server:
        pytest.skip("a local folder has no server that could be away")
    here, there = services
    id = submit_on(here, picture, steps=100)
    workers = [work_at(here, id), there.work("1", engine="quick")]
    shared.stop_server()
    time.sleep(30)  # it is what the test is about
    shared.start_server()
    result = result_of(there, id)
    assert (result["worker"], result["attempt"]) == (here.worker(), 1)
    next_id = submit_on(there, picture, steps=10)
    assert result_of(here, next_id)["attempt"] == 1
    assert [worker.poll() for worker in workers] == [None, None]
