"""Claiming: the oldest job in `incoming/` becomes this worker's by one rename."""

import errno
import heapq
import logging
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import Cancelled, ClaimLost, Crashed, I2iiError, InvalidRequest
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.ids import is_id, new_id
from i2ii_spool.jobs.records import Attempt, Progress, Result
from i2ii_spool.jobs.request import Job
from i2ii_spool.spool.admission import write_note
from i2ii_spool.spool.durable_io import (
    is_folder,
    move,
    sweep_temp_files,
    sync_folder,
    unlink_if_exists,
    write_file,
    write_hint,
    write_marker,
)
from i2ii_spool.spool.failure import write_failure
from i2ii_spool.spool.folder_check import check_regular, opened
from i2ii_spool.spool.job_request import read_request
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import ids_in
from i2ii_spool.spool.outputs import remove_pictures, users_pictures
from i2ii_spool.spool.retry_marker import reset_for_retry

log = logging.getLogger(__name__)

# The errors of a rename when another worker was faster; GlusterFS says ESTALE.
LOST_RACE_ERRNOS = (errno.ENOENT, errno.ESTALE)
RESCAN_SECONDS, RESCAN_FACTOR = 1.0, 50
"""A scan is repeated after a second; where it is slow, after so many times what it took, so that it
costs two per cent of the time."""
MAX_SPREAD = 4096


class Backlog:
    """The names in `incoming/`, oldest first, kept between claims.

    A claim takes from what an earlier scan has found, so that it costs the same whether a hundred
    or a hundred thousand jobs wait. The backlog may name jobs that other workers have taken since.
    It is scanned again when it is empty or old, and hints add arrivals one by one.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._names: list[str] = []
        self._rescan_at = 0.0

    def hint(self, name: str) -> None:
        """Something called `name` has arrived."""
        if is_id(name):
            heapq.heappush(self._names, name)

    def pop(self, spread: int = 1) -> str | None:
        """One of the `spread` oldest names, drawn at random, or None if nothing waits."""
        if time.monotonic() >= self._rescan_at:
            self.scan()
        if not self._names:
            return None
        oldest = [heapq.heappop(self._names) for _ in range(min(spread, len(self._names)))]
        drawn = oldest.pop(random.randrange(len(oldest)))
        for name in oldest:
            heapq.heappush(self._names, name)
        return drawn

    def scan(self) -> None:
        """Read the directory, which is the truth."""
        started = time.monotonic()
        self._names = ids_in(self._spool.incoming)
        heapq.heapify(self._names)
        took = time.monotonic() - started
        self._rescan_at = started + max(RESCAN_SECONDS, RESCAN_FACTOR * took)


class Claims:
    """One worker's way to its jobs. The worker must hold its lock.

    It takes the oldest. If all workers of many hosts did so, each would lose the races for the jobs
    that were claimed since its last scan, and the calls of these races would keep the file server
    too busy for claims. On a network a worker therefore draws among twice as many jobs after each
    lost race, and among half as many after each claim.
    """

    def __init__(self, spool: Spool, worker: str, *, max_attempts: int) -> None:
        self._spool = spool
        self._worker = worker
        self._max_attempts = max_attempts
        self._own_folder = spool.running / worker
        self._spread = 1
        self.backlog = Backlog(spool)

    def next(self) -> "Claim | None":
        """Claim a free job, the oldest if no race was lost, or return None if there is none."""
        while (id := self.backlog.pop(self._spread)) is not None:
            claim = self._claim(id)
            if claim is not None:
                self._spread = max(1, self._spread // 2)
                return claim
        self._spread = 1  # what is left of an old scan is no race that was lost
        return None

    def _claim(self, id: str) -> "Claim | None":
        job = JobFolder(self._own_folder / id)
        if not self._move(self._spool.incoming / id, job):
            unlink_if_exists(job.retry_marker)
            # If this worker's folder is gone, rename fails with the same ENOENT as a lost race,
            # and no claim will ever succeed: stat() raises.
            self._own_folder.stat()
            return None
        try:
            with claim_lost_if_missing(job.path):
                return self._begin(job)
        except ClaimLost as error:
            log.warning("%s", error, extra=fields(JobEvent.CLAIM_LOST, id))
            return None

    def _move(self, waiting: Path, job: JobFolder) -> bool:
        try:
            with opened(waiting) as folder:
                waiting_job = JobFolder(folder)
                if not waiting_job.job.exists():  # being copied in under an id
                    return False
                if waiting_job.has_ended():
                    write_marker(job.retry_marker)
            self._rename(waiting, job.path)
            return True
        except OSError as error:
            # Taken by another; or a guest of that name.
            if error.errno in (*LOST_RACE_ERRNOS, errno.ENOTDIR):
                if self._spool.is_on_network:
                    self._spread = min(2 * self._spread, MAX_SPREAD)
                return False
            # If the job is there, the rename succeeded, and the fsync after it did not.
            if not isinstance(error, PermissionError) or is_folder(job.path):
                raise
            write_note(waiting, f"the worker may not take it: {error.strerror}")
            return False

    def _rename(self, waiting: Path, claimed: Path) -> None:
        """Raises `FileNotFoundError` if another worker was faster."""
        try:
            move(waiting, claimed)
        except OSError as error:
            if error.errno not in LOST_RACE_ERRNOS:
                raise
            # A network file system may have lost the reply to a rename that succeeded. No other
            # process writes into this folder, so the job is this worker's.
            if not self._is_claimed(claimed):
                raise FileNotFoundError(error.errno, "taken by another worker") from error

    def _is_claimed(self, claimed: Path) -> bool:
        if not self._spool.is_on_network:
            return claimed.is_dir()
        # On some of them only a listing is never old (docs/many-hosts.md).
        return claimed.name in os.listdir(claimed.parent)

    def _begin(self, job: JobFolder) -> "Claim | None":
        sweep_temp_files(job.path)  # of a cancel that was interrupted
        reset_for_retry(job)
        before = len(job.attempts())
        claim = Claim(self._spool, self._worker, job.path, before + 1)
        try:
            if job.cancel.exists():
                raise Cancelled("cancelled before it ran")
            if before >= self._max_attempts:
                raise crashed(before)
            check_regular(job.path)
        except (Cancelled, Crashed, InvalidRequest) as error:
            claim.fail(error)
            return None
        claim.begin()
        return claim


def crashed(attempts: int) -> Crashed:
    """The error of a job whose worker died in every attempt."""
    return Crashed(f"the worker died in each of {attempts} attempts at this job")


@contextmanager
def claim_lost_if_missing(folder: Path) -> Iterator[None]:
    """Raise `ClaimLost` where a file is missing because the whole job folder is."""
    try:
        yield
    except OSError as error:
        if error.errno not in LOST_RACE_ERRNOS or is_folder(folder):
            raise
        message = f"job {folder.name} was taken from this worker, which was silent for too long"
        raise ClaimLost(message) from None


class Claim:
    """A job that this worker holds. It ends with `commit`, `fail` or `release`.

    Each raises `ClaimLost` if the job is no longer in `running/<worker>/`: this process was taken
    for dead, and another one has the job.
    """

    def __init__(self, spool: Spool, worker: str, folder: Path, attempt: int) -> None:
        self._spool = spool
        self._worker = worker
        self._files = JobFolder(folder)
        self.folder = folder
        self.attempt = attempt
        self.kept: tuple[str, ...] = ()
        """Names like a result's of a user's files."""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.folder.name

    def begin(self) -> None:
        """Count this attempt, durably, before any work that might kill the worker."""
        self.kept = users_pictures(self._files)
        self.count()
        log.info(
            "job %s claimed, attempt %d",
            self.id,
            self.attempt,
            extra=fields(JobEvent.CLAIMED, self.id, self._worker),
        )

    def count(self) -> None:
        """Write the record of this attempt."""
        now = datetime.now(UTC)
        record = Attempt(worker=self._worker, pid=os.getpid(), started_at=now, kept=self.kept)
        self._write(self._files.attempt(self.attempt), record.to_json())

    def uncount(self) -> None:
        """Remove the record of this attempt while the job waits: it can then kill no worker."""
        with self._held():
            unlink_if_exists(self._files.attempt(self.attempt))

    def job(self) -> Job:
        """Read the request. Raises `InvalidRequest` for an invalid `job.json` of a guest."""
        return read_request(self.folder, os.listdir(self.folder), title="")

    def is_cancelled(self) -> bool:
        """Whether the job is to stop."""
        with claim_lost_if_missing(self.folder):
            self._spool.refresh(self.folder)
            return self._files.cancel.exists()

    def report(self, progress: Progress) -> None:
        """Replace `progress.json`. It is a hint: the job goes on if the disk is full."""
        try:
            with self._held():
                write_hint(self._files.progress, progress.to_json())
        except OSError as error:
            log.warning(
                "job %s: progress cannot be written: %s",
                self.id,
                error,
                extra=fields(JobEvent.PROGRESSED, self.id, self._worker),
            )

    def save(self, name: str, data: bytes) -> None:
        """Write one picture of the result. It is valid only once `commit` names it."""
        self._write(self.folder / name, data)

    def commit(self, result: Result) -> None:
        """Write the record that makes the result valid, and move the job to `done/`."""
        self._write(self._files.result, result.to_json())
        self._remove_other_ending(self._files.error, self._files.error_text)
        leave(self._spool, self.folder, State.DONE)

    def fail(self, error: I2iiError, trace: str = "") -> None:
        """Write the reason, and move the job to `failed/`."""
        event = JobEvent.CANCELLED if isinstance(error, Cancelled) else JobEvent.FAILED
        log.warning(
            "job %s failed: %s: %s",
            self.id,
            error.code,
            error,
            extra=fields(event, self.id, self._worker, code=error.code),
        )
        with self._held():
            remove_pictures(self._files)  # of an attempt that was saving when it ended
            write_failure(
                self.folder, error, attempt=self.attempt, worker=self._worker, trace=trace
            )
        self._remove_other_ending(self._files.result)
        leave(self._spool, self.folder, State.FAILED)

    def release(self, *, uncount_attempt: bool) -> None:
        """Move the job back to `incoming/`, where it keeps its place.

        A voluntary stop is not an attempt: `uncount_attempt` removes its record.
        """
        with self._held():
            unlink_if_exists(self._files.progress)
            if uncount_attempt:
                remove_pictures(self._files)  # without an attempt they would be taken for a user's
                unlink_if_exists(self._files.attempt(self.attempt))
            sync_folder(self.folder)
            move(self.folder, self._spool.incoming / self.id)
        log.info("job %s released", self.id, extra=fields(JobEvent.RELEASED, self.id, self._worker))

    def _write(self, path: Path, data: bytes) -> None:
        with self._held():
            write_file(path, data)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Raise `ClaimLost` if the job has been taken, before anything is done to its folder.

        The client of a network file system may still find the folder under this path, and follow it
        to its next holder.
        """
        with claim_lost_if_missing(self.folder):
            self._spool.refresh(self.folder.parent)
            yield

    def _remove_other_ending(self, *records: Path) -> None:
        """Remove what an earlier holder of the job has written after its last look at the claim.

        These are the records of an ending, and files that it could not rename: their folder had
        been moved.

        Only another host's worker can: the look and the write are then two calls of a network.
        """
        if self._spool.is_on_network:
            with self._held():
                sweep_temp_files(self.folder)
                for record in records:
                    unlink_if_exists(record)


def leave(spool: Spool, folder: Path, state: State) -> None:
    """Move a job that has ended out of `running/`, to `done/` or `failed/`."""
    target = spool.root / state / folder.name
    try:
        with claim_lost_if_missing(folder):
            move(folder, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        # A user copied a job that had ended, under its own id. Neither may overwrite the other.
        again = target.with_name(new_id(folder.name))
        event = JobEvent.COMPLETED if state is State.DONE else JobEvent.FAILED
        log.warning(
            "%s is in %s already; this one ends as %s",
            folder.name,
            state,
            again.name,
            extra=fields(event, folder.name),
        )
        move(folder, again)
