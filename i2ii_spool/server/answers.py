"""What the routes answer in JSON, besides the status of a job (`spool.status.JobStatus`).

The handlers make their answers of these models, and the description of the API has their schemas.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from i2ii_spool.jobs.offers import Instruction
from i2ii_spool.jobs.records import without_null
from i2ii_spool.spool.liveness import WorkerReport
from i2ii_spool.spool.status import JobStatus, StatusName


class Answer(BaseModel):
    """An object whose keys are all there."""

    model_config = ConfigDict(frozen=True)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return self.model_dump(mode="json")


class SparseAnswer(Answer):
    """An object without the keys that are None."""

    model_config = ConfigDict(json_schema_extra=without_null)

    def to_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return self.model_dump(mode="json", exclude_none=True)


class Submitted(Answer):
    """A job that is in the queue."""

    request_id: str
    """The id of the job."""
    status: Literal["submitted"] = "submitted"
    message: str
    """What happens next, for people."""
    ready_workers: int
    """How many workers take jobs now."""
    total_requests: int
    """How many jobs there are in all states, this one included."""
    estimated_position: int
    """The place in the queue: 1 for the next job. 0 if a repeated `Idempotency-Key` names a job
    that no longer waits."""
    status_url: str
    """The path of the job's status."""
    result_url: str
    """The path of its result."""
    eta_seconds: float | None
    """Estimated seconds until the job has ended; null until a worker has completed a job."""


class JobList(Answer):
    """A page of the list of jobs."""

    jobs: tuple[JobStatus, ...]
    next: str | None
    """Send it as `after` for the next page; null on the last page."""


class Cancellation(SparseAnswer):
    """What has become of a job that was to be cancelled."""

    request_id: str
    """The id of the job."""
    status: Literal["cancelled", "running"]
    message: str | None = None
    """What happens next, for people; only of a job that runs."""


class Deletion(SparseAnswer):
    """What has become of a job that was to be cancelled or deleted."""

    request_id: str
    """The id of the job."""
    status: Literal["deleted"] | StatusName
    """`cancelled`, `deleted`, `running` with 202, or the status of a job that is kept."""
    message: str | None = None
    """What happens next, for people; of a job that runs, or is kept."""


class Requeued(Answer):
    """A job that waits again."""

    request_id: str
    """The id of the job."""
    status: Literal["queued"] = "queued"


class Worker(WorkerReport):
    """A worker, as it last wrote its state."""

    alive: bool
    """Whether its process is alive."""
    heartbeat_age: float
    """Seconds since it last wrote its state."""


class Host(Answer):
    """A host, as its workers show it."""

    host: str
    """Its name up to the first dot, as in the names of its workers."""
    alive: bool
    """Whether any of its workers is alive."""
    workers: int
    """How many of its workers are known, dead ones included."""
    alive_workers: int
    """How many of them are alive."""
    ready_workers: int
    """How many of them take jobs."""
    running_requests: int
    """How many jobs its live workers work on."""
    heartbeat_age: float
    """Seconds since any of them last wrote its state."""
    versions: tuple[str, ...]
    """The versions of i2ii that its live workers run; `unknown` for old ones."""


class SpoolView(Answer):
    """The directory that holds the jobs."""

    path: str
    """Its path on the server."""
    free_bytes: int
    """Free disk space in bytes."""
    oldest_waiting_seconds: float | None
    """For how many seconds the oldest queued job has waited; null if none waits."""


class SystemStatus(Answer):
    """The jobs of all owners, the workers and the spool."""

    total_gpus: int
    """How many GPUs have a worker that is alive."""
    alive_processes: int
    """How many workers are alive. `workers` has the dead ones, too."""
    ready_workers: int
    """How many of them take jobs: they are `ready` or `running`."""
    total_requests: int
    """How many jobs there are in all states."""
    queued_requests: int
    running_requests: int
    completed_requests: int
    failed_requests: int
    """How many failed or were cancelled."""
    workers: tuple[Worker, ...]
    """By name. Those of a host are left out once all of it have been silent for 60 leases."""
    hosts: tuple[Host, ...]
    """By name."""
    spool: SpoolView


class CallerView(Answer):
    """Who asks."""

    name: str
    """The name of the token, or the address where there are no tokens."""
    is_operator: bool
    """Whether it has access to all jobs, and may change them."""
    has_token: bool
    """Whether the server has tokens."""


class LimitsView(Answer):
    """What is refused, when a job is submitted."""

    max_bytes: int
    """Of a body."""
    max_pixels: int
    """Of a picture."""
    max_images: int
    """How many pictures the model takes; where it is not loaded, how many any takes."""
    max_queue: int
    """How many jobs may wait."""
    client_max_uploads: int
    """How many uploads a client may have in progress."""


class EngineView(Answer):
    """An engine and its model, of the workers that are alive."""

    engine: str
    model: str
    instructions: tuple[Instruction, ...]
    """All that it knows; empty for a model, which takes any."""
    presets: tuple[str, ...]
    """What `preset` may be."""


class Options(Answer):
    """What a client may ask for."""

    version: str
    """Of i2ii."""
    caller: CallerView
    limits: LimitsView
    fields: dict[str, Any]
    """The JSON Schema of each field of `POST /edit` that is no picture, by name."""
    engines: tuple[EngineView, ...]


class Healthy(Answer):
    """Jobs will be done."""

    status: Literal["healthy"] = "healthy"
    ready_workers: int
    """How many workers take jobs."""


class Unhealthy(Answer):
    """Jobs will not be done now."""

    status: Literal["degraded", "unhealthy"]
    """`degraded` if workers are alive but none is ready; `unhealthy` if none is alive or the spool
    cannot be written to."""
    reason: str
    """What is wrong and how to fix it, for people."""


class Alive(Answer):
    """The server answers."""

    status: Literal["alive"] = "alive"


class ErrorDetail(SparseAnswer):
    """An error."""

    code: str
    """A stable code, for programs."""
    message: str
    """What is wrong, the limit and the remedy, for people. The words may change."""
    field: str | None = None
    """The field, parameter or header that is at fault, if one is."""
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ]
    """The kind, as the OpenAI API names it."""
    param: str | None = None
    """The same as `field`, as the OpenAI API names it."""


class Error(Answer):
    """The one shape of every error."""

    error: ErrorDetail
