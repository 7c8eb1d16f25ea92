"""The status of a job, read from its folder: the answer of `/status/ID` and of `i2ii show ID`."""

import bisect
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from i2ii_spool.errors import Cancelled, JobFailed, NotFound, Unreadable, WrongState
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.records import Failure, Progress, Result, Timings, read_or_none
from i2ii_spool.jobs.request import Job
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find, queued_ids

READS = 10
"""By itself a job moves at most twice while it is read; recovery and retries may move it again."""

StatusName = Literal["queued", "running", "completed", "failed", "cancelled"]


class JobStatus(BaseModel):
    """A job as its client sees it. A field that does not apply to its state is None."""

    model_config = ConfigDict(frozen=True)

    request_id: str
    status: StatusName
    name: str | None = None
    owner: str | None = None
    """The name of the token that submitted it."""
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
    """Seconds that the worker spent on loading the pictures and on the edit."""
    completed_at: datetime | None = None
    timings: Timings | None = None
    outputs: tuple[str, ...] | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    engine: str | None = None
    model: str | None = None
    details: dict[str, Any] | None = None
    """What the engine reports of this edit (docs/engines/qwen.md)."""
    error: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the status is final, unless the job is retried."""
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
    """The error of asking for the picture of a job that is not completed."""
    if not status.has_ended:
        return WrongState(f"job {status.request_id} is {status.status}; it has no result yet")
    error = status.error or {}
    message = f"job {status.request_id} has no result: {error.get('message')}"
    return JobFailed(message, code=error.get("code"))


def no_such_picture(status: JobStatus, n: int) -> NotFound:
    """The error of asking for a picture `n` that a completed job does not have."""
    count = len(status.outputs or ())
    made = f"{count} picture{'s' * (count != 1)}"
    return NotFound(f"job {status.request_id} made {made}; there is no n={n}")


def read_status(spool: Spool, id: str, *, queue: Sequence[str] | None = None) -> JobStatus:
    """Return the status of a job. `queue` is the waiting ids in order, where the caller has them.

    Raises `NotFound`, or `Deleted`.
    """
    for _ in range(READS):
        status = status_of(spool, find(spool, id), queue=queue)
        if status is not None:
            return status
    raise NotFound(f"job {id} changed state while it was read; try again")


def status_of(
    spool: Spool, location: JobLocation, *, queue: Sequence[str] | None = None
) -> JobStatus | None:
    """Like `read_status`, of a job whose location is known; None if it has moved."""
    job = JobFolder(location.folder)
    try:
        match location.state:
            case State.INCOMING:
                status = _queued(spool, job, queue)
            case State.RUNNING:
                status = _running(job, location.worker)
            case State.DONE:
                status = _done(job)
            case _:
                status = _failed(job)
    except FileNotFoundError:
        return None
    # Checked last: if the job moved during the reads, some files were there and some were not.
    return status if is_folder(location.folder) else None


def _queued(spool: Spool, job: JobFolder, queue: Sequence[str] | None) -> JobStatus:
    names = queued_ids(spool) if queue is None else queue
    position = bisect.bisect_left(names, job.id) + 1
    return JobStatus(status="queued", position=position, **_request(job))


def _running(job: JobFolder, worker: str | None) -> JobStatus:
    attempts = len(job.attempts())
    progress = read_or_none(Progress, job.progress) or Progress(phase="starting", step=0, steps=0)
    return JobStatus(
        status="running",
        worker=worker,
        attempts=attempts,
        **progress.model_dump(include={"phase", "step", "steps", "eta_seconds"}),
        **_request(job),
    )


def _done(job: JobFolder) -> JobStatus:
    result = read_or_none(Result, job.result)
    if result is None:  # a user has removed or changed it
        error = Unreadable("result.json is missing or cannot be read").to_dict()
        return JobStatus(status="completed", error=error, **_request(job))
    shared = set(Result.model_fields) & set(JobStatus.model_fields)
    return JobStatus(
        status="completed",
        attempts=result.attempt,
        processing_time=round(result.timings.load + result.timings.edit, 3),
        **result.model_dump(include=shared),
        **_request(job),
    )


def _failed(job: JobFolder) -> JobStatus:
    failure = read_or_none(Failure, job.error)
    if failure is None:
        kind = Cancelled if job.cancel.exists() else Unreadable
        error = kind("error.json is missing or cannot be read").to_dict()
    else:
        error = failure.model_dump(include={"code", "message", "field"}, exclude_none=True)
    return JobStatus(
        status="cancelled" if error["code"] == Cancelled.code else "failed",
        worker=failure.worker if failure else None,
        attempts=len(job.attempts()),
        completed_at=failure.failed_at if failure else None,
        error=error,
        **_request(job),
    )


def _request(job: JobFolder) -> dict[str, Any]:
    record = read_or_none(Job, job.job)
    if record is None:
        return {"request_id": job.id}
    return {
        "request_id": job.id,
        **record.model_dump(include={"prompt", "submitted_at"}),
        "name": record.name or None,
        "owner": record.owner or None,
    }
