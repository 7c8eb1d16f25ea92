"""The heartbeat: what a worker shows of itself, to the spool and to systemd.

It is fed from the main loop and, during an edit, from the engine's steps: never by a timer, which
would go on beating over a GPU that hangs.
"""

import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from i2ii_spool.engines.base import EngineInfo
from i2ii_spool.errors import DISK_FULL_ERRNOS
from i2ii_spool.host.gpus import GpuMonitor
from i2ii_spool.host.systemd import extend_timeout, sd_notify
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerState, WorkerStatus, delete_status, write_status

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
LOADING_CHECK_SECONDS, LOADING_EXTEND_SECONDS = 5.0, 60.0
MIN_WORK = 0.05
"""In an interval, of processor seconds and pages read: less than that is a process that waits for
something."""


class Heartbeat:
    """Writes `workers/<worker>.json` when something changes, and at least once a second while
    beaten."""

    def __init__(
        self,
        spool: Spool,
        worker: str,
        gpu_id: int | str | None,
        info: EngineInfo,
        monitor: GpuMonitor | None,
    ) -> None:
        self._spool = spool
        self._monitor = monitor
        self._next = 0.0
        self._lock = threading.Lock()  # a result is saved, and counted, in a thread of its own
        self.status = WorkerStatus(
            worker=worker,
            state=WorkerState.LOADING,
            pid=os.getpid(),
            gpu_id=gpu_id,
            engine=info.engine,
            model=info.model,
        )

    def tick(self) -> None:
        """Show that we live."""
        if time.monotonic() >= self._next:
            self.publish()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While the engine loads, which may take minutes: beat, and ask systemd for more time, as
        long as this process gets on. Loading is the one thing that a timer beats for: it tells no
        steps, and no job waits for it yet."""
        done = threading.Event()
        timer = threading.Thread(
            target=self._tick_while_loading, args=(done,), name="loading", daemon=True
        )
        timer.start()
        try:
            yield
        finally:
            done.set()
            timer.join()

    def _tick_while_loading(self, done: threading.Event) -> None:
        started = time.monotonic()
        before = _work_done()
        while not done.wait(LOADING_CHECK_SECONDS):
            if (now := _work_done()) > before + MIN_WORK:
                self.publish()
                extend_timeout(
                    LOADING_EXTEND_SECONDS, STATUS=f"loading for {time.monotonic() - started:.0f} s"
                )
            before = now

    def publish(self, **changes: Any) -> None:
        """Show these changes of the status, now."""
        with self._lock:
            self._publish(**changes)

    def update(self, **changes: Any) -> None:
        """Take these changes into the status; they are shown with the next beat, or with the next
        change."""
        with self._lock:
            self._update(**changes)

    def step(self, step: int, steps: int) -> None:
        """Show how far the current job is, at most once a second."""
        with self._lock:
            self.status = self.status.model_copy(update={"step": step, "steps": steps})
        self.tick()

    def count_done(self, seconds: float) -> None:
        """Take note that a job is done, which took so many seconds."""
        with self._lock:
            mean = self.status.mean_job_seconds
            mean = seconds if mean is None else 0.8 * mean + 0.2 * seconds
            self._update(
                jobs_done=self.status.jobs_done + 1, mean_job_seconds=round(mean, 4), note=""
            )

    def count_failed(self) -> None:
        """Show that a job has failed."""
        with self._lock:
            self._publish(jobs_failed=self.status.jobs_failed + 1)

    def stop(self) -> None:
        """Remove the status file: this worker is no more."""
        delete_status(self._spool, self.status.worker)

    def _update(self, **changes: Any) -> None:
        self.status = self.status.model_copy(update=changes)
        self._next = 0.0

    def _publish(self, **changes: Any) -> None:
        load = {} if self._monitor is None else asdict(self._monitor.read())
        self.status = self.status.model_copy(update={**load, **changes})
        self._next = time.monotonic() + HEARTBEAT_SECONDS
        try:
            write_status(self._spool, self.status)
        except OSError as error:  # a full disk does not stop a job for want of a heartbeat
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            log.warning("the heartbeat cannot be shown: %s", error.strerror)
        sd_notify(WATCHDOG=1, STATUS=self._sentence())

    def _sentence(self) -> str:
        if self.status.job is None:
            return f"{self.status.state}, {self.status.jobs_done} done, {self.status.jobs_failed} failed"
        return f"job {self.status.job}, step {self.status.step} of {self.status.steps}"


def _work_done() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime + usage.ru_majflt + usage.ru_inblock
