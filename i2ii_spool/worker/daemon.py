"""The worker: one process, one GPU, one job at a time.

    run
      startup      acquire the lock, recover the jobs of an earlier run, load the engine; READY=1
      main loop    claim, edit; the result is encoded and committed while the next job starts
      shutdown     finish or release the job, remove the status file

A signal sets the deadline of the stop, and tells systemd how long it may take. The current job
finishes if it fits into the drain time; else the worker releases it at its next step. A second
signal releases it at once. An I/O error of the spool ends the process; systemd starts it again, and
it recovers what it held.
"""

import logging
import queue
import signal
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType

from PIL.Image import Image

from i2ii_spool import __version__
from i2ii_spool.engines.base import Engine
from i2ii_spool.errors import (
    ClaimLost,
    DiskFull,
    EngineBroken,
    EngineError,
    I2iiError,
)
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.host.gpus import Device, Gpu, GpuMonitor
from i2ii_spool.host.systemd import extend_timeout, sd_notify
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import check_disk
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerLock, WorkerState, worker_name
from i2ii_spool.spool.maintenance import Maintenance
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.watch import Watcher
from i2ii_spool.worker.heartbeat import Heartbeat
from i2ii_spool.worker.job_run import JobRun, SpoolFailed

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
FAILURES_UNTIL_DEGRADED = 3
DEGRADED_PAUSE_SECONDS = 30.0
DISK_FULL_PAUSE_SECONDS = 5.0
LAST_STEP_SECONDS = 60.0
"""For a step that outlasts the drain time, and for saving a result."""


class StopDeadlinePassed(Exception):
    """The worker stops, and the current job would not finish in time."""


class Worker:
    """The daemon of one GPU. With `burst` it ends when no job waits."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        gpu: Gpu,
        device: Device | None = None,
        *,
        burst: bool = False,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._burst = burst
        self._spool = Spool(settings.spool)
        self.name = worker_name(gpu.unit)
        self._gpu = gpu
        self._device = device
        self._wakeups: queue.SimpleQueue[str] = (
            queue.SimpleQueue()
        )  # its put() is safe in a signal handler
        self._stopping = False
        self._stop_deadline = float("inf")
        self._broken: EngineBroken | None = None
        self._failed_in_a_row: set[str] = set()
        self._paused_until = 0.0

    def run(self) -> None:
        """Work until stopped.

        Raises `EngineBroken` if the process must start again, and what the disk of the spool says.
        """
        self._spool.create()
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            lock = self._acquire_lock()
            if lock is None:
                return
            stack.enter_context(lock)
            self._startup(stack)
            try:
                self._main_loop()
            finally:
                self._shutdown()
        if self._broken is not None:
            raise self._broken

    # --- startup ----------------------------------------------------------------------------------

    def _acquire_lock(self) -> WorkerLock | None:
        """Return the lock of this worker's name; None if it was stopped during the wait."""
        warn_at = time.monotonic() + POLL_SECONDS
        while not self._stopping:
            lock = WorkerLock.take(self._spool, self.name)
            if lock is not None:
                lock.sign()
                return lock
            if time.monotonic() >= warn_at:
                holder = (self._spool.locks / self.name).read_text().strip()
                log.warning(
                    "worker %s runs as process %s; waiting for it to end", self.name, holder
                )
                warn_at += 60
            self._sleep(0.05)
        return None

    def _startup(self, stack: ExitStack) -> None:
        info = self._engine.info
        monitor = None
        if self._device is not None:
            monitor = GpuMonitor(self._device, optional=info.engine == "classic")
        self._heartbeat = Heartbeat(self._spool, self.name, self._gpu.id, info, monitor)
        stack.callback(self._heartbeat.stop)
        self._heartbeat.publish(state=WorkerState.LOADING)
        self._spool.create_worker(self.name)
        recover(self._spool, self.name, max_attempts=self._settings.max_attempts)
        self._claims = Claims(self._spool, self.name, max_attempts=self._settings.max_attempts)
        started = time.monotonic()
        with self._heartbeat.ticking_while("loading", lambda: True):
            self._engine.load()
        info = self._engine.info
        stack.callback(self._engine.close)
        stack.enter_context(Maintenance(self._spool, self._settings))
        stack.enter_context(Watcher([self._spool.incoming], self._wakeups.put))
        self._saver = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="save"))
        self._saving: Future[None] | None = None
        self._heartbeat.publish(state=WorkerState.READY, max_images=info.max_images)
        sd_notify(READY=1)
        took = time.monotonic() - started
        log.info(
            "%s ready: i2ii %s, %s engine, loaded in %.2f s",
            self.name,
            __version__,
            info.engine,
            took,
        )

    # --- main loop --------------------------------------------------------------------------------

    def _main_loop(self) -> None:
        while not self._stopping:
            self._raise_if_saving_failed()
            claim = self._next_claim() if self._may_claim() else None
            if claim is not None:
                self._run_job(claim)
            elif self._burst:
                break
            else:
                self._heartbeat.tick()
                self._sleep(POLL_SECONDS)

    def _may_claim(self) -> bool:
        """True unless paused, or the disk is below min_free / 2. (Submits stop at min_free.)"""
        if time.monotonic() < self._paused_until:
            return False
        try:
            check_disk(self._spool, min_free=self._settings.min_free // 2)
        except DiskFull as error:
            self._pause(DISK_FULL_PAUSE_SECONDS, str(error))
            return False
        if self._heartbeat.status.state is WorkerState.DEGRADED:
            self._heartbeat.publish(state=WorkerState.READY, note="")
        return True

    def _next_claim(self) -> Claim | None:
        while True:
            try:
                self._claims.backlog.hint(self._wakeups.get_nowait())
            except queue.Empty:
                return self._claims.next()

    def _sleep(self, seconds: float) -> None:
        """Wait until a job arrives, a signal comes, or the time is over."""
        try:
            self._wakeups.put(self._wakeups.get(timeout=seconds))  # for `_next_claim` to read
        except queue.Empty:
            return

    def _run_job(self, claim: Claim) -> None:
        self._heartbeat.publish(state=WorkerState.RUNNING, job=claim.id, step=0, steps=0)
        try:
            self._edit(claim)
        except ClaimLost as error:
            self._log_lost(claim, error)
        paused = time.monotonic() < self._paused_until
        state = WorkerState.DEGRADED if paused else WorkerState.READY
        self._heartbeat.update(state=state, job=None, step=0, steps=0)

    def _edit(self, claim: Claim) -> None:
        run = JobRun(claim, self._on_step, max_pixels=self._settings.max_pixels)
        try:
            with self._heartbeat.ticking_while("compiling", lambda: self._engine.compiling):
                edited = run.edit(self._engine, run.load())
        except (ClaimLost, SpoolFailed):
            raise
        except StopDeadlinePassed:
            claim.release(uncount_attempt=True)
        except EngineBroken as error:
            log.error("the engine is broken: %s", error)
            claim.release(uncount_attempt=False)  # this job may be what breaks the engine
            self._broken = error
            self._stop()
        except Exception as error:
            self._fail(claim, error)
        else:
            # Encoding and commit run in the background: the GPU does not wait for a PNG. At most
            # one result waits to be saved.
            self._failed_in_a_row.clear()
            self._raise_if_saving_failed(wait=True)
            self._saving = self._saver.submit(self._save, run, edited)

    def _on_step(self, step: int, steps: int, eta: float) -> None:
        self._heartbeat.step(step, steps)
        if time.monotonic() + eta > self._stop_deadline:
            raise StopDeadlinePassed

    # --- endings ----------------------------------------------------------------------------------

    def _save(self, run: JobRun, edited: list[Image]) -> None:
        claim = run.claim
        try:
            try:
                files = run.encode(edited)
            except Exception as error:  # a picture that its format cannot hold
                self._fail(claim, error)
                return
            timings = run.save(files, self._heartbeat.status)
        except ClaimLost as error:
            self._log_lost(claim, error)
            return
        total = timings.load + timings.edit + timings.save
        self._heartbeat.count_done(total)
        log.info(
            "job %s done in %.2f s (queue %.2f, load %.2f, edit %.2f, save %.2f)",
            *(claim.id, total, timings.queue, timings.load, timings.edit, timings.save),
            extra=fields(JobEvent.COMPLETED, claim.id, self.name),
        )

    def _raise_if_saving_failed(self, *, wait: bool = False) -> None:
        if self._saving is not None and (wait or self._saving.done()):
            saving, self._saving = self._saving, None
            saving.result()

    def _log_lost(self, claim: Claim, error: ClaimLost) -> None:
        log.warning("%s", error, extra=fields(JobEvent.CLAIM_LOST, claim.id, self.name))

    def _fail(self, claim: Claim, error: Exception) -> None:
        trace = ""
        if not isinstance(error, I2iiError):
            trace = "".join(traceback.format_exception(error))
            error = EngineError(f"{type(error).__name__}: {error}")
        claim.fail(error, trace)
        self._heartbeat.count_failed()
        if isinstance(error, EngineError) and error.suspects_worker:
            self._count_failure(claim.id)

    def _count_failure(self, id: str) -> None:
        """Pause when several jobs fail in a row: then this worker is at fault, and not the job."""
        self._failed_in_a_row.add(id)
        if len(self._failed_in_a_row) >= FAILURES_UNTIL_DEGRADED:
            note = f"the last {len(self._failed_in_a_row)} jobs failed"
            self._pause(DEGRADED_PAUSE_SECONDS, note)

    def _pause(self, seconds: float, note: str) -> None:
        if self._heartbeat.status.state is not WorkerState.DEGRADED:
            log.error("degraded: %s; pausing for %.0f s", note, seconds)
        self._paused_until = time.monotonic() + seconds
        self._heartbeat.publish(state=WorkerState.DEGRADED, note=note)

    # --- shutdown ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop after the drain time; on the second call, at once."""
        if self._stopping:
            self._stop_deadline = time.monotonic()
        else:
            self._stopping = True
            extend_timeout(self._settings.drain_seconds + LAST_STEP_SECONDS, STOPPING=1)
            self._stop_deadline = time.monotonic() + self._settings.drain_seconds
        self._wakeups.put("")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self._stop()

        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _shutdown(self) -> None:
        sd_notify(STOPPING=1)
        self._heartbeat.publish(state=WorkerState.STOPPING)
        self._raise_if_saving_failed(wait=True)
        self._heartbeat.publish()
        status = self._heartbeat.status
        log.info(
            "%s stopped: %d jobs done, %d failed", self.name, status.jobs_done, status.jobs_failed
        )
