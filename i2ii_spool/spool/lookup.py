"""Finding jobs: every answer is read from the directories."""

import errno
import heapq
import os
import stat
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from i2ii_spool.errors import Deleted, NotFound
from i2ii_spool.jobs.folder import retry_stale
from i2ii_spool.jobs.ids import ID, check_id
from i2ii_spool.spool.layout import Spool, State

PASSES = 3
"""A job that is requeued or retried during a pass can be missed once; twice was never seen."""


LISTING_SECONDS = 1.0
_listings: dict[Path, tuple[float, frozenset[str]]] = {}
"""When the jobs of each spool were listed, and their ids."""

SETTLED_NS = 2 * 10**9
"""The age of a folder's last change from which on another change gets another time: clocks of file
systems are coarse."""
_sorted: dict[Path, tuple[int, list[str]]] = {}
"""When each folder was changed before it was listed, and its ids in order."""


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
    if (found := retry_stale(partial(_find, spool, id))) is not None:
        return found
    spool.refresh(spool.trash)
    if (spool.trash / id).exists() or (spool.trash / f"{id}.gone").exists():
        raise Deleted(f"job {id} has been deleted")
    if spool.is_on_network and (listed := _find_in_listings(spool, id)) is not None:
        return listed
    raise NotFound(f"there is no job {id}")


def _find(spool: Spool, id: str) -> JobLocation | None:
    """Raises `OSError` (ESTALE) if it may be where nothing can be told now."""
    stale: OSError | None = None
    for _ in range(PASSES):
        stale = None
        for location in _possible(spool, id):
            try:
                if _is_there(spool, location.folder):
                    return location
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
                stale = error  # a look at its old name has the kernel forget that one
    if stale is not None:
        raise stale
    return None


def _is_there(spool: Spool, folder: Path) -> bool:
    """Raises `OSError` (ESTALE), where `is_folder` would wait: the other places come first."""
    try:
        spool.refresh(folder.parent)
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            with suppress(PermissionError):  # its user has closed it to others
                spool.refresh(folder)
            return True
    except FileNotFoundError:  # the job has moved on, or its worker is retired
        pass
    return False


def _find_in_listings(spool: Spool, id: str) -> JobLocation | None:
    """Look for a job that a network file system does not show yet under its name.

    With some, only a listing is fresh (docs/many-hosts.md), and it is expensive: all that look for
    what is not there share one a second.
    """
    listed_at, ids = _listings.get(spool.root, (-LISTING_SECONDS, frozenset()))
    if time.monotonic() >= listed_at + LISTING_SECONDS:
        folders = dict.fromkeys(place.folder.parent for place in _possible(spool, id))
        ids = frozenset(name for folder in folders for name in ids_in(folder))
        _listings[spool.root] = time.monotonic(), ids
    if id not in ids:
        return None
    for location in _possible(spool, id):
        with os.scandir(location.folder.parent) as entries:
            if any(entry.name == id and entry.is_dir(follow_symlinks=False) for entry in entries):
                return location
    return None


def _possible(spool: Spool, id: str) -> Iterator[JobLocation]:
    """In the order in which a job moves: one that moves on during the pass is met again later."""
    ended = [
        JobLocation(id, State.DONE, spool.done / id),
        JobLocation(id, State.FAILED, spool.failed / id),
    ]
    yield JobLocation(id, State.INCOMING, spool.incoming / id)
    if spool.is_on_network:  # before some calls for each worker that there is
        yield from ended
    for worker in worker_folders(spool):
        yield JobLocation(id, State.RUNNING, worker / id)
    yield from ended


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


def unended_ids(spool: Spool) -> set[str]:
    """The ids of the jobs that wait or run. One that goes back to `incoming/` may be missing."""
    ids = set(ids_in(spool.incoming))
    return ids.union(*(ids_in(worker) for worker in worker_folders(spool)))


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
    found: dict[str, tuple[State, Path]] = {}
    for each in State if state is None else [state]:
        for folder in folders[each]:
            for id in _newest_ids(folder, limit, after):
                found.setdefault(id, (each, folder))
    newest = heapq.nlargest(limit, found)
    return [JobLocation(id, found[id][0], found[id][1] / id) for id in newest]


def _newest_ids(folder: Path, limit: int, after: str | None) -> list[str]:
    """The `limit` newest ids in a folder, or the newest that are older than `after`.

    A folder that does not change is listed and sorted once.
    """
    changed = os.stat(folder).st_mtime_ns
    listed, ids = _sorted.get(folder, (None, []))
    if listed != changed:
        ids = ids_in(folder)
        if time.time_ns() - changed < SETTLED_NS:
            return heapq.nlargest(limit, (id for id in ids if after is None or id < after))
        ids.sort()
        _sorted[folder] = changed, ids
    end = len(ids) if after is None else bisect_left(ids, after)
    return ids[max(0, end - limit) : end]
