"""What a load test measured, for a machine and for people."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from i2ii_spool.jobs.records import Timings
from i2ii_spool.spool.status import JobStatus

HISTOGRAM_ROWS, HISTOGRAM_WIDTH = 8, 40
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class Outcome:
    """How one job went: when it was submitted and had ended (monotonic seconds), and its last
    status, or the code of the error that ended it."""

    started: float
    ended: float
    status: JobStatus | None = None
    error: str | None = None

    @property
    def seconds(self) -> float:
        """The latency."""
        return self.ended - self.started

    @property
    def succeeded(self) -> bool:
        """Whether there is a picture."""
        return self.error is None

    @property
    def timings(self) -> Timings | None:
        """Where the worker's time went; None where it has not told."""
        return self.status.timings if self.status else None


@dataclass(frozen=True)
class WorkerShare:
    """What one worker did: jobs and their share in per cent, seconds of load and edit and what that
    is of the run."""

    jobs: int
    share_percent: float
    busy_seconds: float
    utilisation_percent: float


@dataclass(frozen=True)
class Report:
    """The result of a load test."""

    url: str
    jobs: int
    concurrency: int
    outcomes: Sequence[Outcome]
    ready: frozenset[str]
    """The workers that were ready, whether or not they got a job."""

    @property
    def succeeded(self) -> int:
        """How many jobs gave a picture."""
        return len(self._good)

    @property
    def all_succeeded(self) -> bool:
        """Whether every job gave a picture."""
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
        """Seconds from the first submit to the last end."""
        return max(each.ended for each in self.outcomes) - min(
            each.started for each in self.outcomes
        )

    @property
    def throughput(self) -> float:
        """Good jobs per second."""
        return self.succeeded / self.makespan

    @property
    def latency(self) -> dict[str, float]:
        """Percentiles of the good jobs' latency in seconds; empty if there is none."""
        ordered = sorted(self._seconds)
        return (
            {name: percentile(ordered, share) for name, share in PERCENTILES.items()}
            if ordered
            else {}
        )

    @property
    def means(self) -> dict[str, float]:
        """Mean seconds of each stage, as the workers have measured them; empty if they have not."""
        timings = [outcome.timings.model_dump() for outcome in self._good if outcome.timings]
        return (
            {stage: _mean(each[stage] for each in timings) for stage in Timings.model_fields}
            if timings
            else {}
        )

    @property
    def workers(self) -> dict[str, WorkerShare]:
        """Each worker's part, by name."""
        return {
            name: self._share(name)
            for name in sorted(self.ready | {_worker(good) for good in self._good})
        }

    @property
    def parallel_efficiency(self) -> float:
        """Seconds that the workers spent on load and edit, of all those that they had: 1.0 is a
        perfect queue."""
        workers = self.workers.values()
        return sum(worker.busy_seconds for worker in workers) / (
            self.makespan * max(1, len(workers))
        )

    @property
    def _good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.succeeded]

    @property
    def _seconds(self) -> list[float]:
        return [outcome.seconds for outcome in self._good]

    def _share(self, name: str) -> WorkerShare:
        own = [outcome for outcome in self._good if _worker(outcome) == name]
        busy = sum(
            outcome.timings.load + outcome.timings.edit for outcome in own if outcome.timings
        )
        return WorkerShare(
            jobs=len(own),
            share_percent=round(100 * len(own) / max(1, self.succeeded), 2),
            busy_seconds=round(busy, 3),
            utilisation_percent=round(100 * busy / self.makespan, 1),
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures, for a machine. Seconds, jobs per second; `parallel_efficiency` is a share of
        1."""
        return {
            "url": self.url,
            "jobs": self.jobs,
            "concurrency": self.concurrency,
            "succeeded": self.succeeded,
            "failed": self.jobs - self.succeeded,
            "errors": self.errors,
            "makespan_seconds": round(self.makespan, 3),
            "throughput": round(self.throughput, 3),
            "latency_seconds": _rounded(self.latency),
            "mean_seconds": _rounded(self.means),
            "workers": {name: asdict(worker) for name, worker in self.workers.items()},
            "parallel_efficiency": round(self.parallel_efficiency, 4),
        }

    def to_text(self) -> str:
        """All figures, for people."""
        return "\n".join([*self._summary(), *_table(self.workers), *histogram(self._seconds)])

    def _summary(self) -> Iterator[str]:
        yield f"{self.jobs} jobs, {self.concurrency} at a time, to {self.url}"
        yield ""
        yield f"succeeded   {self.succeeded}" + (
            f", {self.jobs - self.succeeded} failed" if self.errors else ""
        )
        yield from (f"            {count} x {code}" for code, count in self.errors.items())
        yield f"throughput  {self.throughput:.2f} jobs/s over {self.makespan:.1f} s"
        yield f"latency     {_stated(self.latency)}"
        yield f"mean of     {_stated(self.means)}"
        yield f"efficiency  {self.parallel_efficiency:.0%} of the workers' time went into edits"


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the least of `ordered` that at least `share` (0 to 1) of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def histogram(seconds: Sequence[float]) -> Iterator[str]:
    """Draw how often each latency (seconds) was met, a line for each of some equal steps."""
    if not seconds:
        return
    low, step = min(seconds), (max(seconds) - min(seconds)) / HISTOGRAM_ROWS or 1.0
    rows = Counter(min(HISTOGRAM_ROWS - 1, int((each - low) / step)) for each in seconds)
    yield from ("", "latency, s")
    for row in range(max(rows) + 1):
        bar = "█" * math.ceil(rows[row] * HISTOGRAM_WIDTH / max(rows.values()))
        yield f"{low + row * step:8.2f} - {low + (row + 1) * step:<8.2f} {bar} {rows[row] or ''}".rstrip()


def _table(workers: dict[str, WorkerShare]) -> Iterator[str]:
    width = max(map(len, [*workers, "worker"]))
    yield from ("", f"{'worker':<{width}}   jobs   share       busy  utilisation")
    for name, worker in workers.items():
        yield (
            f"{name:<{width}} {worker.jobs:>6} {worker.share_percent:>5.0f} % {worker.busy_seconds:>8.1f} s "
            f"{worker.utilisation_percent:>10.0f} %"
        )


def _worker(outcome: Outcome) -> str:
    return (outcome.status and outcome.status.worker) or "?"


def _mean(numbers: Iterable[float]) -> float:
    listed = list(numbers)
    return sum(listed) / len(listed)


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figure, 4) for name, figure in figures.items()}


def _stated(figures: dict[str, float]) -> str:
    return "   ".join(f"{name} {figure:.2f} s" for name, figure in figures.items()) or "unknown"
