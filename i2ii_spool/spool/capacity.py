"""Whether there is room for one more job: in the queue, and on the disk."""

import os
from typing import NamedTuple

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


class Room(NamedTuple):
    """What this user may still write to the file system of a spool."""

    free_bytes: int
    free_files: int | None
    """None where the file system has no limit of files."""


def room(spool: Spool) -> Room:
    """Return how much room the spool has."""
    status = os.statvfs(spool.root)
    files = status.f_favail if status.f_files else None
    return Room(status.f_bavail * status.f_frsize, files)


def check_disk(spool: Spool, *, min_free: int) -> None:
    """Raise `DiskFull` if less than `min_free` bytes, or too few files, are free."""
    check_room(room(spool), min_free=min_free)


def check_room(room: Room, *, min_free: int, expected: int = 0) -> None:
    """Raise `DiskFull` if there would be less than `min_free` bytes, or too few files, with
    `expected` bytes more on the disk."""
    if room.free_bytes - expected < min_free:
        free, coming, floor = (size / 2**20 for size in (room.free_bytes, expected, min_free))
        uploads = f", of which {coming:.0f} MiB for the uploads in progress" if expected else ""
        raise DiskFull(
            f"the spool has {free:.0f} MiB free{uploads}, "
            f"and keeps {floor:.0f} MiB: {DISK_FULL_CURE}"
        )
    if room.free_files is not None and room.free_files < MIN_FREE_FILES:
        raise DiskFull(
            f"the disk of the spool takes {room.free_files} more files, "
            f"and keeps {MIN_FREE_FILES}: {DISK_FULL_CURE}"
        )


def free_bytes(spool: Spool) -> int:
    """Bytes that this user may still write to the file system of the spool."""
    return room(spool).free_bytes
