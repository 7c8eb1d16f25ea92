"""What has happened to a job, told from its records: events, with ids that every server gives them.

An id is the time of the event, its job and its name. A client that has one can ask any server on
the spool for what came after.
"""

import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple, Self

from i2ii_spool.errors import InvalidRequest
from i2ii_spool.jobs.folder import JobFolder, retry_stale
from i2ii_spool.jobs.ids import ID
from i2ii_spool.jobs.records import Attempt, read_or_none
from i2ii_spool.spool.layout import State
from i2ii_spool.spool.lookup import JobLocation
from i2ii_spool.spool.status import ENDS, JobStatus

QUEUED, STARTED = "queued", "started"
SKEW_MS = 5000
"""By so much the clocks of two hosts may differ."""
_EVENT_ID = re.compile(rf"(\d{{13}})-({ID.pattern})-({'|'.join((QUEUED, STARTED, *ENDS))})")


class Event(NamedTuple):
    """Something that has happened to a job."""

    at: int
    """Milliseconds since 1970, by the clock of the host that wrote the record."""
    job: str
    name: str

    @property
    def id(self) -> str:
        """The same on every server."""
        return f"{self.at:013}-{self.job}-{self.name}"

    @classmethod
    def parse(cls, id: str, field: str) -> Self:
        """Return the event that has this id. Raises `InvalidRequest`."""
        match = _EVENT_ID.fullmatch(id)
        if match is None:
            raise InvalidRequest(
                f"{field} is not the id of an event; send that of the last one, or none",
                field=field,
            )
        return cls(int(match[1]), match[2], str(match.groups()[-1]))


def history(location: JobLocation, job: JobStatus) -> list[Event]:
    """Return what has happened to a job up to its status: it was queued, was started (the last
    time), has ended. Raises `FileNotFoundError` if it has moved."""
    return list(_events(location, job))


def _events(location: JobLocation, job: JobStatus) -> Iterator[Event]:
    id, folder = job.request_id, JobFolder(location.folder)
    attempts = folder.attempts()
    came_back = location.state is State.INCOMING and (attempts or folder.has_ended())
    queued_at = 0 if came_back else _milliseconds(job.submitted_at)
    yield Event(queued_at or changed_at(location), id, QUEUED)
    if location.state is State.INCOMING:
        return
    attempt = read_or_none(Attempt, attempts[-1]) if attempts else None
    if attempt is not None:
        yield Event(_milliseconds(attempt.started_at), id, STARTED)
    if job.has_ended:
        yield Event(_milliseconds(job.completed_at) or changed_at(location), id, job.status)


def missed(events: Sequence[Event], last: Event) -> list[Event]:
    """Return those of a job's events that came after `last`, which may be of another job."""
    if last in events:
        return list(events[events.index(last) + 1 :])
    return [event for event in events if event.at > last.at - SKEW_MS]


def changed_at(location: JobLocation) -> int:
    """When the folder of a job was moved, or something in it changed: milliseconds since 1970."""
    return retry_stale(partial(os.stat, location.folder)).st_ctime_ns // 10**6


def _milliseconds(at: datetime | None) -> int:
    return 0 if at is None else int(at.timestamp() * 1000)
