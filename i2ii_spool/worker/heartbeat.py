"""The heartbeat: what a worker reports of itself, to the spool and to systemd.

The main loop feeds it, and the engine's steps during an edit. A timer does so only while the engine
loads or compiles: else it would go on while a GPU hangs.
"""

import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from i2ii_spool import __version__
from i2ii_spool.engines.base import EngineInfo
from i2ii_spool.errors import DISK_FULL_ERRNOS
from i2ii_spool.host.gpus import GpuMonitor
from i2ii_spool.host.systemd import extend_timeout, sd_notify
from i2ii_spool.spool.hosts import Origin, is_elsewhere
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import (
    JobFailure,
    WorkerState,
    WorkerStatus,
    delete_status,
    write_status,
)
from i2ii_spool.worker.metrics import Metrics

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
RECENT = 5
"""Jobs that are told by their ids."""
CHECK_SECONDS, EXTEND_SECONDS = 5.0, 60.0
MIN_WORK = 0.05
"""Processor seconds and pages read per check. A process that does less is waiting for something."""


class Heartbeat:
    """Writes `workers/<worker>.json`: at each change, and at least once a second while ticked."""

    def __init__(
        self,
        spool: Spool,
        worker: str,
        origin: Origin,
        gpu_id: int | str | None,
        info: EngineInfo,
        monitor: GpuMonitor | None,
        metrics: Metrics,
    ) -> None:
        self._spool = spool
        self._origin = origin
        self._monitor = monitor
        self._metrics = metrics
        self._next = 0.0
        self._lock = threading.Lock()  # results are saved, and counted, in another thread
        self.status = WorkerStatus(
            worker=worker,
            state=WorkerState.LOADING,
            pid=os.getpid(),
            version=__version__,
            **origin.model_dump(),
            gpu_id=gpu_id,
            engine=info.engine,
            model=info.model,
        )

    def tick(self) -> None:
        """Publish the status if the last time is a second ago."""
        if time.monotonic() >= self._next:
            self.publish()

    @contextmanager
    def ticking_while(self, what: str, is_on: Callable[[], bool]) -> Iterator[None]:
        """Publish, and ask systemd for more time, while `is_on()` and the process works.

        `what` is "loading" or "compiling". Both may take minutes without a step, and both are work
        of the processor. A timer ticks for nothing else.
        """
        done = threading.Event()
        timer = threading.Thread(
            target=self._tick_until, args=(done, what, is_on), name=what, daemon=True
        )
        timer.start()
        try:
            yield
        finally:
            done.set()
            timer.join()

    def _tick_until(self, done: threading.Event, what: str, is_on: Callable[[], bool]) -> None:
        started = time.monotonic()
        before = _work_done()
        while not done.wait(CHECK_SECONDS):
            if (now := _work_done()) > before + MIN_WORK and is_on():
                self.publish()
                status = f"{what} for {time.monotonic() - started:.0f} s"
                extend_timeout(EXTEND_SECONDS, STATUS=status)
            before = now

    def publish(self, **changes: Any) -> None:
        """Change the status, and publish it now."""
        with self._lock:
            self._publish(**changes)

    def update(self, **changes: Any) -> None:
        """Change the status; the next tick publishes it."""
        with self._lock:
            self._update(**changes)

    def step(self, step: int, steps: int) -> None:
        """Publish how far the current job is, at most once a second."""
        with self._lock:
            self.status = self.status.model_copy(update={"step": step, "steps": steps})
        self.tick()

    def count_done(self, id: str, seconds: float) -> None:
        """Count a job that is done and took `seconds`."""
        with self._lock:
            mean = self.status.mean_job_seconds
            mean = seconds if mean is None else 0.8 * mean + 0.2 * seconds
            count = self.status.jobs_done + 1
            recent = (*self.status.recent_jobs, id)[-RECENT:]
            self._update(
                jobs_done=count, mean_job_seconds=round(mean, 4), recent_jobs=recent, note=""
            )

    def count_failed(self, id: str, code: str) -> None:
        """Count a job that failed, and publish it."""
        with self._lock:
            recent = (*self.status.recent_failures, JobFailure(job=id, code=code))[-RECENT:]
            count = self.status.jobs_failed + 1
            self._publish(jobs_failed=count, recent_failures=recent)

    def stop(self) -> None:
        """Remove the status file: the worker has stopped. One of another host's worker stays."""
        if not is_elsewhere(self._spool, self.status.worker, self._origin):
            delete_status(self._spool, self.status.worker)

    def _update(self, **changes: Any) -> None:
        self.status = self.status.model_copy(update=changes)
        self._next = 0.0

    def _publish(self, **changes: Any) -> None:
        usage = {} if self._monitor is None else asdict(self._monitor.read())
        self.status = status = self.status.model_copy(
            update={**usage, "metrics": self._metrics.snapshot(), **changes}
        )
        self._next = time.monotonic() + HEARTBEAT_SECONDS
        try:
            write_status(self._spool, self._with_fault(status))
        except OSError as error:  # the job goes on if the disk is full
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            log.warning("the heartbeat cannot be written: %s", error.strerror)
        sentence = f"{status.state}, {status.jobs_done} done, {status.jobs_failed} failed"
        if status.job is not None:
            sentence = f"job {status.job}, step {status.step} of {status.steps}"
        sd_notify(WATCHDOG=1, STATUS=sentence)

    def _with_fault(self, status: WorkerStatus) -> WorkerStatus:
        """Return the status with what is wrong with the GPU, unless it has a note of the worker."""
        if status.note or self._monitor is None:
            return status
        return status.model_copy(update={"note": self._monitor.fault})


def _work_done() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime + usage.ru_majflt + usage.ru_inblock
