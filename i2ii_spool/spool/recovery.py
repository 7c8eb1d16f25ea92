"""Recovering what a dead worker held. Nothing that finished is run again, and nothing is run for
ever."""

import logging
import os
from pathlib import Path

from i2ii_spool.errors import Cancelled, ClaimLost, I2iiError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.claim import crashed, leave
from i2ii_spool.spool.durable_io import (
    is_folder,
    move,
    sweep_temp_files,
    sync_folder,
    unlink_if_exists,
)
from i2ii_spool.spool.failure import write_failure
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import LivenessTracker, WorkerLock, is_local
from i2ii_spool.spool.retry_marker import is_retry_marker, reset_for_retry, retry_marker

log = logging.getLogger(__name__)


def recover(spool: Spool, worker: str, *, max_attempts: int) -> None:
    """Send every job in `running/<worker>/` where it belongs. The worker is dead, or it is the
    caller."""
    for name in sorted(os.listdir(spool.running / worker), key=is_retry_marker):
        folder = spool.running / worker / name
        try:
            if is_id(name) and is_folder(folder):
                _recover_job(spool, folder, max_attempts)
            elif is_retry_marker(name):  # of a job that has left by now, or was never won
                unlink_if_exists(folder)
            else:  # somebody has put it there by hand; it is a guest
                move(folder, spool.incoming / name)
        except (FileNotFoundError, ClaimLost):  # another observer of the same death was faster
            continue


def _recover_job(spool: Spool, folder: Path, max_attempts: int) -> None:
    sweep_temp_files(folder)
    # The worker may have died between the rename of a record and the fsync that makes its name
    # last.
    sync_folder(folder)
    if retry_marker(folder).exists():
        reset_for_retry(folder)
    attempts = len(JobFolder(folder).attempts())
    if (JobFolder(folder).result).exists():
        log.info("job %s was finished; its worker died before it could say so", folder.name)
        leave(spool, folder, State.DONE)
    elif (JobFolder(folder).error).exists():
        leave(spool, folder, State.FAILED)
    elif (JobFolder(folder).cancel).exists():
        _give_up(spool, folder, Cancelled("cancelled; its worker died on it"), attempts)
    elif attempts >= max_attempts:
        _give_up(spool, folder, crashed(attempts), attempts)
    else:
        log.warning(
            "job %s goes back to the queue: its worker died (attempt %d)", folder.name, attempts
        )
        unlink_if_exists(JobFolder(folder).progress)
        move(folder, spool.incoming / folder.name)


def _give_up(spool: Spool, folder: Path, error: I2iiError, attempts: int) -> None:
    log.warning("job %s has failed: %s", folder.name, error)
    write_failure(folder, error, attempt=attempts, worker=folder.parent.name)
    leave(spool, folder, State.FAILED)


class Reaper:
    """Recovers the jobs of other workers that have died, for one process that calls `run_once`
    again and again."""

    def __init__(self, spool: Spool, *, max_attempts: int, lease: float) -> None:
        self._spool = spool
        self._max_attempts = max_attempts
        self._liveness = LivenessTracker(spool, lease=lease)

    def run_once(self) -> None:
        """Recover the jobs of every worker that is dead by now."""
        for worker in self._liveness.dead():
            if not os.listdir(self._spool.running / worker):
                continue
            lock = WorkerLock.take(self._spool, worker)
            if lock is None and is_local(
                worker
            ):  # it has just come back, and recovers its jobs itself
                continue
            try:
                recover(self._spool, worker, max_attempts=self._max_attempts)
            finally:
                if lock is not None:
                    lock.release()
