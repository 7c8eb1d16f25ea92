"""Recovery: what a dead worker held is completed, requeued or failed."""

import logging
import os
import secrets
from pathlib import Path

from i2ii_spool.errors import Cancelled, ClaimLost, SpoolUnusable
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.jobs.records import Attempt, Failure, Result, read_or_none
from i2ii_spool.spool.claim import Claim, crashed, leave
from i2ii_spool.spool.durable_io import (
    is_folder,
    move,
    sweep_temp_files,
    sync_folder,
    unlink_if_exists,
)
from i2ii_spool.spool.hosts import is_local
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import LivenessTracker, WorkerLock
from i2ii_spool.spool.retry_marker import is_retry_marker, reset_for_retry
from i2ii_spool.spool.side_files import is_side_file

log = logging.getLogger(__name__)


def recover(spool: Spool, worker: str, *, max_attempts: int) -> None:
    """Move every job in `running/<worker>/` on. The worker is dead, or it is the caller."""
    for name in sorted(os.listdir(spool.running / worker), key=is_retry_marker):
        folder = spool.running / worker / name
        try:
            spool.refresh(folder.parent)
            if is_id(name) and is_folder(folder):
                _recover_job(spool, worker, JobFolder(folder), max_attempts)
            elif is_retry_marker(name):  # its job has left by now, or was never claimed
                unlink_if_exists(folder)
            elif not is_side_file(name):  # a user put it there: it is a guest
                move(folder, _free_name(spool.incoming / name))
        except (FileNotFoundError, ClaimLost):  # another process recovers the same worker
            continue
        except PermissionError as error:  # the other jobs must not wait for this one
            log.error("%s cannot be recovered: %s", folder, error)


def _free_name(path: Path) -> Path:
    """Return the path, or one beside it if it is taken: a rename would replace a user's file."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}") if os.path.lexists(path) else path


def _recover_job(spool: Spool, worker: str, job: JobFolder, max_attempts: int) -> None:
    sweep_temp_files(job.path)
    # The worker may have died between the rename of a record and the fsync of the folder.
    sync_folder(job.path)
    if job.retry_marker.exists():
        reset_for_retry(job)
    records = job.attempts()
    attempts = len(records)
    _remove_stale_endings(job, records)
    if job.result.exists():
        log.info(
            "job %s is complete; its worker died before the move to done/",
            job.id,
            extra=fields(JobEvent.COMPLETED, job.id),
        )
        leave(spool, job.path, State.DONE)
    elif job.error.exists():
        leave(spool, job.path, State.FAILED)
    elif job.cancel.exists():
        cancelled = Cancelled("cancelled; its worker died during the edit")
        Claim(spool, worker, job.path, attempts).fail(cancelled)
    elif attempts >= max_attempts:
        Claim(spool, worker, job.path, attempts).fail(crashed(attempts))
    else:
        log.warning(
            "job %s requeued: its worker died (attempt %d)",
            job.id,
            attempts,
            extra=fields(JobEvent.REQUEUED, job.id),
        )
        unlink_if_exists(job.progress)
        move(job.path, spool.incoming / job.id)


def _remove_stale_endings(job: JobFolder, attempts: list[Path]) -> None:
    """Remove the endings of another attempt than the newest.

    Its worker was taken for dead, and looked at its claim for the last time before the job was
    another's.
    """
    result, error = read_or_none(Result, job.result), read_or_none(Failure, job.error)
    for path, record in ((job.result, result), (job.error, error)):
        if record is not None and _is_stale(record, attempts):
            log.warning(
                "job %s: %s is of attempt %d by %s, which had lost the job",
                job.id,
                path.name,
                record.attempt,
                record.worker,
                extra=fields(JobEvent.CLAIM_LOST, job.id),
            )
            unlink_if_exists(path)


def _is_stale(ending: Result | Failure, attempts: list[Path]) -> bool:
    if ending.attempt != len(attempts):
        return ending.attempt < len(attempts)  # a later one is of an attempt that did not count
    newest = read_or_none(Attempt, attempts[-1]) if attempts else None
    return newest is not None and ending.worker not in (None, newest.worker)


class Reaper:
    """Recovers the jobs of other workers that died, for one process that calls `run_once`."""

    def __init__(self, spool: Spool, *, max_attempts: int, lease: float) -> None:
        self._spool = spool
        self._max_attempts = max_attempts
        self._liveness = LivenessTracker(spool, lease=lease)

    def run_once(self) -> None:
        """Recover the jobs of every worker that is dead by now."""
        for worker in self._liveness.dead():
            try:
                if os.listdir(self._spool.running / worker):
                    self._recover(worker)
            except OSError as error:  # the other workers' jobs must not wait for this one's
                log.error("the jobs of %s cannot be recovered: %s", worker, error)
            except Exception:
                log.exception("the jobs of %s cannot be recovered", worker)

    def _recover(self, worker: str) -> None:
        try:
            lock = WorkerLock.take(self._spool, worker)
        except SpoolUnusable:  # without locks: it is dead by its lease
            lock = None
        else:  # it has restarted, and recovers its jobs itself
            if lock is None and is_local(self._spool, worker):
                return
        try:
            recover(self._spool, worker, max_attempts=self._max_attempts)
        finally:
            if lock is not None:
                lock.release()
