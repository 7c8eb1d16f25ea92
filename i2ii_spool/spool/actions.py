"""What clients and operators do to jobs: cancel, retry, delete.

Each is one rename or one empty file, so that a shell can do it too.
"""

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from i2ii_spool.errors import Cancelled, WrongState
from i2ii_spool.events import JobEvent, fields
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool.durable_io import move, write_marker
from i2ii_spool.spool.failure import write_error_text, write_failure
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find
from i2ii_spool.spool.outputs import remove_pictures

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

CANCELLED = Cancelled("cancelled before it ran")
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def cancel(spool: Spool, id: str) -> State:
    """Cancel a job that waits or runs; return the state that it is in now.

    A waiting job is in `failed/` at once. A running job stops between two steps; it may still end
    as `done`. Raises `WrongState` if the job has ended.
    """
    return _follow(spool, id, _cancel)


def _cancel(spool: Spool, location: JobLocation) -> State:
    if location.state not in (State.INCOMING, State.RUNNING):
        raise WrongState(
            f"job {location.id} is in {location.state} already; there is nothing to cancel"
        )
    # The cancel file first: if this process dies before the rename, or a worker claims the job
    # first, the job is still cancelled.
    write_marker(JobFolder(location.folder).cancel)
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


def delete_job(spool: Spool, id: str) -> None:
    """Delete a job that has ended. Raises `WrongState` if it waits or runs."""
    _follow(spool, id, _delete)


def _delete(spool: Spool, location: JobLocation) -> None:
    if location.state not in (State.DONE, State.FAILED):
        raise WrongState(f"job {location.id} is in {location.state}; cancel it first")
    trashed = spool.trash / location.id
    move(location.folder, trashed)
    try:
        delete_trashed(trashed)
    except FileNotFoundError:  # a sweep deletes it too
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
    """Remove a job in `.trash/`, and leave a file there that remembers it."""
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
    """
    parent = os.open(folder.parent, FOLDER_FLAGS)
    try:
        pending = [folder.name]
        while pending:
            name = pending.pop()
            pending += _empty(name, parent)
            os.rmdir(name, dir_fd=parent)
    finally:
        os.close(parent)


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
                os.unlink(entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    return moved


def _follow(spool: Spool, id: str, act: Callable[[Spool, JobLocation], Outcome]) -> Outcome:
    """Act on a job where it is; if it moves meanwhile, find it again."""
    while True:
        try:
            return act(spool, find(spool, id))
        except FileNotFoundError:
            continue
