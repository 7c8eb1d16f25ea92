"""Whether there is room for one more job: in the queue, on the disk."""

import os

from i2ii_spool.errors import DISK_FULL_CURE, DiskFull, QueueFull
from i2ii_spool.spool.layout import Spool

MIN_FREE_FILES = 256
"""A job makes up to a dozen."""


def check_queue(waiting: int, *, max_queue: int, seconds_between_completions: float | None) -> None:
    """Raise `QueueFull` if `waiting` jobs are all that may wait; `retry_after` is when a place
    should be free."""
    if waiting < max_queue:
        return
    jobs_over = waiting - max_queue + 1
    wait = (
        60
        if seconds_between_completions is None
        else min(3600, max(1, round(jobs_over * seconds_between_completions)))
    )
    raise QueueFull(
        f"{waiting} jobs wait, and at most {max_queue} may; try again in {wait} s", retry_after=wait
    )


def check_disk(spool: Spool, *, min_free: int) -> None:
    """Raise `DiskFull` if less than `min_free` bytes are free, or hardly any files more can be
    made."""
    status = os.statvfs(spool.root)
    free = _free_bytes(status)
    if free < min_free:
        raise DiskFull(
            f"the spool has {free / 2**20:.0f} MiB free, and keeps {min_free / 2**20:.0f} MiB: {DISK_FULL_CURE}"
        )
    if (
        status.f_files and status.f_favail < MIN_FREE_FILES
    ):  # some file systems have no such limit, and say 0
        raise DiskFull(
            f"the spool's disk takes {status.f_favail} more files, and keeps {MIN_FREE_FILES}: {DISK_FULL_CURE}"
        )


def free_bytes(spool: Spool) -> int:
    """Bytes that this user may still write to the spool's file system."""
    return _free_bytes(os.statvfs(spool.root))


def _free_bytes(status: os.statvfs_result) -> int:
    return status.f_bavail * status.f_frsize
