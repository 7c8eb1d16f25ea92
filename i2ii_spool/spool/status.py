"""What there is to say of a job, read from its folder: the answer of `/status/ID` and of `i2ii show
ID`."""

import bisect
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from i2ii_spool.errors import Cancelled, InvalidRequest, JobFailed, NotFound, Unreadable, WrongState
from i2ii_spool.jobs.folder import JobFolder, read_record
from i2ii_spool.jobs.records import Failure, Progress, Result, Timings
from i2ii_spool.jobs.request import Job, Model, parse_json
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find, waiting

# By itself a job moves twice while it is read; workers that die and people who retry it may move it
# more often.
READS = 10

StatusName = Literal["queued", "running", "completed", "failed", "cancelled"]


class JobStatus(BaseModel):
    """A job as its submitter sees it. What does not apply to its state is None, and left out of the
    JSON."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    status: StatusName
    name: str | None = None
    owner: str | None = None
    """The token with which it was submitted."""
    prompt: str | None = None
    submitted_at: datetime | None = None
    position: int | None = None
    """1 for the next job to be claimed."""
    attempts: int | None = None
    worker: str | None = None
    gpu_id: int | str | None = None
    phase: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_seconds: float | None = None
    processing_time: float | None = None
    """Seconds from the start of the work to the end of the edit."""
    completed_at: datetime | None = None
    timings: Timings | None = None
    outputs: tuple[str, ...] | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    engine: str | None = None
    model: str | None = None
    details: dict[str, Any] | None = None
    """What the engine has to say of this edit (docs/models.md)."""
    error: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it will change no more by itself."""
        return self.status in ("completed", "failed", "cancelled")

    def to_line(self) -> str:
        """As one line, for a list."""
        match self.status:
            case "queued":
                detail = f"position {self.position}"
            case "running":
                detail = f"{self.worker} step {self.step}/{self.steps}"
            case "completed" if self.processing_time is not None:
                detail = f"{self.worker} {self.processing_time:.2f} s"
            case _:
                detail = (self.error or {}).get("code", "")
        prompt = printable(" ".join((self.prompt or "").split()))
        return f"{self.request_id:<35} {self.status:<9} {detail:<26} {prompt[:60]}"

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return self.model_dump(mode="json", exclude_none=True)


def no_result(status: JobStatus) -> WrongState:
    """Why a job that is not completed has no picture."""
    if not status.has_ended:
        return WrongState(f"job {status.request_id} is {status.status}; it has no result yet")
    error = status.error or {}
    return JobFailed(
        f"job {status.request_id} has no result: {error.get('message')}", code=error.get("code")
    )


def no_such_picture(status: JobStatus, n: int) -> NotFound:
    """Why a completed job has no picture `n`."""
    made = len(status.outputs or ())
    return NotFound(
        f"job {status.request_id} made {made} picture{'s' * (made != 1)}; there is no n={n}"
    )


def read_status(spool: Spool, id: str, *, queue: Sequence[str] | None = None) -> JobStatus:
    """Return what there is to say of a job. `queue` are the waiting ids in order, where the caller
    knows them.

    Raises `NotFound`, or `Deleted`.
    """
    for _ in range(READS):
        status = status_of(spool, find(spool, id), queue=queue)
        if status is not None:
            return status
    raise NotFound(f"job {id} moves too fast to be read; ask again")


def status_of(
    spool: Spool, place: JobLocation, *, queue: Sequence[str] | None = None
) -> JobStatus | None:
    """Like `read_status` of a job whose place is known; None if it is there no more."""
    try:
        status = _READERS[place.state](spool, place, queue)
    except FileNotFoundError:
        return None
    # Asked last: of a job that moved on while we read, some files were there and some were not.
    return status if is_folder(place.folder) else None


def _queued(spool: Spool, place: JobLocation, queue: Sequence[str] | None) -> JobStatus:
    names = waiting(spool) if queue is None else queue
    return JobStatus(
        status="queued", position=bisect.bisect_left(names, place.id) + 1, **_request(place)
    )


def _running(_spool: Spool, place: JobLocation, _queue: Sequence[str] | None) -> JobStatus:
    attempts = len(JobFolder(place.folder).attempts())
    progress = _read(Progress, JobFolder(place.folder).progress) or Progress(
        phase="starting", step=0, steps=0
    )
    return JobStatus(
        status="running",
        worker=place.worker,
        attempts=attempts,
        **progress.model_dump(include={"phase", "step", "steps", "eta_seconds"}),
        **_request(place),
    )


def _done(_spool: Spool, place: JobLocation, _queue: Sequence[str] | None) -> JobStatus:
    result = _read(Result, JobFolder(place.folder).result)
    if result is None:  # somebody has laid hands on it
        error = Unreadable("result.json is missing or cannot be read").to_dict()
        return JobStatus(status="completed", error=error, **_request(place))
    shared = set(Result.model_fields) & set(JobStatus.model_fields)
    return JobStatus(
        status="completed",
        attempts=result.attempt,
        processing_time=round(result.timings.load + result.timings.edit, 3),
        **result.model_dump(include=shared),
        **_request(place),
    )


def _failed(_spool: Spool, place: JobLocation, _queue: Sequence[str] | None) -> JobStatus:
    failure = _read(Failure, JobFolder(place.folder).error)
    cancelled = (
        failure.code == "cancelled" if failure else (JobFolder(place.folder).cancel).exists()
    )
    shown = (
        failure.model_dump(include={"code", "message", "field"}, exclude_none=True)
        if failure
        else {}
    )
    return JobStatus(
        status="cancelled" if cancelled else "failed",
        worker=failure.worker if failure else None,
        attempts=len(JobFolder(place.folder).attempts()),
        completed_at=failure.failed_at if failure else None,
        error=shown or _unexplained(cancelled),
        **_request(place),
    )


def _unexplained(cancelled: bool) -> dict[str, str]:
    kind = Cancelled if cancelled else Unreadable
    return kind("error.json is missing or cannot be read").to_dict()


_READERS = {
    State.INCOMING: _queued,
    State.RUNNING: _running,
    State.DONE: _done,
    State.FAILED: _failed,
}


def _request(place: JobLocation) -> dict[str, Any]:
    record = _read(Job, JobFolder(place.folder).job)
    if record is None:
        return {"request_id": place.id}
    return {
        "request_id": place.id,
        **record.model_dump(include={"prompt", "submitted_at"}),
        "name": record.name or None,
        "owner": record.owner or None,
    }


def _read(model: type[Model], path: Path) -> Model | None:
    """Return the record, or None if it is missing or a guest has written something else there."""
    try:
        return parse_json(model, read_record(path))
    except (FileNotFoundError, InvalidRequest):
        return None
