"""What happens in a spool, seen by looking at it again and again.

A look lists the jobs that wait and run, and reads those that have come, moved or run. Of jobs that
come and end between two looks the caller must have heard; on a network file system, which tells
nothing, they are looked for among the newest.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from i2ii_spool.errors import I2iiError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.spool.history import QUEUED, changed_at, history
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import (
    JobLocation,
    find,
    ids_in,
    list_jobs,
    queued_ids,
    worker_folders,
)
from i2ii_spool.spool.status import JobStatus, status_of

STEP = "step"
PLACE_SECONDS = 2.0
"""Not more often a new place in the queue is told."""
REMEMBERED_SECONDS = 60.0
"""For so long it is known that the end of a job was told."""
MAX_LISTED = 200


class Change(NamedTuple):
    """Something that has happened to a job."""

    name: str
    job: JobStatus
    """As it is now."""
    id: str | None = None
    """Of the event (`history.Event`); None for a step and a new place in the queue."""
    is_place: bool = False
    """Whether it is only a new place in the queue."""


@dataclass
class Seen:
    """A job that runs or has ended, as the last look saw it."""

    location: JobLocation
    job: JobStatus
    told: frozenset[str]
    """The ids of its events up to now."""
    at: float
    """When it was read, on the monotonic clock."""


def _has_just_ended(location: JobLocation, since: float) -> bool:
    """Whether a job has moved to where it ended since a time. What its webhook answers changes the
    folder, too."""
    if changed_at(location) <= since:
        return False
    job = JobFolder(location.folder)
    if not job.webhook.exists():
        return True
    ended = [path.stat().st_mtime for path in (job.result, job.error) if path.exists()]
    return any(1000 * at > since for at in ended)


class Changes:
    """The changes of a spool. The first look only takes in what is there."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._is_first = True
        self._waiting: Set[str] = frozenset()
        self._seen: dict[str, Seen] = {}
        self._places: dict[str, JobStatus] = {}
        self._places_at = 0.0

    def look(self, arrived: Set[str], followed: Set[str]) -> tuple[list[Change], Set[str]]:
        """Return what has happened since the last look, and the jobs that are no more.

        `arrived` are names that have appeared in a folder of the spool; of the jobs that are
        `followed` each new place in the queue is told.
        """
        queue = queued_ids(self._spool)
        waiting = frozenset(queue)
        moved = {
            id: JobLocation(id, State.RUNNING, worker / id)
            for worker in worker_folders(self._spool)
            for id in ids_in(worker)
        }
        if not self._is_first:
            for id in waiting - self._waiting:
                moved[id] = JobLocation(id, State.INCOMING, self._spool.incoming / id)
        gone = (self._waiting | self._seen.keys() | arrived) - waiting - moved.keys()
        for id in gone:
            with suppress(I2iiError):  # it is deleted, or no job
                moved[id] = find(self._spool, id)
        if self._spool.is_on_network:
            moved |= self._just_ended(moved.keys() | waiting)
        changes: list[Change] = []
        for location in moved.values():
            with suppress(FileNotFoundError):  # it moves on: the next look sees where
                changes += self._of_job(location, queue)
        changes += self._new_places(queue, followed & waiting)
        self._waiting = waiting
        self._forget(moved.keys())
        if self._is_first:
            self._is_first = False
            return [], frozenset()
        return changes, gone - moved.keys()

    def _just_ended(self, known: Set[str]) -> dict[str, JobLocation]:
        since = time.time() * 1000 - REMEMBERED_SECONDS * 500
        found = {}
        for location in list_jobs(self._spool, limit=MAX_LISTED):
            with suppress(FileNotFoundError):
                if location.id not in known and _has_just_ended(location, since):
                    found[location.id] = location
        return found

    def _of_job(self, location: JobLocation, queue: Sequence[str]) -> Iterator[Change]:
        id, seen = location.id, self._seen.get(location.id)
        if seen is not None and seen.job.has_ended and seen.location == location:
            return
        job = status_of(self._spool, location, queue=queue)
        if job is None:
            return
        events = history(location, job)
        told = frozenset() if seen is None else seen.told
        fresh = [event for event in events if event.id not in told]
        if location.state is State.INCOMING:
            self._seen.pop(id, None)
            yield Change(QUEUED, job, fresh[0].id if fresh else None)
            return
        self._seen[id] = Seen(location, job, told.union(e.id for e in events), time.monotonic())
        if seen is not None or id in self._waiting:
            fresh = [event for event in fresh if event.name != QUEUED]
        yield from (Change(event.name, job, event.id) for event in fresh)
        if seen is not None and not fresh and job != seen.job:
            yield Change(STEP, job)

    def _new_places(self, queue: Sequence[str], ids: Set[str]) -> Iterator[Change]:
        now = time.monotonic()
        if now < self._places_at:
            return
        self._places_at = now + PLACE_SECONDS
        self._places = {id: job for id, job in self._places.items() if id in ids}
        for id in ids:
            known, position = self._places.get(id), bisect_left(queue, id) + 1
            if known is None:
                location = JobLocation(id, State.INCOMING, self._spool.incoming / id)
                if (job := status_of(self._spool, location, queue=queue)) is not None:
                    self._places[id] = job
            elif known.position != position:
                self._places[id] = job = known.model_copy(update={"position": position})
                yield Change(QUEUED, job, is_place=True)

    def _forget(self, found: Set[str]) -> None:
        """Forget the jobs that are no more, and after a while those that have ended."""
        since = time.monotonic() - REMEMBERED_SECONDS
        self._seen = {
            id: seen
            for id, seen in self._seen.items()
            if id in found and not (seen.job.has_ended and seen.at < since)
        }
