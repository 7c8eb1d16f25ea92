"""What there is to tell, found in the folders of jobs: no process need tell the deliverer.

Names that appear in a folder of the spool are hints. A scan finds what they have missed, as after
a restart; it reads a job that has ended once, and lists it after that.
"""

import time
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime

from i2ii_spool.errors import I2iiError
from i2ii_spool.spool.history import STARTED, Event, changed_at, history
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find, ids_in, worker_folders
from i2ii_spool.spool.status import ENDS, JobStatus, status_of
from i2ii_spool.spool.webhook import (
    GIVE_UP_SECONDS,
    Deliveries,
    Delivery,
    read_deliveries,
    type_of,
    wanted,
)
from i2ii_spool.webhooks.messages import Message, begun

SCAN_SECONDS = 10.0
"""Between two scans, unless they take long."""
SCAN_SHARE = 50
"""A scan is followed by a pause of so many times its duration."""
PROGRESS = "progress"
PROGRESS_SECONDS = 1.0
"""Not more often a job's progress is told."""
UNWRITTEN_SECONDS = 10.0
"""For so long the record of a job's end may come after its move: that of a cancel."""

Found = tuple[Message, Delivery]


class Finder:
    """Looks for messages, again and again, in one thread."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._judged: set[str] = set()
        """Jobs that have ended and whose messages were found."""
        self._is_first = True
        self._scan_at = 0.0
        self._unrecorded: dict[str, JobLocation] = {}
        """Jobs that have ended and whose record may not be there yet: they are looked at again."""
        self._progress: dict[str, tuple[float, object]] = {}

    def look(self, arrived: Set[str]) -> list[Found]:
        """Return the messages that are to be told. Some may have been returned before.

        `arrived` are names that have appeared in a folder of the spool.
        """
        self._judged -= arrived
        found = list(self._of_running())
        places = [
            JobLocation(id, state, self._spool.root / state / id)
            for id in arrived
            for state in (State.DONE, State.FAILED)
        ]
        places += self._unrecorded.values()
        self._unrecorded = {}
        if time.monotonic() >= self._scan_at:
            started = time.monotonic()
            places += self._scan()
            self._is_first = False
            took = time.monotonic() - started
            self._scan_at = started + took + max(SCAN_SECONDS, SCAN_SHARE * took)
        for location in places:
            with suppress(FileNotFoundError):  # it is not there, or moves on
                found += self._of_ended(location)
        return found

    def _scan(self) -> list[JobLocation]:
        """Return the jobs that have ended and were not judged yet."""
        since = 1000 * (time.time() - GIVE_UP_SECONDS)
        waiting = set(ids_in(self._spool.incoming))
        ended = {state: ids_in(self._spool.root / state) for state in (State.DONE, State.FAILED)}
        self._judged.intersection_update([*ended[State.DONE], *ended[State.FAILED]])
        self._judged -= waiting
        places = [
            JobLocation(id, state, self._spool.root / state / id)
            for state, ids in ended.items()
            for id in ids
            if id not in self._judged
        ]
        if not self._is_first:
            return places
        fresh = []
        for location in places:  # of all that ever ended here, few did so lately
            with suppress(FileNotFoundError):
                if changed_at(location) >= since:
                    fresh.append(location)
                else:
                    self._judged.add(location.id)
        return fresh

    # --- jobs that have ended ---------------------------------------------------------------------

    def _of_ended(self, location: JobLocation) -> Sequence[Found]:
        """Return the messages of a job. Raises `FileNotFoundError` if it is not there."""
        changed = changed_at(location)
        events = wanted(location.folder)
        status = status_of(self._spool, location, queue=()) if events else None
        if events and status is None:
            return ()
        found: list[Found] = []
        if status is not None and status.webhook is not None:
            deliveries = read_deliveries(location.folder)
            is_fresh = time.time() - changed / 1000 < UNWRITTEN_SECONDS
            if is_fresh and location.state is State.FAILED:
                # A job that was retried and then cancelled has its earlier record until then.
                self._unrecorded[location.id] = location
            if status.completed_at is None:
                if is_fresh:
                    self._unrecorded[location.id] = location
                    return ()
                found += _without_record(location, status, deliveries, events)
            for event in history(location, status):
                is_told = event.name in events and (event.name == STARTED or status.completed_at)
                if is_told and event.name in (STARTED, *ENDS):
                    found += _unless_ended(_message(event, status), deliveries)
        self._judged.add(location.id)
        return found

    # --- jobs that run ----------------------------------------------------------------------------

    def _of_running(self) -> Iterator[Found]:
        running = [
            JobLocation(id, State.RUNNING, worker / id)
            for worker in worker_folders(self._spool)
            for id in ids_in(worker)
        ]
        known = {location.id for location in running}
        self._judged -= known
        self._progress = {id: told for id, told in self._progress.items() if id in known}
        for location in running:
            with suppress(FileNotFoundError):
                events = wanted(location.folder)
                if STARTED in events or PROGRESS in events:
                    yield from self._of_attempt(location, events)

    def _of_attempt(self, location: JobLocation, events: Sequence[str]) -> Iterator[Found]:
        status = status_of(self._spool, location, queue=())
        if status is None or status.webhook is None:
            return
        if STARTED in events:
            for event in history(location, status):
                if event.name == STARTED:
                    deliveries = read_deliveries(location.folder)
                    yield from _unless_ended(_message(event, status), deliveries)
        if PROGRESS in events:
            now, how_far = time.monotonic(), (status.attempts, status.phase, status.step)
            told_at, told = self._progress.get(location.id, (-PROGRESS_SECONDS, None))
            if how_far != told and now >= told_at + PROGRESS_SECONDS:
                self._progress[location.id] = now, how_far
                message = _message(Event(int(time.time() * 1000), location.id, PROGRESS), status)
                yield message, begun(message)


def _message(event: Event, status: JobStatus) -> Message:
    assert status.webhook is not None
    has_ended = event.name in ENDS and status.completed_at is not None
    at = datetime.fromtimestamp(event.at / 1000, UTC)
    return Message(
        id=event.id,
        type=type_of(event.name),
        at=status.completed_at if has_ended and status.completed_at else at,
        url=status.webhook.url,
        job=status.request_id,
    )


def _without_record(
    location: JobLocation, status: JobStatus, deliveries: Deliveries, events: Sequence[str]
) -> list[Found]:
    """Return the message of an end without a record: its time is what the first attempt noted, for
    the folder changes with each."""
    if status.status not in events:
        return []
    known = deliveries.of_end(status.status, None)
    at = changed_at(location) if known is None else int(known.id[:13])
    return _unless_ended(_message(Event(at, location.id, status.status), status), deliveries)


def _unless_ended(message: Message, deliveries: Deliveries) -> list[Found]:
    known = deliveries.of(message.id)
    if known is not None and known.outcome is not None:
        return []
    return [(message, known or begun(message))]


# --- for an attempt -------------------------------------------------------------------------------


def status_for(spool: Spool, message: Message) -> JobStatus | None:
    """Return the status to tell with a message; None if the job is deleted, or was retried."""
    for _ in range(10):
        try:
            location = find(spool, message.job)
            if location.state is State.INCOMING:
                return None
            status = status_of(spool, location, queue=())
            if status is not None and _is_current(location, status, message):
                return status
            if status is not None:
                return None
        except FileNotFoundError:  # it moves: find it again
            continue
        except I2iiError:
            return None
    return None


def _is_current(location: JobLocation, status: JobStatus, message: Message) -> bool:
    if message.is_fleeting:
        return not status.has_ended
    if status.has_ended and status.completed_at is None and message.type != type_of(STARTED):
        return message.type == type_of(status.status)
    return message.id in {event.id for event in history(location, status)}
