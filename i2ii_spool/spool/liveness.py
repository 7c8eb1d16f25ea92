"""Which workers there are, and which of them are dead.

A worker holds an flock for life. The kernel drops it at death, so that on one host a free lock is a
dead worker. Hosts may not share locks: another host's worker is dead when its heartbeat has not
changed for the lease, as seen on this process's monotonic clock. The clocks of two hosts are never
compared.
"""

import fcntl
import os
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.folder import read_record
from i2ii_spool.jobs.records import Record
from i2ii_spool.jobs.request import MAX_IMAGES, parse_json
from i2ii_spool.spool.durable_io import create_file, write_hint
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import worker_folders

WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\.(gpu|mig)[A-Za-z0-9-]+", re.ASCII)


def worker_name(unit: str) -> str:
    """Return the name of this host's worker for `unit`: `node7.gpu0`."""
    return f"{_host()}.{unit}"


def _host() -> str:
    name = socket.gethostname().split(".")[0]
    return re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-") or "localhost"


def is_local(worker: str) -> bool:
    """Whether it is a worker of this host."""
    return worker.partition(".")[0] == _host()


# --- the lock -------------------------------------------------------------------------------------


class WorkerLock:
    """The right to a worker's name. It is held until `release`, or until the process dies.

    The file is never unlinked: else a second process could lock a new file of that name while the
    first holds the old one. Child processes do not inherit the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, spool: Spool, worker: str) -> "WorkerLock | None":
        """Return the lock, or None if another process holds it."""
        with suppress(FileExistsError):
            os.close(create_file(spool.locks / worker))
        descriptor = os.open(spool.locks / worker, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def sign(self) -> None:
        """Write this process's id into the file, for a process that waits for the lock."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the name up."""
        os.close(self._descriptor)

    def __enter__(self) -> "WorkerLock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


# --- the status file ------------------------------------------------------------------------------


class WorkerState(StrEnum):
    """What a worker reports of itself."""

    LOADING = "loading"
    READY = "ready"
    RUNNING = "running"
    DEGRADED = "degraded"
    STOPPING = "stopping"


class WorkerStatus(Record):
    """`workers/<worker>.json`: a hint for people and for estimates, replaced at each heartbeat."""

    worker: str
    state: WorkerState
    pid: int
    gpu_id: int | str | None
    engine: str
    model: str
    max_images: int | None = None
    """The most pictures that the model takes; None before it is loaded."""
    job: str | None = None
    step: int = 0
    steps: int = 0
    jobs_done: int = 0
    jobs_failed: int = 0
    mean_job_seconds: float | None = None
    memory_used_mib: int | None = None
    """Of the GPU, by all its processes; None without a GPU."""
    memory_total_mib: int | None = None
    use_percent: int | None = None
    note: str = ""


def write_status(spool: Spool, status: WorkerStatus) -> None:
    """Replace the worker's status file; its mtime is the heartbeat."""
    write_hint(spool.workers / f"{status.worker}.json", status.to_json())


def delete_status(spool: Spool, worker: str) -> None:
    """Remove the status file of a worker that has stopped."""
    (spool.workers / f"{worker}.json").unlink(missing_ok=True)


@dataclass(frozen=True)
class WorkerView:
    """A worker's status file as it was found."""

    status: WorkerStatus
    heartbeat_age: float
    """Seconds since the file was written, by this host's clock; for people."""
    alive: bool

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return self.alive and self.status.state in (WorkerState.READY, WorkerState.RUNNING)


def list_workers(spool: Spool, *, lease: float) -> list[WorkerView]:
    """Return all workers that have a status file, by name."""
    workers = []
    for path in sorted(spool.workers.glob("*.json")):
        try:
            status = parse_json(WorkerStatus, read_record(path))
            age = max(0.0, time.time() - path.stat().st_mtime)
        # It has stopped, is not a worker's file, or is closed to this user.
        except (FileNotFoundError, PermissionError, InvalidRequest):
            continue
        alive = _lock_is_held(spool, path.stem) if is_local(path.stem) else age < lease
        workers.append(WorkerView(status, age, alive))
    return workers


def max_images(workers: Sequence[WorkerView]) -> int:
    """Return the most pictures that the model of any live worker takes.

    A worker that has not loaded its model may take as many as any model.
    """
    limits = [worker.status.max_images or MAX_IMAGES for worker in workers if worker.alive]
    return max(limits, default=MAX_IMAGES)


def seconds_between_completions(workers: Sequence[WorkerView]) -> float | None:
    """The mean seconds between two completions while all ready workers work.

    None until a worker has completed a job.
    """
    means = [worker.status.mean_job_seconds for worker in workers if worker.ready]
    rates = [1 / mean for mean in means if mean]
    return 1 / sum(rates) if rates else None


def _lock_is_held(spool: Spool, worker: str) -> bool:
    # Shared: two observers at the same moment do not take each other for the worker.
    try:
        descriptor = os.open(spool.locks / worker, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # of another user: nothing shows that it is free
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- which workers are dead ----------------------------------------------------------------------


class LivenessTracker:
    """Tells which workers are dead, for one observer that asks again and again."""

    def __init__(self, spool: Spool, *, lease: float) -> None:
        self._spool = spool
        self._lease = lease
        self._last_change: dict[str, tuple[int, float]] = {}

    def dead(self) -> list[str]:
        """The workers with a folder in `running/` that will never touch it again."""
        names = {folder.name for folder in worker_folders(self._spool)}
        return [
            name for name in sorted(names) if WORKER_NAME.fullmatch(name) and self._is_dead(name)
        ]

    def _is_dead(self, worker: str) -> bool:
        if is_local(worker):
            return not _lock_is_held(self._spool, worker)
        return self._silent_for(worker) >= self._lease

    def _silent_for(self, worker: str) -> float:
        """Seconds for which this process has seen the heartbeat unchanged."""
        now = time.monotonic()
        try:
            heartbeat = (self._spool.workers / f"{worker}.json").stat().st_mtime_ns
        except FileNotFoundError:
            heartbeat = 0
        last, since = self._last_change.get(worker, (None, now))
        if heartbeat != last:
            since = now
        self._last_change[worker] = (heartbeat, since)
        return now - since
