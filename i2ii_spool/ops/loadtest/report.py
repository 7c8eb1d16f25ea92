"""The results of a load test, as JSON and as text."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from statistics import fmean
from typing import Any

from i2ii_spool.jobs.records import Timings
from i2ii_spool.ops.loadtest.sheet import ContactSheet
from i2ii_spool.spool.status import JobStatus

HISTOGRAM_ROWS, HISTOGRAM_WIDTH = 8, 40
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Outcome:
    """How one job went."""

    started: float
    """When its submit began, in monotonic seconds."""
    ended: float
    """When it was known to have ended, in monotonic seconds."""
    status: JobStatus | None = None
    """Its last status; None if it was not submitted."""
    error: str | None = None
    """The code of the error; None if it succeeded."""
    message: str = ""
    """What the error says; empty if it succeeded."""

    @property
    def seconds(self) -> float:
        """The latency, in seconds."""
        return self.ended - self.started

    @property
    def succeeded(self) -> bool:
        """Whether there is a picture."""
        return self.error is None

    @property
    def timings(self) -> Timings | None:
        """The seconds of each stage; None if the worker has not reported them."""
        return self.status.timings if self.status else None


@dataclass(frozen=True)
class WorkerShare:
    """What one worker did."""

    jobs: int
    share_percent: float
    """Its jobs, of all that succeeded."""
    busy_seconds: float
    """Its seconds of load and edit."""
    utilisation_percent: float
    """Its busy seconds, of the whole run."""


@dataclass(frozen=True)
class Report:
    """The result of a load test."""

    url: str
    jobs: int
    concurrency: int
    outcomes: Sequence[Outcome]
    ready: frozenset[str]
    """The workers that were ready, whether or not they got a job."""
    prompt: str = ""
    """The instruction of every job."""
    began: datetime = field(default_factory=lambda: datetime.now().astimezone())
    """When it began, in the time of this machine."""
    workers_seen: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What `/system/status` has said last of each worker, by its name."""
    sheet: ContactSheet = field(default_factory=ContactSheet)
    """The pictures, if they were asked for."""

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended it before all its jobs had."""
        return len(self.outcomes) < self.jobs

    @property
    def failed(self) -> int:
        """How many jobs ended without a picture."""
        return len(self.outcomes) - self.succeeded

    @property
    def succeeded(self) -> int:
        """How many jobs succeeded."""
        return len(self.completed)

    @property
    def all_succeeded(self) -> bool:
        """Whether every job succeeded."""
        return self.succeeded == self.jobs

    @property
    def errors(self) -> dict[str, int]:
        """How many jobs failed, by error code, the most frequent first."""
        return dict(
            Counter(
                outcome.error for outcome in self.outcomes if outcome.error is not None
            ).most_common()
        )

    @property
    def makespan(self) -> float:
        """Seconds from the first submit to the last end; 0 if no job has ended."""
        if not self.outcomes:
            return 0.0
        return max(each.ended for each in self.outcomes) - min(
            each.started for each in self.outcomes
        )

    @property
    def throughput(self) -> float:
        """Succeeded jobs per second."""
        return _ratio(self.succeeded, self.makespan)

    @property
    def latency(self) -> dict[str, float]:
        """Percentiles of the succeeded jobs' latency in seconds; empty if none succeeded."""
        ordered = sorted(self._seconds)
        if not ordered:
            return {}
        return {name: percentile(ordered, share) for name, share in PERCENTILES.items()}

    @property
    def means(self) -> dict[str, float]:
        """Mean seconds of each stage, as the workers measured them; empty if none did."""
        timings = [outcome.timings.model_dump() for outcome in self.completed if outcome.timings]
        if not timings:
            return {}
        return {stage: fmean(each[stage] for each in timings) for stage in Timings.model_fields}

    @property
    def workers(self) -> dict[str, WorkerShare]:
        """What each worker did, by its name."""
        shares = {}
        for name in sorted(self.ready | {_worker(outcome) for outcome in self.completed}):
            own = [outcome for outcome in self.completed if _worker(outcome) == name]
            timings = [outcome.timings for outcome in own if outcome.timings]
            busy = sum(each.load + each.edit for each in timings)
            shares[name] = WorkerShare(
                jobs=len(own),
                share_percent=round(100 * len(own) / max(1, self.succeeded), 2),
                busy_seconds=round(busy, 3),
                utilisation_percent=round(100 * _ratio(busy, self.makespan), 1),
            )
        return shares

    @property
    def parallel_efficiency(self) -> float:
        """Seconds of load and edit of all workers, of makespan x workers: 1.0 at best."""
        workers = self.workers.values()
        busy = sum(worker.busy_seconds for worker in workers)
        return _ratio(busy, self.makespan * len(workers))

    @property
    def completed(self) -> list[Outcome]:
        """The jobs that succeeded."""
        return [outcome for outcome in self.outcomes if outcome.succeeded]

    @property
    def _seconds(self) -> list[float]:
        return [outcome.seconds for outcome in self.completed]

    def to_dict(self) -> dict[str, Any]:
        """Return all figures for JSON: seconds, jobs per second, `parallel_efficiency` of 1."""
        return {
            "url": self.url,
            "jobs": self.jobs,
            "concurrency": self.concurrency,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "stopped": self.stopped,
            "errors": self.errors,
            "makespan_seconds": round(self.makespan, 3),
            "throughput": round(self.throughput, 3),
            "latency_seconds": _rounded(self.latency),
            "mean_seconds": _rounded(self.means),
            "workers": {name: asdict(worker) for name, worker in self.workers.items()},
            "parallel_efficiency": round(self.parallel_efficiency, 4),
        }

    def to_text(self) -> str:
        """Return all figures as lines of text."""
        failed = f", {self.failed} failed" if self.errors else ""
        stopped = f"; stopped after {len(self.outcomes)}" if self.stopped else ""
        lines = [
            f"{self.jobs} jobs, {self.concurrency} at a time, to {self.url}{stopped}",
            "",
            f"succeeded   {self.succeeded}{failed}",
            *(f"            {count} x {code}" for code, count in self.errors.items()),
            f"throughput  {self.throughput:.2f} jobs/s over {self.makespan:.1f} s",
            f"latency     {_named_seconds(self.latency)}",
            f"mean of     {_named_seconds(self.means)}",
            f"efficiency  {self.parallel_efficiency:.0%} of the workers' time went into edits",
            "",
        ]
        workers = self.workers
        width = max(map(len, [*workers, "worker"]))
        lines.append(f"{'worker':<{width}}   jobs   share       busy  utilisation")
        for name, worker in workers.items():
            lines.append(
                f"{name:<{width}} {worker.jobs:>6} {worker.share_percent:>5.0f} % "
                f"{worker.busy_seconds:>8.1f} s {worker.utilisation_percent:>10.0f} %"
            )
        return "\n".join([*lines, *histogram(self._seconds)])


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of ascending numbers; `share` is from 0 to 1."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def histogram(seconds: Sequence[float]) -> Iterator[str]:
    """Draw a histogram of latencies in seconds, one line per bin; bins have equal widths."""
    if not seconds:
        return
    low, step = min(seconds), (max(seconds) - min(seconds)) / HISTOGRAM_ROWS or 1.0
    rows = Counter(min(HISTOGRAM_ROWS - 1, int((each - low) / step)) for each in seconds)
    yield from ("", "latency, s")
    for row in range(max(rows) + 1):
        bar = "█" * math.ceil(rows[row] * HISTOGRAM_WIDTH / max(rows.values()))
        bounds = f"{low + row * step:8.2f} - {low + (row + 1) * step:<8.2f}"
        yield f"{bounds} {bar} {rows[row] or ''}".rstrip()


def _ratio(amount: float, whole: float) -> float:
    return amount / whole if whole else 0.0


def _worker(outcome: Outcome) -> str:
    return (outcome.status and outcome.status.worker) or "?"


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 4) for name, figure in figures.items()}


def _named_seconds(figures: dict[str, float]) -> str:
    return "   ".join(f"{name} {figure:.2f} s" for name, figure in figures.items()) or "unknown"
