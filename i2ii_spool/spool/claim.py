"""Claiming: the oldest job in `incoming/` becomes this worker's by one rename, and leaves it by one
more."""

import errno
import heapq
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from i2ii_spool.errors import Cancelled, ClaimLost, Crashed, I2iiError, InvalidRequest
from i2ii_spool.jobs.folder import RESULT, JobFolder, read_record
from i2ii_spool.jobs.ids import is_id, new_id
from i2ii_spool.jobs.records import Attempt, Progress, Result
from i2ii_spool.jobs.request import Job, parse_json
from i2ii_spool.spool.admission import note_beside
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
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import ids_in
from i2ii_spool.spool.retry_marker import has_ended, reset_for_retry, retry_marker

log = logging.getLogger(__name__)

# What a rename says when another worker was first; ESTALE is GlusterFS's word for it.
LOST_THE_RACE = (errno.ENOENT, errno.ESTALE)


class Backlog:
    """The names in `incoming/`, oldest first, kept between claims.

    A claim takes from what an earlier scan has found, so that it costs the same whether a hundred
    or a hundred thousand jobs wait. It may name jobs that others have taken since; it is scanned
    anew when it has run dry, when it has grown old, and told of arrivals one by one.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._names: list[str] = []
        self._rescan_at = 0.0

    def hint(self, name: str) -> None:
        """Something called `name` has arrived."""
        if is_id(name):
            heapq.heappush(self._names, name)

    def pop(self) -> str | None:
        """The oldest name, or None if nothing waits."""
        if time.monotonic() >= self._rescan_at:
            self.scan()
        return heapq.heappop(self._names) if self._names else None

    def scan(self) -> None:
        """Look at the directory, which is the truth."""
        started = time.monotonic()
        self._names = ids_in(self._spool.incoming)
        heapq.heapify(self._names)
        took = time.monotonic() - started
        # Every second, or where the scan itself is long, so rarely that it costs two per cent of
        # the time.
        self._rescan_at = started + max(1.0, 50 * took)


class Claims:
    """One worker's way to its jobs. Its lock must be held."""

    def __init__(self, spool: Spool, worker: str, *, max_attempts: int) -> None:
        self._spool = spool
        self._worker = worker
        self._max_attempts = max_attempts
        self._mine = spool.running / worker
        self.backlog = Backlog(spool)

    def next(self) -> "Claim | None":
        """Claim the oldest job that is free, or return None if there is none."""
        while (id := self.backlog.pop()) is not None:
            claim = self._take(id)
            if claim is not None:
                return claim
        return None

    def _take(self, id: str) -> "Claim | None":
        mine = self._mine / id
        if not self._move(self._spool.incoming / id, mine):
            unlink_if_exists(retry_marker(mine))
            self._mine.stat()  # raises if it is gone: then no claim will ever succeed, and no other was faster
            return None
        try:
            with claim_lost_if_missing(mine):
                return self._begin(mine)
        except ClaimLost as error:
            log.warning("%s", error)
            return None

    def _move(self, waiting: Path, mine: Path) -> bool:
        try:
            with opened(waiting) as folder:
                if not (JobFolder(folder).job).exists():  # being copied in under an id
                    return False
                if has_ended(folder):
                    write_marker(retry_marker(mine))
            return self._rename(waiting, mine)
        except (
            FileNotFoundError,
            NotADirectoryError,
        ):  # taken by another; or it is a guest of that name
            return False
        except PermissionError as error:
            if is_folder(mine):  # it is the disk that will not sync, and the job is here
                raise
            note_beside(waiting, f"the worker may not take it: {error.strerror}")
            return False

    def _rename(self, waiting: Path, mine: Path) -> bool:
        try:
            move(waiting, mine)
        except OSError as error:
            if error.errno not in LOST_THE_RACE:
                raise
            # A network file system may have lost the reply to a rename that it made: nobody else
            # writes here.
            return mine.is_dir()
        return True

    def _begin(self, folder: Path) -> "Claim | None":
        sweep_temp_files(folder)  # of somebody who died while cancelling it
        reset_for_retry(folder)
        before = len(JobFolder(folder).attempts())
        claim = Claim(self._spool, self._worker, folder, before + 1)
        if (JobFolder(folder).cancel).exists():
            claim.fail(Cancelled("cancelled before it ran"))
            return None
        if before >= self._max_attempts:
            claim.fail(crashed(before))
            return None
        try:
            check_regular(folder)
        except InvalidRequest as error:
            claim.fail(error)
            return None
        claim.begin()
        return claim


def crashed(attempts: int) -> Crashed:
    """Why a job is given up that its workers did not survive."""
    return Crashed(f"the worker died in each of {attempts} attempts at this job")


@contextmanager
def claim_lost_if_missing(folder: Path) -> Iterator[None]:
    """Raise `ClaimLost` where a file is not found because the whole job has gone."""
    try:
        yield
    except FileNotFoundError:
        if is_folder(folder):
            raise
        message = f"job {folder.name} was taken from this worker, which was silent for too long"
        raise ClaimLost(message) from None


class Claim:
    """A job that this worker holds, in `running/<worker>/`. It ends with `commit`, `fail` or
    `release`.

    Each raises `ClaimLost` if the job is no longer here: this process was taken for dead, and
    somebody else has it.
    """

    def __init__(self, spool: Spool, worker: str, folder: Path, attempt: int) -> None:
        self._spool = spool
        self._worker = worker
        self.folder = folder
        self.attempt = attempt

    @property
    def id(self) -> str:
        """The job's id."""
        return self.folder.name

    def begin(self) -> None:
        """Count this attempt, durably, before any work that might kill the worker."""
        record = Attempt(worker=self._worker, pid=os.getpid(), started_at=datetime.now(UTC))
        self._write(f"attempt-{self.attempt}.json", record.to_json())

    def job(self) -> Job:
        """Read the request. Raises `InvalidRequest` for a `job.json` that a guest has got wrong."""
        return parse_json(Job, read_record(JobFolder(self.folder).job))

    def is_cancelled(self) -> bool:
        """Whether somebody has asked for the job to stop."""
        return (JobFolder(self.folder).cancel).exists()

    def report(self, progress: Progress) -> None:
        """Replace `progress.json`. It is a hint: a full disk does not stop a job for want of it."""
        try:
            with claim_lost_if_missing(self.folder):
                write_hint(JobFolder(self.folder).progress, progress.to_json())
        except OSError as error:
            log.warning("job %s: its progress cannot be shown: %s", self.id, error)

    def save(self, name: str, data: bytes) -> None:
        """Write one picture of the result. It is valid only once `commit` names it."""
        self._write(name, data)

    def commit(self, result: Result) -> None:
        """Write the record that makes the result valid, and move the job to `done/`."""
        self._write(RESULT, result.to_json())
        leave(self._spool, self.folder, State.DONE)

    def fail(self, error: I2iiError, trace: str = "") -> None:
        """Write why, and move the job to `failed/`."""
        with claim_lost_if_missing(self.folder):
            write_failure(
                self.folder, error, attempt=self.attempt, worker=self._worker, trace=trace
            )
        leave(self._spool, self.folder, State.FAILED)

    def release(self, *, uncount_attempt: bool) -> None:
        """Move the job back to `incoming/`, where it keeps its place. A voluntary stop is not
        counted as an attempt."""
        with claim_lost_if_missing(self.folder):
            unlink_if_exists(JobFolder(self.folder).progress)
            if uncount_attempt:
                unlink_if_exists(self.folder / f"attempt-{self.attempt}.json")
            sync_folder(self.folder)
            move(self.folder, self._spool.incoming / self.id)

    def _write(self, name: str, data: bytes) -> None:
        with claim_lost_if_missing(self.folder):
            write_file(self.folder / name, data)


def leave(spool: Spool, folder: Path, state: State) -> None:
    """Move a job that has ended out of `running/` to where it stays."""
    target = spool.root / state / folder.name
    try:
        with claim_lost_if_missing(folder):
            move(folder, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        # Somebody copied a job under its own id while it had already ended once: neither may
        # overwrite the other.
        again = target.with_name(new_id(folder.name))
        log.warning("%s is in %s already; this one ends as %s", folder.name, state, again.name)
        move(folder, again)
