"""What is counted for Prometheus, and what of it a worker writes into its status file.

A server shows the file at `/metrics`. A restart begins at nought, which Prometheus expects of
counters.
"""

from bisect import bisect_left
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Histogram(BaseModel):
    """How many of the values that were seen lie between which bounds."""

    model_config = ConfigDict(frozen=True)

    bounds: tuple[float, ...]
    """The upper bound of each bucket but the last, in seconds, in ascending order."""
    counts: tuple[int, ...]
    """The values in each bucket alone; the last has those above all bounds."""
    sum: float
    """Of all values, in seconds."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError("has not one count more than bounds")
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError("has bounds that do not ascend")
        return self


class Buckets:
    """A histogram that grows."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value. One that equals a bound is in the bucket below it."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def snapshot(self) -> Histogram:
        """Return what was counted."""
        return Histogram(bounds=self._bounds, counts=tuple(self._counts), sum=round(self._sum, 6))


class WorkerMetrics(BaseModel):
    """The counters of a worker. Durations are in seconds."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    started_at: float
    """When the process began to work, in seconds since 1970."""
    gpu_uuid: str = ""
    """The UUID of its GPU; nothing without one."""
    load_seconds: float | None = None
    """How long the engine took to load; None before."""
    events: dict[str, int] = Field(default_factory=dict)
    """How often each event of a job (`events.JobEvent`) was logged."""
    failures: dict[str, int] = Field(default_factory=dict)
    """How many jobs failed with each code (`errors.REGISTER`)."""
    images: int = 0
    """How many pictures were made."""
    queue: Histogram
    """From the submission to the claim."""
    run: dict[str, Histogram]
    """From the claim to the commit of jobs that were completed, by preset; "" is none."""
    stages: dict[str, Histogram]
    """Of the same jobs, by `jobs.records.Timings`."""
    step: Histogram
    """Between two steps of an edit."""


class WebhookMetrics(BaseModel):
    """`.lock/webhooks.json`: the counters of the deliverer, replaced every few seconds."""

    model_config = ConfigDict(frozen=True)

    pid: int
    pending: int
    """Messages that are to be told, and were not yet."""
    delivered: int = 0
    retried: int = 0
    """Attempts that failed and are made again."""
    dropped: int = 0
    """Messages that are not sent any more."""
