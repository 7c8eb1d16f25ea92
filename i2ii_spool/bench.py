"""The load test: submit pictures to a running service, follow each to its end, and say where the time went.

A job counts as succeeded when it has completed and its picture has come back and can be decoded. Latency is what a
caller feels: from the first byte of the submit to the answer that says that the job has ended.
"""

import asyncio
import io
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from i2ii_spool.client import AsyncClient
from i2ii_spool.errors import I2iiError
from i2ii_spool.job import EditRequest, Timings
from i2ii_spool.spool.status import JobStatus

POLL = 1.0
SIZES = ((1024, 768), (768, 1024), (880, 880), (1120, 630))
HISTOGRAM_ROWS, HISTOGRAM_WIDTH = 8, 40
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}

# Cells of noise, in pixels, and how much each shows: a photograph has coarse shapes and fine grain.
OCTAVES = ((256, 0.8), (64, 0.4), (16, 0.2), (4, 0.1), (2, 0.08))


# --- pictures --------------------------------------------------------------------------------------------------------


def photograph(width: int, height: int, *, seed: int, quality: int = 85) -> bytes:
    """Return a JPEG that costs what a photograph costs to send and decode: 0.18 bytes per pixel at quality 85.

    `width` and `height` are in pixels; the same arguments make the same picture.
    """
    random = Random(seed)
    picture = Image.new("RGB", (width, height), "grey")
    for cell, weight in OCTAVES:
        grid = (width // cell + 2, height // cell + 2)
        noise = Image.frombytes("RGB", grid, random.randbytes(3 * grid[0] * grid[1]))
        picture = Image.blend(picture, noise.resize(picture.size, Image.Resampling.BICUBIC), weight)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _check_picture(data: bytes) -> None:
    try:
        Image.open(io.BytesIO(data)).load()
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError...
        raise I2iiError(f"the result is not a picture: {error}", code="bad_result") from error


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How one job went: when it was submitted and had ended (monotonic seconds), and its last status, or the code of
    the error that ended it."""

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
    """What one worker did: jobs and their share in per cent, seconds of load and edit and what that is of the run."""

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
        return dict(Counter(outcome.error for outcome in self.outcomes if outcome.error is not None).most_common())

    @property
    def makespan(self) -> float:
        """Seconds from the first submit to the last end."""
        return max(each.ended for each in self.outcomes) - min(each.started for each in self.outcomes)

    @property
    def throughput(self) -> float:
        """Good jobs per second."""
        return self.succeeded / self.makespan

    @property
    def latency(self) -> dict[str, float]:
        """Percentiles of the good jobs' latency in seconds; empty if there is none."""
        ordered = sorted(self._seconds)
        return {name: percentile(ordered, share) for name, share in PERCENTILES.items()} if ordered else {}

    @property
    def means(self) -> dict[str, float]:
        """Mean seconds of each stage, as the workers have measured them; empty if they have not."""
        timings = [outcome.timings.model_dump() for outcome in self._good if outcome.timings]
        return {stage: _mean(each[stage] for each in timings) for stage in Timings.model_fields} if timings else {}

    @property
    def workers(self) -> dict[str, WorkerShare]:
        """Each worker's part, by name."""
        return {name: self._share(name) for name in sorted(self.ready | {_worker(good) for good in self._good})}

    @property
    def parallel_efficiency(self) -> float:
        """Seconds that the workers spent on load and edit, of all those that they had: 1.0 is a perfect queue."""
        workers = self.workers.values()
        return sum(worker.busy_seconds for worker in workers) / (self.makespan * max(1, len(workers)))

    @property
    def _good(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.succeeded]

    @property
    def _seconds(self) -> list[float]:
        return [outcome.seconds for outcome in self._good]

    def _share(self, name: str) -> WorkerShare:
        own = [outcome for outcome in self._good if _worker(outcome) == name]
        busy = sum(outcome.timings.load + outcome.timings.edit for outcome in own if outcome.timings)
        return WorkerShare(
            jobs=len(own),
            share_percent=round(100 * len(own) / max(1, self.succeeded), 2),
            busy_seconds=round(busy, 3),
            utilisation_percent=round(100 * busy / self.makespan, 1),
        )

    def as_dict(self) -> dict[str, Any]:
        """All figures, for a machine. Seconds, jobs per second; `parallel_efficiency` is a share of 1."""
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

    def as_text(self) -> str:
        """All figures, for people."""
        return "\n".join([*self._summary(), *_table(self.workers), *histogram(self._seconds)])

    def _summary(self) -> Iterator[str]:
        yield f"{self.jobs} jobs, {self.concurrency} at a time, to {self.url}"
        yield ""
        yield f"succeeded   {self.succeeded}" + (f", {self.jobs - self.succeeded} failed" if self.errors else "")
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


# --- the load --------------------------------------------------------------------------------------------------------


class Load:
    """One load test."""

    def __init__(self, client: AsyncClient, display: "Display", *, prompt: str) -> None:
        self._client = client
        self._display = display
        self._request = EditRequest(prompt=prompt)
        self._pictures = [photograph(*size, seed=seed) for seed, size in enumerate(SIZES)]
        self.outcomes: list[Outcome] = []
        self.ready: set[str] = set()

    async def run(self, *, jobs: int, concurrency: int) -> None:
        """Run all jobs to their ends. Raises `I2iiError` if there is no server, or no worker."""
        system = await self._client.system()
        if not system["alive_processes"]:
            raise I2iiError("no worker lives, so no job would ever end; start one: i2ii gpu 0", code="no_worker")
        self._see(system)
        watch = asyncio.create_task(self._watch())
        try:
            waiting = iter(range(jobs))
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._send(waiting))
        finally:
            watch.cancel()

    async def _send(self, waiting: Iterator[int]) -> None:
        """Send one job after the other, until all have been."""
        for index in waiting:
            self.outcomes.append(await self._time(self._pictures[index % len(self._pictures)]))
            self._display.count()

    async def _time(self, picture: bytes) -> Outcome:
        started = time.monotonic()
        try:
            status = await self._run_one(picture)
            ended = time.monotonic()
            if status.status != "completed":
                return Outcome(started, ended, status, (status.error or {}).get("code", status.status))
            result = await self._client.result(status.request_id)
            await asyncio.to_thread(_check_picture, result)
        except I2iiError as error:
            return Outcome(started, time.monotonic(), error=error.code)
        return Outcome(started, ended, status)

    async def _run_one(self, picture: bytes) -> JobStatus:
        id = await self._client.submit([picture], self._request)
        try:
            return await self._client.wait(id)
        except asyncio.CancelledError:  # a load test that is stopped takes its load with it
            with suppress(I2iiError):
                await self._client.cancel(id)
            raise

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            with suppress(I2iiError):  # whoever waits for a job hears of it
                self._see(await self._client.system())

    def _see(self, system: dict[str, Any]) -> None:
        alive = [worker for worker in system["workers"] if worker["alive"]]
        self.ready |= {worker["worker"] for worker in alive if worker["state"] in ("ready", "running")}
        self._display.show(alive)


class Display:
    """The progress bar: all jobs, and below it what each worker does."""

    def __init__(self, progress: Progress, jobs: int) -> None:
        self._progress = progress
        self._jobs = jobs
        self._ended = 0
        self._all = progress.add_task("all jobs", total=jobs, detail="")
        self._lines: dict[str, tuple[TaskID, int]] = {}

    def count(self) -> None:
        """One more job has ended."""
        self._ended += 1
        self._progress.update(self._all, completed=self._ended, detail=f"{self._ended} of {self._jobs}")

    def show(self, workers: Iterable[dict[str, Any]]) -> None:
        """Show what `/system/status` says of the workers."""
        for worker in workers:
            line, done_before = self._line(worker)
            doing = f"step {worker['step']} of {worker['steps']}" if worker["steps"] else worker["state"]
            detail = f"{worker['jobs_done'] - done_before} done, {doing}"
            self._progress.update(line, total=worker["steps"] or 1, completed=worker["step"], detail=detail)

    def _line(self, worker: dict[str, Any]) -> tuple[TaskID, int]:
        """The worker's line, and how many jobs it had done before this load test."""
        name = worker["worker"]
        if name not in self._lines:
            self._lines[name] = self._progress.add_task(name, detail=""), worker["jobs_done"]
        return self._lines[name]


@contextmanager
def _display(jobs: int) -> Iterator[Display]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Display(progress, jobs)


def run(url: str, token: str | None = None, *, jobs: int, concurrency: int, prompt: str) -> Report:
    """Submit `jobs` pictures, `concurrency` at a time, and wait for each to end.

    Raises `I2iiError` if no server answers at `url`, or if no worker lives there; what fails later is in the report.
    """
    return asyncio.run(_run(url, token, jobs, concurrency, prompt))


async def _run(url: str, token: str | None, jobs: int, concurrency: int, prompt: str) -> Report:
    async with AsyncClient(url, token) as client:
        with _display(jobs) as display:
            load = Load(client, display, prompt=prompt)
            await load.run(jobs=jobs, concurrency=concurrency)
    return Report(url, jobs, concurrency, load.outcomes, frozenset(load.ready))
