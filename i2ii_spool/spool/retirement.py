"""What a worker leaves whose name will not come back: a pod, a host that was given up.

Its folder in `running/`, its status file and its lock file are removed once it has been silent for
many leases and its jobs are safe. A worker of that name that comes back makes all of them again.

What only bears such a name, and is not as a worker leaves it, is a user's, and stays.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.folder import read_record
from i2ii_spool.jobs.request import parse_json
from i2ii_spool.spool.hosts import heartbeat, host_of, short_name
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WORKER_NAME, WorkerLock, WorkerStatus

log = logging.getLogger(__name__)

RETIRE_LEASES = 60
"""So long an operator sees that a worker is dead: with a lease of 180 s, for three hours."""


class Retirement:
    """Retires the workers of hosts that are gone, for one process that calls `run_once`.

    While any worker of a host lives, the others stay, as do those of this process's host: their
    units start them again, and an operator is to see that one is dead.
    """

    def __init__(self, spool: Spool, *, lease: float) -> None:
        self._spool = spool
        self._silence = RETIRE_LEASES * lease
        self._last_change: dict[str, tuple[int | None, float]] = {}
        """The heartbeat of each worker, and since when it is the same, on the monotonic clock."""

    def run_once(self) -> None:
        """Retire every worker that has been silent for long enough, with all of its host."""
        now = time.monotonic()
        self._look(now)
        seen = self._last_change.items()
        silent = {worker: beat for worker, (beat, at) in seen if now - at >= self._silence}
        living = {host_of(worker) for worker, (beat, _) in seen if beat and worker not in silent}
        for worker, beat in silent.items():
            if host_of(worker) not in living:
                with _logged(worker):
                    _retire(self._spool, worker, beat)

    def _look(self, now: float) -> None:
        last_change = {}
        for worker in _names(self._spool):
            if host_of(worker) == short_name():
                continue
            with _logged(worker):
                beat = heartbeat(self._spool, worker)
                last, since = self._last_change.get(worker, (None, now))
                last_change[worker] = beat, since if beat == last else now
        self._last_change = last_change


@contextmanager
def _logged(worker: str) -> Iterator[None]:
    """Log an error: the other workers must not wait for this one."""
    try:
        yield
    except Exception:
        log.exception("worker %s cannot be retired; trying again", worker)


def _names(spool: Spool) -> set[str]:
    """Of all workers that have left anything: what is removed last may stand alone."""
    names = {*os.listdir(spool.running), *os.listdir(spool.locks)}
    names |= {name.removesuffix(".json") for name in os.listdir(spool.workers)}
    return {name for name in names if WORKER_NAME.fullmatch(name)}


def _retire(spool: Spool, worker: str, beat: int | None) -> None:
    if not _is_ours(spool, worker):
        log.info("%s is not retired: a file of that name is no worker's", worker)
        return
    lock = WorkerLock.take(spool, worker)
    if lock is None:  # it lives, and its host is slow; or another process retires it
        return
    # A worker that starts now waits for the lock. Where locks are not shared, it makes what is
    # removed here again (`Worker._keep_name`). The lock file is last: whatever dies in between, the
    # name is found by it and retired later.
    with lock:
        if heartbeat(spool, worker) != beat or not _is_ours(spool, worker):
            return
        try:
            (spool.running / worker).rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:  # it holds a job, or what a user put there
            log.info("worker %s is not retired: %s", worker, error)
            return
        spool.status_file(worker).unlink(missing_ok=True)
        lock.remove()
    log.info("worker %s is retired: it has been silent, and holds no job", worker)


def _is_ours(spool: Spool, worker: str) -> bool:
    """Whether a worker has left what bears its name: its status file, its lock file or both, each
    as it writes them."""
    status, lock = spool.status_file(worker), spool.locks / worker
    try:
        found = [_is_status(status, worker), _is_lock(lock)]
    except InvalidRequest:  # a folder, or a large file
        return False
    return True in found and False not in found


def _is_status(path: Path, worker: str) -> bool | None:
    """Whether the file is the worker's status; None if there is none."""
    with suppress(FileNotFoundError):
        return parse_json(WorkerStatus, read_record(path)).worker == worker
    return None


def _is_lock(path: Path) -> bool | None:
    """Whether the file is as `WorkerLock` leaves it; None if there is none."""
    with suppress(FileNotFoundError):
        text = read_record(path).strip()
        return not text or text.isdigit()
    return None
