"""Whether there is room for one more job: in the queue, and on the disk."""

import os

from i2ii_spool.errors import DISK_FULL_CURE, DiskFull, QueueFull
from i2ii_spool.spool.layout import Spool

MIN_FREE_FILES = 256
"""A job needs up to a dozen."""


def check_queue(waiting: int, *, max_queue: int, seconds_between_completions: float | None) -> None:
    """Raise `QueueFull` if `waiting` jobs fill the queue.

    `retry_after` is when a place should be free, at most an hour; a minute where the pace of the
    workers is not known.
    """
    if waiting < max_queue:
        return
    wait = 60
    if seconds_between_completions is not None:
        jobs_over = waiting - max_queue + 1
        wait = min(3600, max(1, round(jobs_over * seconds_between_completions)))
    message = f"{waiting} jobs wait, and at most {max_queue} may; try again in {wait} s"
    raise QueueFull(message, retry_after=wait)


def check_disk(spool: Spool, *, min_free: int) -> None:
    """Raise `DiskFull` if less than `min_free` bytes, or too few files, are free."""
    status = os.statvfs(spool.root)
    free = status.f_bavail * status.f_frsize
    if free < min_free:
        free_mib, floor_mib = free / 2**20, min_free / 2**20
        raise DiskFull(
            f"the spool has {free_mib:.0f} MiB free, "
            f"and keeps {floor_mib:.0f} MiB: {DISK_FULL_CURE}"
        )
    # Some file systems have no limit of files, and report 0.
    if status.f_files and status.f_favail < MIN_FREE_FILES:
        raise DiskFull(
            f"the disk of the spool takes {status.f_favail} more files, "
            f"and keeps {MIN_FREE_FILES}: {DISK_FULL_CURE}"
        )


def free_bytes(spool: Spool) -> int:
    """Bytes that this user may still write to the file system of the spool."""
    status = os.statvfs(spool.root)
    return status.f_bavail * status.f_frsize
