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
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType

import PIL.Image
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
from i2ii_spool.host.logging import EventCounter
from i2ii_spool.host.systemd import extend_timeout, sd_notify
from i2ii_spool.images.sandbox import pool
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.settings import Settings
from i2ii_spool.spool.capacity import check_disk
from i2ii_spool.spool.claim import Claim, Claims
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.hosts import NamesakeWatch, Origin, check_not_taken
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerLock, WorkerState, worker_name
from i2ii_spool.spool.maintenance import Maintenance, lease_seconds
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.watch import Watcher
from i2ii_spool.worker.heartbeat import Heartbeat
from i2ii_spool.worker.job_run import JobRun, SpoolFailed
from i2ii_spool.worker.metrics import Metrics
from i2ii_spool.worker.saver import Saver, Saving

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
FAILURES_UNTIL_DEGRADED = 3
DEGRADED_PAUSE_SECONDS = 30.0
DISK_FULL_PAUSE_SECONDS = 5.0
NAME_CHECK_SECONDS = 5.0
NAME_WAIT_SECONDS = 1.0
LAST_WRITES_SECONDS = 10.0
"""Of the time for a stop: to release a job whose result is still being encoded, and to end."""
SELF_TEST = EditRequest(prompt="black and white", num_inference_steps=10)
SELF_TEST_SIDE = 256


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
        self._origin = Origin.here()
        self._gpu = gpu
        self._device = device
        self._wakeups: queue.SimpleQueue[str] = (
            queue.SimpleQueue()
        )  # its put() is safe in a signal handler
        self._stopping = False
        self._stop_deadline = float("inf")
        self._save_deadline = float("inf")
        self._broken: EngineBroken | None = None
        self._failed_in_a_row: set[str] = set()
        self._must_test = False
        self._paused_until = 0.0
        self._check_name_at = 0.0

    def run(self) -> None:
        """Work until stopped.

        Raises `EngineBroken` if the process must start again, `WorkerNameTaken` if another host has
        a worker of this name, and what the disk of the spool says.
        """
        self._spool.create()
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            if not self._acquire_lock():
                return
            stack.callback(lambda: self._lock.release())
            self._startup(stack)
            try:
                self._main_loop()
            finally:
                self._shutdown()
        if self._broken is not None:
            raise self._broken

    # --- startup ----------------------------------------------------------------------------------

    def _acquire_lock(self) -> bool:
        """Acquire this worker's name; return False if it was stopped during the wait."""
        lease = lease_seconds(self._spool, self._settings)
        watch = NamesakeWatch(self._spool, self.name, self._origin, lease=lease)
        lock: WorkerLock | None = None
        warn_at = time.monotonic() + POLL_SECONDS
        while not self._stopping:
            lock = lock or WorkerLock.take(self._spool, self.name)
            if watch.is_free(has_lock=lock is not None) and lock is not None:
                lock.sign()
                self._lock = lock
                return True
            if time.monotonic() >= warn_at:
                self._tell_wait(lease, has_lock=lock is not None)
                warn_at += 60
            self._sleep(0.05 if lock is None else NAME_WAIT_SECONDS)
        return False

    def _tell_wait(self, lease: float, *, has_lock: bool) -> None:
        if has_lock:
            extend_timeout(lease, STATUS="another host had a worker of this name; is it dead?")
            log.warning(
                "another host had a worker %s; starting when it has been silent for %.0f s",
                *(self.name, lease),
            )
            return
        with suppress(FileNotFoundError):  # it has just been removed
            holder = (self._spool.locks / self.name).read_text().strip()
            log.warning("worker %s runs as process %s; waiting for it to end", self.name, holder)

    def _keep_name(self) -> None:
        """Make sure, from time to time, that this worker still has its name.

        A host that was silent for long, or whose locks others do not see, may have been retired.
        Raises `WorkerNameTaken` if a worker of another host has started at the same moment.
        """
        if not self._spool.is_on_network or time.monotonic() < self._check_name_at:
            return
        self._check_name_at = time.monotonic() + NAME_CHECK_SECONDS
        check_not_taken(self._spool, self.name, self._origin)
        if not is_folder(self._spool.running / self.name):
            self._spool.create_worker(self.name)
        if not self._lock.is_in_place():
            self._renew_lock()

    def _renew_lock(self) -> None:
        lock = WorkerLock.take(self._spool, self.name)
        if lock is None:  # one that retires it, for a moment; or another worker of this name
            log.warning(
                "the lock file of worker %s was removed, and another process holds the new one; "
                "trying again in %.0f s",
                *(self.name, NAME_CHECK_SECONDS),
            )
            return
        lock.sign()
        self._lock.release()
        self._lock = lock

    def _startup(self, stack: ExitStack) -> None:
        info = self._engine.info
        monitor = None
        if self._device is not None:
            monitor = GpuMonitor(self._device, optional=info.engine == "classic")
        uuid = "" if self._device is None else self._device.uuid
        self._metrics = metrics = Metrics(stack.enter_context(EventCounter()), uuid)
        self._heartbeat = Heartbeat(
            self._spool, self.name, self._origin, self._gpu.id, info, monitor, metrics
        )
        stack.callback(self._heartbeat.stop)
        self._heartbeat.publish(state=WorkerState.LOADING)
        self._spool.create_worker(self.name)
        recover(self._spool, self.name, max_attempts=self._settings.max_attempts)
        self._claims = Claims(self._spool, self.name, max_attempts=self._settings.max_attempts)
        started = time.monotonic()
        pool.warm_up()
        with self._heartbeat.ticking_while("loading", lambda: True):
            self._engine.load()
        info = self._engine.info
        stack.callback(self._engine.close)
        stack.enter_context(Maintenance(self._spool, self._settings))
        stack.enter_context(Watcher([self._spool.incoming], self._wakeups.put))
        self._saver = Saver(self._heartbeat)
        took = time.monotonic() - started
        self._metrics.load_seconds = round(took, 3)
        self._keep_name()
        told = {"max_images": info.max_images, "offers": info.offers}
        self._heartbeat.publish(state=WorkerState.READY, **told)
        sd_notify(READY=1)
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
            self._saver.raise_if_failed()
            self._keep_name()
            if self._saver.may_kill:
                self._finish_saving()
            claim = self._next_claim() if self._may_claim() else None
            if claim is not None:
                self._run_job(claim)
            elif self._burst:
                break
            else:
                self._heartbeat.tick()
                self._sleep(POLL_SECONDS)

    def _may_claim(self) -> bool:
        """True unless stopping or paused, or the disk is below min_free / 2. (Submits stop at
        min_free.)"""
        if time.monotonic() < self._paused_until:
            return False
        if self._must_test:
            self._test_itself()
        if self._stopping or time.monotonic() < self._paused_until:
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
        run = JobRun(claim, self._on_step, self._settings, is_on_network=self._spool.is_on_network)
        if claim.attempt > 1:  # it may end the worker: nothing else is to be at work then
            self._finish_saving(waiting=claim)
        try:
            with self._heartbeat.ticking_while("compiling", lambda: self._engine.compiling):
                images = run.load()
                self._metrics.begin(run.queue_seconds)
                edited = run.edit(self._engine, images)
        except (ClaimLost, SpoolFailed):
            raise
        except StopDeadlinePassed:
            claim.release(uncount_attempt=True)
        except EngineBroken as error:
            claim.release(uncount_attempt=False)  # this job may be what breaks the engine
            self._end_broken(error)
        except Exception as error:
            self._fail(claim, error)
        else:
            # Encoding and commit run in the background: the GPU does not wait for a PNG. At most
            # one result waits to be saved.
            self._failed_in_a_row.clear()
            self._finish_saving(waiting=claim)
            self._saver.begin(claim, partial(self._save, run, edited))

    def _on_step(self, step: int, steps: int, eta: float) -> None:
        self._metrics.step()
        self._heartbeat.step(step, steps)
        if time.monotonic() + eta > self._stop_deadline:
            raise StopDeadlinePassed

    # --- endings ----------------------------------------------------------------------------------

    def _save(self, run: JobRun, edited: list[Image], saving: Saving) -> None:
        claim = run.claim
        try:
            try:
                files = run.encode(edited)
            except (ClaimLost, SpoolFailed):
                raise
            except Exception as error:  # cancelled; a picture that its format cannot hold
                with saving.ending():
                    self._fail(claim, error)
                return
            with saving.ending():
                timings = run.save(files, self._heartbeat.status)
        except ClaimLost as error:
            self._log_lost(claim, error)
            return
        self._metrics.complete(timings, run.seconds, run.preset, len(files))
        total = timings.load + timings.edit + timings.save
        self._heartbeat.count_done(claim.id, total)
        log.info(
            "job %s done in %.2f s (queue %.2f, load %.2f, edit %.2f, save %.2f)",
            *(claim.id, total, timings.queue, timings.load, timings.edit, timings.save),
            extra=fields(JobEvent.COMPLETED, claim.id, self.name),
        )

    def _finish_saving(self, waiting: Claim | None = None) -> None:
        """Wait for the result that is being saved. A stop does not wait for ever."""
        self._saver.finish(lambda: self._save_deadline, waiting)

    def _log_lost(self, claim: Claim, error: ClaimLost) -> None:
        log.warning("%s", error, extra=fields(JobEvent.CLAIM_LOST, claim.id, self.name))

    def _fail(self, claim: Claim, error: Exception) -> None:
        trace = ""
        if not isinstance(error, I2iiError):
            trace = "".join(traceback.format_exception(error))
            error = EngineError(f"{type(error).__name__}: {error}")
        claim.fail(error, trace)
        self._heartbeat.count_failed(claim.id, error.code)
        if isinstance(error, EngineError) and error.suspects_worker:
            self._count_failure(claim.id)

    def _count_failure(self, id: str) -> None:
        """Have the worker test itself when several jobs fail in a row: are they at fault, or it?"""
        self._failed_in_a_row.add(id)
        self._must_test = len(self._failed_in_a_row) >= FAILURES_UNTIL_DEGRADED

    def _test_itself(self) -> None:
        """Edit a generated picture. Pause if that fails; after the pause the worker tests again."""
        failed = f"the last {len(self._failed_in_a_row)} jobs failed"
        try:
            with self._heartbeat.ticking_while("compiling", lambda: self._engine.compiling):
                picture = PIL.Image.effect_noise((SELF_TEST_SIDE, SELF_TEST_SIDE), 60)
                self._engine.edit([picture.convert("RGB")], SELF_TEST, self._on_test_step)
        except StopDeadlinePassed:
            return
        except EngineBroken as error:
            self._end_broken(error)
        except Exception as error:
            self._pause(DEGRADED_PAUSE_SECONDS, f"{failed}, and so does a self-test: {error}")
        else:
            log.warning("%s, and a self-test does not: the jobs are at fault", failed)
            self._failed_in_a_row.clear()
            self._must_test = False

    def _on_test_step(self, _step: int, _steps: int) -> None:
        self._heartbeat.tick()
        if self._stopping:
            raise StopDeadlinePassed

    def _end_broken(self, error: EngineBroken) -> None:
        """Stop, for a new process to start with a new engine."""
        log.error("the engine is broken: %s", error)
        self._broken = error
        self._stop()

    def _pause(self, seconds: float, note: str) -> None:
        if self._heartbeat.status.state is not WorkerState.DEGRADED:
            log.error("degraded: %s; pausing for %.0f s", note, seconds)
        self._paused_until = time.monotonic() + seconds
        self._heartbeat.publish(state=WorkerState.DEGRADED, note=note)

    # --- shutdown ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop after the drain time; on the second call, at once."""
        if self._stopping:
            self._stop_deadline = self._save_deadline = time.monotonic()
        else:
            self._stopping = True
            extend_timeout(self._settings.stop_seconds, STOPPING=1)
            now, last_writes = time.monotonic(), LAST_WRITES_SECONDS
            self._stop_deadline = now + self._settings.drain_seconds
            self._save_deadline = now + self._settings.stop_seconds - last_writes
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
        self._finish_saving()
        self._heartbeat.publish()
        status = self._heartbeat.status
        log.info(
            "%s stopped: %d jobs done, %d failed", self.name, status.jobs_done, status.jobs_failed
        )
