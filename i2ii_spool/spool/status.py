"""The status of a job, read from its folder: the answer of `/status/ID` and of `i2ii show ID`."""

import bisect
import errno
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, WithJsonSchema

from i2ii_spool.errors import Cancelled, JobFailed, NotFound, Unreadable, WrongState
from i2ii_spool.jobs.folder import JobFolder, retry_stale
from i2ii_spool.jobs.records import Failure, Progress, Result, Timings, read_or_none, without_null
from i2ii_spool.jobs.request import OWNER_MARK, EditRequest, Job
from i2ii_spool.jobs.text import printable
from i2ii_spool.spool.durable_io import is_folder
from i2ii_spool.spool.job_request import pictures_of
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.lookup import JobLocation, find, queued_ids
from i2ii_spool.spool.webhook import WebhookStatus, webhook_status

READS = 10
"""By itself a job moves at most twice while it is read; recovery and retries may move it again."""

JOB_ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "properties": {name: {"type": "string"} for name in ("code", "message", "field")},
}
SHOWN_FIELDS = set(EditRequest.model_fields) - {"prompt"}
REQUEST = {"type": "object", "propertyNames": {"enum": sorted(SHOWN_FIELDS)}}
StatusName = Literal["queued", "running", "completed", "failed", "cancelled"]
ENDS: tuple[StatusName, ...] = ("completed", "failed", "cancelled")
"""The statuses that are final, unless the job is retried."""


class JobStatus(BaseModel):
    """A job as its client sees it. A field that does not apply to its state is None, and
    is left out of an answer."""

    model_config = ConfigDict(frozen=True, json_schema_extra=without_null)

    request_id: str
    """The id of the job."""
    status: StatusName
    """The last three are final, unless the job is retried."""
    name: str | None = None
    """The `name` of the request."""
    owner: str | None = None
    """The token that submitted it; clients see its name."""
    prompt: str | None = None
    """The `prompt` of the request."""
    inputs: tuple[str, ...] | None = None
    """The file names of the pictures; picture `n` of `GET /inputs/ID` is the n-th of them."""
    has_mask: bool | None = None
    """Whether only a part is edited."""
    request: Annotated[dict[str, Any] | None, WithJsonSchema(REQUEST)] = None
    """The fields of the request that differ from their defaults, but for the prompt."""
    submitted_at: datetime | None = None
    """When the job was accepted."""
    position: int | None = None
    """The place in the queue: 1 for the next job to be claimed."""
    attempts: int | None = None
    """How often a worker has started the job."""
    worker: str | None = None
    """The name of the worker: the host, and its GPU."""
    gpu_id: int | str | None = None
    """The GPU: its index, or the UUID of a MIG device."""
    phase: str | None = None
    """`starting`, `loading` (the pictures), `editing` or `saving` (the results are encoded)."""
    step: int | None = None
    """How many steps are done; while `saving`, how many results."""
    steps: int | None = None
    """How many steps there are; 0 while unknown."""
    eta_seconds: float | None = None
    """Queued: estimated seconds until the job has ended. Running: until the edit has ended."""
    processing_time: float | None = None
    """Seconds that the worker spent on loading the pictures and on the edit."""
    completed_at: datetime | None = None
    """When the job ended."""
    timings: Timings | None = None
    outputs: tuple[str, ...] | None = None
    """The file names of the results; picture `n` of `GET /result/ID` is the n-th of them."""
    width: int | None = None
    """Width of each result in pixels."""
    height: int | None = None
    """Height of each result in pixels."""
    seed: int | None = None
    """The seed of the first result."""
    engine: str | None = None
    model: str | None = None
    """The model that made the result."""
    details: dict[str, Any] | None = None
    """What the engine reports of this edit (docs/engines/qwen.md)."""
    error: Annotated[dict[str, Any] | None, WithJsonSchema(JOB_ERROR)] = None
    """Why there is no picture."""
    webhook: WebhookStatus | None = None
    """How far the messages to the `webhook` of the request are."""

    @property
    def has_ended(self) -> bool:
        """Whether the status is final, unless the job is retried."""
        return self.status in ENDS

    def to_progress(self) -> str:
        """How far it is, in a few words."""
        if self.status == "queued":
            return f"position {self.position}"
        return (
            f"step {self.step or 0}/{self.steps or 0}" if self.status == "running" else self.status
        )

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
        shown = self.model_dump(mode="json", exclude_none=True)
        if self.owner is not None:
            shown["owner"] = self.owner.partition(OWNER_MARK)[0]
        return shown


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
    try:
        status = retry_stale(partial(_read, spool, location, queue))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return None
    # Checked last: if the job moved during the reads, some files were there and some were not.
    return status if is_folder(location.folder) else None


def _read(spool: Spool, location: JobLocation, queue: Sequence[str] | None) -> JobStatus:
    job = JobFolder(location.folder)
    match location.state:
        case State.INCOMING:
            return _queued(spool, job, queue)
        case State.RUNNING:
            return _running(job, location.worker)
        case State.DONE:
            return _done(job)
        case State.FAILED:
            return _failed(job)


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
        return JobStatus(status="completed", error=error, **_request(job, "completed"))
    shared = set(Result.model_fields) & set(JobStatus.model_fields)
    return JobStatus(
        status="completed",
        attempts=result.attempt,
        processing_time=round(result.timings.load + result.timings.edit, 3),
        **result.model_dump(include=shared),
        **_request(job, "completed", result.completed_at),
    )


def _failed(job: JobFolder) -> JobStatus:
    failure = read_or_none(Failure, job.error)
    if failure is None:
        kind = Cancelled if job.cancel.exists() else Unreadable
        error = kind("error.json is missing or cannot be read").to_dict()
    else:
        error = failure.model_dump(include={"code", "message", "field"}, exclude_none=True)
    end: StatusName = "cancelled" if error["code"] == Cancelled.code else "failed"
    failed_at = failure.failed_at if failure else None
    return JobStatus(
        status=end,
        worker=failure.worker if failure else None,
        attempts=len(job.attempts()),
        completed_at=failed_at,
        error=error,
        **_request(job, end, failed_at),
    )


def _request(
    job: JobFolder, end: StatusName | None = None, at: datetime | None = None
) -> dict[str, Any]:
    """What is known of a job in every state; how it has ended, and when, if it has."""
    record = read_or_none(Job, job.job)
    if record is None:
        return {"request_id": job.id}
    inputs, mask = pictures_of(job, record)
    return {
        "request_id": job.id,
        **record.model_dump(include={"prompt", "submitted_at"}),
        "name": record.name or None,
        "owner": record.owner or None,
        "inputs": inputs or None,
        "has_mask": bool(mask),
        "request": record.model_dump(include=SHOWN_FIELDS, exclude_defaults=True),
        "webhook": webhook_status(job.path, record, end, at),
    }
