"""Finding jobs: every answer is read from the directories."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from i2ii_spool.errors import Deleted, NotFound
from i2ii_spool.jobs.ids import ID, check_id
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.layout import Spool, State

PASSES = 3
"""A job that is requeued or retried during a pass can be missed once; twice was never seen."""


@dataclass(frozen=True)
class JobLocation:
    """Where a job was a moment ago."""

    id: str
    state: State
    folder: Path

    @property
    def worker(self) -> str | None:
        """The worker that runs it, if it is running."""
        return self.folder.parent.name if self.state is State.RUNNING else None


def find(spool: Spool, id: str) -> JobLocation:
    """Return where the job is. Raises `Deleted` if it was deleted, `NotFound` if it never was."""
    check_id(id)
    for _ in range(PASSES):
        for location in _possible(spool, id):
            if is_folder(location.folder):
                return location
    # A network file system may cache for half a minute that a name was absent. A listing is fresh.
    for location in _possible(spool, id):
        with os.scandir(location.folder.parent) as entries:
            if any(entry.name == id and entry.is_dir(follow_symlinks=False) for entry in entries):
                return location
    if (spool.trash / id).exists() or (spool.trash / f"{id}.gone").exists():
        raise Deleted(f"job {id} has been deleted")
    raise NotFound(f"there is no job {id}")


def _possible(spool: Spool, id: str) -> Iterator[JobLocation]:
    """In the order in which a job moves: one that moves on during the pass is met again later."""
    yield JobLocation(id, State.INCOMING, spool.incoming / id)
    for worker in worker_folders(spool):
        yield JobLocation(id, State.RUNNING, worker / id)
    yield JobLocation(id, State.DONE, spool.done / id)
    yield JobLocation(id, State.FAILED, spool.failed / id)


def worker_folders(spool: Spool) -> list[Path]:
    """The folders in `running/`: one for each worker that ever worked here.

    One that is closed to this user is left out: the jobs of the others can be found.
    """
    with os.scandir(spool.running) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and os.access(entry.path, os.R_OK | os.X_OK)
        ]


def ids_in(folder: Path) -> list[str]:
    """The ids of the jobs in a folder, unsorted."""
    return [name for name in os.listdir(folder) if ID.fullmatch(name)]


def queued_ids(spool: Spool) -> list[str]:
    """The ids of the jobs in `incoming/`, in queue order."""
    return sorted(ids_in(spool.incoming))


def count(spool: Spool) -> dict[State, int]:
    """How many jobs are in each state."""
    return {
        State.INCOMING: len(ids_in(spool.incoming)),
        State.RUNNING: sum(len(ids_in(worker)) for worker in worker_folders(spool)),
        State.DONE: len(os.listdir(spool.done)),
        State.FAILED: len(os.listdir(spool.failed)),
    }


def list_jobs(
    spool: Spool, state: State | None = None, *, limit: int = 100, after: str | None = None
) -> list[JobLocation]:
    """The newest `limit` jobs, newest first, in one state or in all.

    With `after`, only jobs older than that id.
    """
    folders = {
        State.INCOMING: [spool.incoming],
        State.RUNNING: worker_folders(spool),
        State.DONE: [spool.done],
        State.FAILED: [spool.failed],
    }
    locations: dict[str, JobLocation] = {}
    for each in State if state is None else [state]:
        for folder in folders[each]:
            for id in ids_in(folder):
                if after is None or id < after:
                    locations.setdefault(id, JobLocation(id, each, folder / id))
    return [locations[id] for id in sorted(locations, reverse=True)[:limit]]
