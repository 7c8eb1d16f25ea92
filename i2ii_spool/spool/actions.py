"""What clients and operators do to jobs: cancel, retry, delete.

Each is one rename or one empty file, so that a shell can do it too.
"""

import errno
import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from i2ii_spool.errors import Cancelled, WrongState
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool import thumbnails
from i2ii_spool.spool.durable_io import move, write_marker
from i2ii_spool.spool.failure import write_error_text, write_failure
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find
from i2ii_spool.spool.outputs import remove_pictures
from i2ii_spool.spool.side_files import is_silly_renamed

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

CANCELLED = Cancelled("cancelled before it ran")
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class StillOpen(OSError):
    """A process has files of a folder open: NFS keeps them, and so the folder, until they are
    closed."""


def cancel(spool: Spool, id: str, *, seen: State | None = None) -> State:
    """Cancel a job that waits or runs; return the state that it is in now.

    A waiting job is in `failed/` at once. A running job stops between two steps; it may still end
    as `done`. Raises `WrongState` if the job has ended, or is not in the state that the caller has
    `seen`.
    """
    return _follow(spool, id, partial(_if_seen, seen, _cancel))


def was_cancelled(spool: Spool, id: str) -> bool:
    """Whether the cancellation of a job has been asked for, however it ended."""
    return JobFolder(find(spool, id).folder).cancel.exists()


def _if_seen(
    seen: State | None,
    action: Callable[[Spool, JobLocation], Outcome],
    spool: Spool,
    location: JobLocation,
) -> Outcome:
    if seen is not None and location.state is not seen:
        raise WrongState(f"job {location.id} is in {location.state}, not in {seen}; look again")
    return action(spool, location)


def _cancel(spool: Spool, location: JobLocation) -> State:
    if location.state not in (State.INCOMING, State.RUNNING):
        raise WrongState(
            f"job {location.id} is in {location.state} already; there is nothing to cancel"
        )
    # The cancel file first: if this process dies before the rename, or a worker claims the job
    # first, the job is still cancelled.
    _mark_cancelled(JobFolder(location.folder))
    if location.state is State.RUNNING:
        return State.RUNNING
    # error.json only after the move: a worker that claims the job now would take it for an earlier
    # ending of a retried job.
    write_error_text(location.folder, CANCELLED)
    failed = spool.failed / location.id
    move(location.folder, failed)
    with suppress(FileNotFoundError):  # it was retried or deleted since: it was cancelled before
        remove_pictures(JobFolder(failed))
        write_failure(failed, CANCELLED)
    return State.FAILED


def _mark_cancelled(job: JobFolder) -> None:
    with suppress(FileNotFoundError, PermissionError):  # there is none, or a user has made it
        # The file of a cancel of the earlier run: a worker that resets the job at this moment is to
        # see that this one came after the ending.
        os.utime(job.cancel, follow_symlinks=False)
    write_marker(job.cancel)


def retry(spool: Spool, id: str) -> None:
    """Move a failed job back to the queue, to its old place. Raises `WrongState` otherwise."""
    _follow(spool, id, _retry)


def _retry(spool: Spool, location: JobLocation) -> None:
    if location.state is not State.FAILED:
        raise WrongState(
            f"job {location.id} is in {location.state}; only a failed job can be retried"
        )
    # A cancel that was interrupted wrote none. Without one, `cancel` would hold for the new run.
    if not JobFolder(location.folder).error.exists():
        write_failure(location.folder, CANCELLED)
    move(location.folder, spool.incoming / location.id)  # the worker that claims it resets it


def delete_job(spool: Spool, id: str, *, seen: State | None = None) -> None:
    """Delete a job that has ended.

    Raises `WrongState` if it waits or runs, or is not in the state that the caller has `seen`.
    """
    _follow(spool, id, partial(_if_seen, seen, _delete))


def _delete(spool: Spool, location: JobLocation) -> None:
    if location.state not in (State.DONE, State.FAILED):
        raise WrongState(f"job {location.id} is in {location.state}; cancel it first")
    trashed = spool.trash / location.id
    move(location.folder, trashed)
    try:
        thumbnails.delete(spool, location.id)
        delete_trashed(trashed)
    except (FileNotFoundError, StillOpen):  # a sweep deletes it too, or will
        return
    except OSError as error:  # the job is deleted; `sweep` tries again to remove the rest
        log.warning(
            "job %s is deleted, but %s stays on the disk: %s",
            location.id,
            trashed,
            error,
            extra=fields(JobEvent.DELETED, location.id),
        )


def delete_trashed(trashed: Path) -> None:
    """Remove a job in `.trash/`, and leave a file there that remembers it. Raises `StillOpen`."""
    write_marker(trashed.with_name(f"{trashed.name}.gone"))
    delete_tree(trashed)


def discard_staged(folder: Path) -> None:
    """Remove a folder of `.tmp/`.

    First its name: a submit with the key of its job may publish it at this moment, and shall do so
    whole or not at all.
    """
    discarded = folder.with_name(f".{secrets.token_hex(8)}")
    os.rename(folder, discarded)
    delete_tree(discarded)


def delete_tree(folder: Path) -> None:
    """Remove a folder of `.trash/` or `.tmp/` with all that is in it.

    Every entry is reached through the descriptor of the folder that holds it, and no link is
    followed: a folder that is swapped for a link meanwhile does not lead outside. A guest may be
    deeper than a path or a recursion can go: a folder inside is moved up, and removed in its turn.

    Raises `StillOpen` if only files that a process has open are left.
    """
    parent = os.open(folder.parent, FOLDER_FLAGS)
    try:
        pending = [folder.name]
        while pending:
            name = pending.pop()
            pending += _empty(name, parent)
            _rmdir(name, parent)
    finally:
        os.close(parent)


def _rmdir(name: str, parent: int) -> None:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY and all(map(is_silly_renamed, _names_in(name, parent))):
            raise StillOpen(error.errno, "files in it are open", name) from None
        raise


def _names_in(name: str, parent: int) -> list[str]:
    folder = os.open(name, FOLDER_FLAGS, dir_fd=parent)
    try:
        return os.listdir(folder)
    finally:
        os.close(folder)


def _empty(name: str, parent: int) -> list[str]:
    """Remove the files of a folder, and move its folders up to `parent`; return their names."""
    moved = []
    folder = os.open(name, FOLDER_FLAGS, dir_fd=parent)
    try:
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                moved.append(f".{secrets.token_hex(8)}")
                os.rename(entry.name, moved[-1], src_dir_fd=folder, dst_dir_fd=parent)
            else:
                _unlink(entry.name, folder)
    finally:
        os.close(folder)
    return moved


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        if not (error.errno == errno.EBUSY and is_silly_renamed(name)):
            raise


def _follow(spool: Spool, id: str, act: Callable[[Spool, JobLocation], Outcome]) -> Outcome:
    """Act on a job where it is; if it moves meanwhile, find it again."""
    while True:
        try:
            return act(spool, find(spool, id))
        except FileNotFoundError:
            continue
