"""A job that ended once and was moved back to `incoming/`, by `retry` or by hand, starts again.

`mv failed/ID incoming/` is all that a retry is. The worker that claims the job resets it. Why it
needs a marker: to reset before the claim could delete files of the worker that won it; to reset
after the claim, without a marker, would leave recovery unable to tell an old ending from a new one.
So the worker writes `.<id>.retry` into its own folder first, then claims, then resets.
"""

from contextlib import suppress
from pathlib import Path

from i2ii_spool.jobs.folder import RETRY_SUFFIX, JobFolder
from i2ii_spool.jobs.ids import is_id
from i2ii_spool.spool.durable_io import sync_folder, unlink_if_exists
from i2ii_spool.spool.outputs import remove_pictures


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
        others = [*job.attempts(), job.progress, job.error_text]
        if not _is_newer(job.cancel, endings):  # else the cancel is meant for this run
            others.append(job.cancel)
        for path in [*others, *endings]:
            unlink_if_exists(path)
        sync_folder(job.path)
    if job.retry_marker.exists():
        unlink_if_exists(job.retry_marker)
        # Before this run can end: with the marker, its ending would not count.
        sync_folder(job.path.parent)


def _is_newer(path: Path, others: list[Path]) -> bool:
    """Whether a file is newer than all of `others` that exist."""
    with suppress(FileNotFoundError):
        newest = path.stat().st_mtime_ns
        return all(newest > other.stat().st_mtime_ns for other in others if other.exists())
    return False
