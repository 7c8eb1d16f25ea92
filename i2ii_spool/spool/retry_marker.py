"""A job that ended once and was moved back to `incoming/`, by `retry` or by hand, starts again.

`mv failed/ID incoming/` is all that a retry is. The worker that claims the job resets it. Why it
needs a marker: to reset before the claim could delete files of the worker that won it; to reset
after the claim, without a marker, would leave recovery unable to tell an old ending from a new one.
So the worker writes `.<id>.retry` into its own folder first, then claims, then resets.
"""

from contextlib import suppress
from pathlib import Path

from i2ii_spool.errors import Cancelled
from i2ii_spool.jobs.folder import RETRY_SUFFIX, JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.jobs.records import Failure, read_or_none
from i2ii_spool.spool.durable_io import sync_folder, unlink_if_exists
from i2ii_spool.spool.outputs import remove_pictures

SECOND = 10**9
"""In the nanoseconds of a time of a file."""


def is_retry_marker(name: str) -> bool:
    """Whether a name in a worker's folder is that of a marker."""
    is_marker = name.startswith(".") and name.endswith(RETRY_SUFFIX)
    return is_marker and is_id(name[1 : -len(RETRY_SUFFIX)])


def reset_for_retry(job: JobFolder) -> None:
    """Remove what the earlier run of a claimed job has left, if it ended; then the marker.

    The record of the ending is removed last: a reset that is interrupted is seen to be needed.
    """
    endings = [job.result, job.error]
    if job.has_ended():
        if job.result.exists():  # a job that failed has no picture of a worker
            remove_pictures(job)
        others = [*job.attempts(), job.progress, job.webhook, job.error_text]
        if not _is_for_this_run(job.cancel, endings):
            others.append(job.cancel)
        for path in [*others, *endings]:
            unlink_if_exists(path)
        sync_folder(job.path)
    if job.retry_marker.exists():
        unlink_if_exists(job.retry_marker)
        # Before this run can end: with the marker, its ending would not count.
        sync_folder(job.path.parent)


def _is_for_this_run(cancel: Path, endings: list[Path]) -> bool:
    """Whether there is a cancel file that was made after all of `endings` that exist."""
    with suppress(FileNotFoundError):
        cancelled_at = cancel.stat().st_mtime_ns
        return all(_came_before(cancelled_at, ending) for ending in endings if ending.exists())
    return False


def _came_before(cancelled_at: int, ending: Path) -> bool:
    """Whether the earlier run had ended before that time, in ns."""
    ended_at = ending.stat().st_mtime_ns
    if cancelled_at == ended_at and ended_at % SECOND == 0:
        # A file system that counts whole seconds, as MooseFS does, cannot tell. The cancel has
        # caused an ending that says so; another failure may have come before it.
        failure = read_or_none(Failure, ending)
        return failure is not None and failure.code != Cancelled.code
    return cancelled_at > ended_at
