"""What people do to jobs: cancel, retry, remove. Each is one rename or one empty file, so a shell
can do it too."""

import logging
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from i2ii_spool.errors import Cancelled, WrongState
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool.durable_io import move, write_marker
from i2ii_spool.spool.failure import write_error_text, write_failure
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")

CANCELLED = Cancelled("cancelled before it ran")


def cancel(spool: Spool, id: str) -> State:
    """Stop a job that waits or runs; return the state it is in now.

    One that waits is in `failed/` at once. One that runs is asked to stop, and does between two
    steps; it may still end as `done`. Raises `WrongState` if it has ended.
    """
    return _retry_while_moving(spool, id, _cancel)


def _cancel(spool: Spool, place: JobLocation) -> State:
    if place.state not in (State.INCOMING, State.RUNNING):
        raise WrongState(f"job {place.id} is in {place.state} already; there is nothing to cancel")
    # The wish first: should we die before the rename, or lose it to a worker's claim, the job still
    # stops.
    write_marker(JobFolder(place.folder).cancel)
    if place.state is State.RUNNING:
        return State.RUNNING
    # An `error.json` would make a job that a worker claims now look as if it had been sent back to
    # the queue.
    write_error_text(place.folder, CANCELLED)
    failed = spool.failed / place.id
    move(place.folder, failed)
    with suppress(
        FileNotFoundError
    ):  # it was retried or deleted already; cancelled it was, and need not be again
        write_failure(failed, CANCELLED)
    return State.FAILED


def retry(spool: Spool, id: str) -> None:
    """Send a failed job back to the queue, where it has its old place. Raises `WrongState` if it
    has not failed."""
    _retry_while_moving(spool, id, _retry)


def _retry(spool: Spool, place: JobLocation) -> None:
    if place.state is not State.FAILED:
        raise WrongState(f"job {place.id} is in {place.state}; only a failed job can be retried")
    if not (
        JobFolder(place.folder).error
    ).exists():  # whoever cancelled it died on the way: `cancel` must not outlive this
        write_failure(place.folder, CANCELLED)
    move(
        place.folder, spool.incoming / place.id
    )  # whoever claims it clears what its earlier life has left


def delete_job(spool: Spool, id: str) -> None:
    """Delete a job that has ended, for good. Raises `WrongState` if it waits or runs."""
    _retry_while_moving(spool, id, _delete)


def _delete(spool: Spool, place: JobLocation) -> None:
    if place.state not in (State.DONE, State.FAILED):
        raise WrongState(f"job {place.id} is in {place.state}; cancel it first")
    trashed = spool.trash / place.id
    move(place.folder, trashed)
    try:
        delete_trashed(trashed)
    except FileNotFoundError:  # a sweep is at it as well
        return
    except (
        OSError
    ) as error:  # it is deleted already; what cannot be removed of it is for the sweep to try again
        log.warning("job %s is deleted, but %s stays on the disk: %s", place.id, trashed, error)


def delete_trashed(trashed: Path) -> None:
    """Remove a job in `.trash/`, and leave a mark there that it once was."""
    write_marker(trashed.with_name(f"{trashed.name}.gone"))
    delete_tree(trashed)


def delete_tree(folder: Path) -> None:
    """Remove a folder of `.trash/` with all that is in it.

    A guest may be deeper than a path, or a recursion, can go: a folder within is moved up, and
    removed in its turn.
    """
    pending = [folder]
    while pending:
        current = pending.pop()
        for entry in list(os.scandir(current)):
            if entry.is_dir(follow_symlinks=False):
                pending.append(folder.with_name(f".{secrets.token_hex(8)}"))
                os.rename(entry.path, pending[-1])
            else:
                os.unlink(entry.path)
        os.rmdir(current)


def _retry_while_moving(
    spool: Spool, id: str, act: Callable[[Spool, JobLocation], Outcome]
) -> Outcome:
    """Act on a job where it lies; if it moves on under our hands, look again."""
    while True:
        try:
            return act(spool, find(spool, id))
        except FileNotFoundError:
            continue
