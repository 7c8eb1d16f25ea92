"""Which workers there are, and which of them are dead.

A worker holds an flock for life. The kernel drops it at death, so that on one host a free lock is a
dead worker. Hosts may not share locks: another host's worker is dead when its heartbeat has not
changed for the lease, as seen on this process's monotonic clock. The clocks of two hosts are never
compared; a first look, which has seen no change yet, compares two times of the file system's clock.
"""

import errno
import fcntl
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from i2ii_spool.errors import InvalidRequest, SpoolUnusable
from i2ii_spool.host.filesystems import file_system_of, lock_cure
from i2ii_spool.jobs.folder import read_record
from i2ii_spool.jobs.offers import Offers
from i2ii_spool.jobs.records import Record
from i2ii_spool.jobs.request import MAX_IMAGES, parse_json
from i2ii_spool.spool.durable_io import create_file, write_hint
from i2ii_spool.spool.hosts import heartbeat, is_local, short_name
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.lookup import worker_folders
from i2ii_spool.spool.metrics import WorkerMetrics

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EACCES)
"""What flock(2) says on a file system that is mounted without locks."""
ANSWER_SECONDS = 2.0
"""A file server that takes longer to create a file is away, or was."""
LOOK_GAP_SECONDS = 30.0
"""At most so much of the time between two looks is silence: this host may have slept."""
WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\.(gpu|mig)[A-Za-z0-9-]+", re.ASCII)


def worker_name(unit: str) -> str:
    """Return the name of this host's worker for `unit`: `node7.gpu0`."""
    return f"{short_name()}.{unit}"


# --- the lock -------------------------------------------------------------------------------------


class WorkerLock:
    """The right to a worker's name. It is held until `release`, or until the process dies.

    Only who holds the lock may remove its file, and who has just taken it looks whether the file is
    still there: else a second process could lock a new file of that name while the first holds the
    old one. Child processes do not inherit the descriptor.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @classmethod
    def take(cls, spool: Spool, worker: str) -> "WorkerLock | None":
        """Return the lock, or None if another process holds it.

        Raises `SpoolUnusable` if the file system has no locks.
        """
        while (lock := cls._lock(spool.locks / worker)) is not None and not lock.is_in_place():
            lock.release()
        return lock

    @classmethod
    def _lock(cls, path: Path) -> "WorkerLock | None":
        with suppress(FileExistsError):
            os.close(create_file(path))
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:  # another process has just removed it
            return cls._lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError) and error.errno in NO_LOCKS:
                raise SpoolUnusable(_without_locks(path.parent, error)) from error
            raise
        return cls(descriptor, path)

    def is_in_place(self) -> bool:
        """Whether the file that is locked is still the one of that name."""
        try:
            # Opened, since NFS may cache what stat() says of a name.
            other = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return os.path.sameopenfile(self._descriptor, other)
        finally:
            os.close(other)

    def remove(self) -> None:
        """Remove the file: no worker of this name will come back."""
        self._path.unlink(missing_ok=True)

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


class JobFailure(Record):
    """A job that has failed in a worker."""

    job: str
    """Its id."""
    code: str
    """Why, as in the job's `error`."""


class WorkerReport(Record):
    """What a worker tells of itself to people and to the other processes."""

    worker: str
    """Its name: the host, and its GPU."""
    state: WorkerState
    pid: int
    """Its process id on its host."""
    host: str = ""
    """The full name of its host; empty if it is of an older version."""
    boot_id: str = ""
    """Of its host: a random id that the kernel draws at each boot. It tells two hosts of one name
    apart."""
    version: str = ""
    """Of i2ii; empty if it is of an older one."""
    gpu_id: int | str | None
    """The GPU: its index, or the UUID of a MIG device; null without one."""
    engine: str
    model: str
    """The model that it runs."""
    max_images: int | None = None
    """The most pictures that the model takes; null before it is loaded."""
    job: str | None = None
    """The id of the job that it works on. Left out if the token has no access to all jobs."""
    step: int = 0
    """How many steps of that job are done."""
    steps: int = 0
    """How many steps it has; 0 while unknown."""
    jobs_done: int = 0
    """How many jobs it has completed since its start."""
    jobs_failed: int = 0
    """How many jobs have failed in it since its start."""
    mean_job_seconds: float | None = None
    """Mean seconds for a job; null until it has completed one."""
    memory_used_mib: int | None = None
    """Of the GPU, by all its processes, in MiB; null where its driver does not tell."""
    memory_total_mib: int | None = None
    use_percent: int | None = None
    """Utilisation of the GPU, 0 to 100."""
    temperature_celsius: int | None = None
    """Of the GPU."""
    recent_jobs: tuple[str, ...] = ()
    """The ids of the last jobs that it has completed, the latest last. Left out likewise."""
    recent_failures: tuple[JobFailure, ...] = ()
    """The last jobs that have failed in it, the latest last. Left out likewise."""
    note: str = ""
    """Why it is degraded, or what its GPU does not tell, for people."""


def _none_if_wrong(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:  # of another version: the worker counts for all else
        return None


FOR_PROGRAMS = {"metrics", "offers"}
"""Fields of a status file that are no part of the report."""


class WorkerStatus(WorkerReport):
    """`workers/<worker>.json`: a hint for people and for estimates, replaced at each heartbeat."""

    metrics: Annotated[WorkerMetrics | None, WrapValidator(_none_if_wrong)] = None
    """What it has counted since its start; None if it is of a version that does not count, or of
    one that counts something else."""
    offers: Annotated[Offers | None, WrapValidator(_none_if_wrong)] = None
    """What its engine offers; None before it is loaded, and of another version."""

    def to_json(self) -> bytes:
        """The contents of the file: indented for people, with what is only for programs in a line
        each at the end."""
        report = self.model_dump_json(indent=2, exclude=FOR_PROGRAMS).removesuffix("\n}")
        for name in sorted(FOR_PROGRAMS):
            if (part := getattr(self, name)) is not None:
                report += f',\n  "{name}": {part.model_dump_json()}'
        return f"{report}\n}}\n".encode()


def write_status(spool: Spool, status: WorkerStatus) -> None:
    """Replace the worker's status file; its mtime is the heartbeat."""
    write_hint(spool.status_file(status.worker), status.to_json())


def delete_status(spool: Spool, worker: str) -> None:
    """Remove the status file of a worker that has stopped."""
    spool.status_file(worker).unlink(missing_ok=True)


@dataclass(frozen=True)
class WorkerView:
    """A worker's status file as it was found."""

    status: WorkerStatus
    heartbeat_age: float
    """Seconds since the file was seen to change; at a first look, since it was written."""
    heartbeat_at: float
    """When that was, in seconds since 1970, by this host's clock."""
    alive: bool

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return self.alive and self.status.state in (WorkerState.READY, WorkerState.RUNNING)


class WorkerObserver:
    """Sees the workers of a spool again and again, by changes of their status files.

    What the clocks of their hosts or of the file server say, and when one is set, has no effect.
    """

    def __init__(self, spool: Spool, *, lease: float) -> None:
        self._spool = spool
        self._lease = lease
        self._changed: dict[str, tuple[int, float]] = {}
        """The mtime of each file, and since when it has it, on the monotonic clock."""

    def look(self) -> list[WorkerView]:
        """Return all workers that have a status file, by name."""
        workers, changed = [], {}
        clock = cache(partial(_clock, self._spool))
        for path in sorted(self._spool.workers.glob("*.json")):
            try:
                status = parse_json(WorkerStatus, read_record(path))
                changed[path.stem] = self._last_change(path, clock)
                is_held = _lock_of_this_host(self._spool, path.stem)
            # It has stopped, is not a worker's file, or cannot be read by this user, or at all.
            except (OSError, InvalidRequest):
                continue
            age = max(0.0, time.monotonic() - changed[path.stem][1])
            alive = age < self._lease if is_held is None else is_held
            written = changed[path.stem][0] / 1e9
            at = time.time() - age if self._spool.is_on_network else written
            workers.append(WorkerView(status, age, at, alive))
        self._changed = changed
        return workers

    def _last_change(self, path: Path, clock: Callable[[], float | None]) -> tuple[int, float]:
        now = time.monotonic()
        status = path.stat()
        last, since = self._changed.get(path.stem, (None, 0.0))
        if last is None:
            # If the clock is not known, the next change will tell.
            today = (clock() if self._spool.is_on_network else None) or time.time()
            since = now - max(0.0, today - status.st_mtime)
        elif last != status.st_mtime_ns:
            since = now
        return status.st_mtime_ns, since


def _clock(spool: Spool) -> float | None:
    """The time of day by the clock that the file system gives its files; None if no file can be
    written now."""
    path = spool.staging / f".clock-{secrets.token_hex(4)}"
    try:
        descriptor = create_file(path)
        try:
            os.write(descriptor, bytes(4096))  # a full disk may have room for an empty file
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)  # a network file system reports a full disk here
    except OSError:
        return None
    finally:
        with suppress(OSError):
            path.unlink()


def list_workers(spool: Spool, *, lease: float) -> list[WorkerView]:
    """Return all workers that have a status file, by name, as one look shows them."""
    return WorkerObserver(spool, lease=lease).look()


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


def _without_locks(folder: Path, error: OSError) -> str:
    kind = file_system_of(folder)
    return f"{folder} is on {kind} without locks ({error.strerror}): {lock_cure(kind)}"


@cache
def _warn_once(message: str) -> None:
    log.warning("%s; until then a worker of this host counts as dead after the lease", message)


def _lock_of_this_host(spool: Spool, worker: str) -> bool | None:
    """Whether a process of this host holds the worker's lock; None if only its heartbeat tells."""
    return _lock_is_held(spool, worker) if is_local(spool, worker) else None


def _lock_is_held(spool: Spool, worker: str) -> bool | None:
    """Whether a process holds the worker's lock; None if the file system does not tell."""
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
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn_once(_without_locks(spool.locks, error))
        return None
    finally:
        os.close(descriptor)
    return False


# --- which workers are dead ----------------------------------------------------------------------


class LivenessTracker:
    """Tells which workers are dead, for one observer that asks again and again."""

    def __init__(self, spool: Spool, *, lease: float) -> None:
        self._spool = spool
        self._lease = lease
        self._silence: dict[str, tuple[int | None, float]] = {}
        """The heartbeat of each worker, and for how many seconds it has been the same."""
        self._looked_at: float | None = None
        """When the last look was, if it was answered."""
        self._judged_at = time.monotonic()
        """When silence could last be counted, or that it could not was last told."""

    def dead(self) -> list[str]:
        """The workers with a folder in `running/` that will never touch it again."""
        before, began = self._looked_at, time.monotonic()
        self._looked_at = None
        dead, elsewhere = [], []
        for folder in worker_folders(self._spool):
            if not WORKER_NAME.fullmatch(folder.name):
                continue
            try:
                is_held = _lock_of_this_host(self._spool, folder.name)
            except OSError as error:  # the other workers must not wait for this one
                log.error("the lock of %s cannot be read: %s", folder.name, error)
                continue
            if is_held is None:
                elsewhere.append(folder.name)
            elif not is_held:
                dead.append(folder.name)
        if self._is_answered_since(began):
            self._count_silence(elsewhere, 0.0 if before is None else began - before)
            self._looked_at = time.monotonic()
            dead += [name for name, (_, seconds) in self._silence.items() if seconds >= self._lease]
        if before is not None and self._looked_at is not None:
            self._judged_at = self._looked_at
        elif elsewhere:
            self._warn_of_slow_answers()
        return sorted(dead)

    def _warn_of_slow_answers(self) -> None:
        """Else a file server that is always slow would switch take-overs off without a word."""
        if (passed := time.monotonic() - self._judged_at) < self._lease:
            return
        self._judged_at += passed
        log.warning(
            "for %.0f s the file server has not answered two looks in a row within %g s, or let no "
            "file be written: no worker of another host is taken for dead meanwhile; if one has "
            "died, its job waits",
            *(passed, ANSWER_SECONDS),
        )

    def _is_answered_since(self, began: float) -> bool:
        """Whether files can be written, and the file server was not away since the look began: the
        listing may have waited for it."""
        if self._spool.is_on_network and _clock(self._spool) is None:
            return False
        return time.monotonic() - began < ANSWER_SECONDS

    def _count_silence(self, workers: list[str], passed: float) -> None:
        """Look at the heartbeat of each; `passed` are the seconds since the last look.

        Only time between two looks counts as silence, and only if files could be written at both: a
        worker cannot write its heartbeat either while the file server is away, or, after that,
        while its clients claim back what they had (90 s, with NFS). The lease is for what a worker
        takes to notice that the server is back.
        """
        silence = {}
        for worker in workers:
            try:
                beat = heartbeat(self._spool, worker)
            except OSError as error:  # nothing is known of it
                log.error("the heartbeat of %s cannot be read: %s", worker, error)
                continue
            last, seconds = self._silence.get(worker, (None, 0.0))
            is_new = worker not in self._silence or beat != last
            silence[worker] = beat, 0.0 if is_new else seconds + min(passed, LOOK_GAP_SECONDS)
        self._silence = silence
