"""The load test: submit pictures to a running service, follow each to its end, and say where the
time went.

A job counts as succeeded when it has completed and its picture has come back and can be decoded.
Latency is what a caller feels: from the first byte of the submit to the answer that says that the
job has ended.
"""

import asyncio
import io
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from i2ii_spool.client import AsyncClient
from i2ii_spool.errors import BadResult, I2iiError, NoWorker
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.ops.loadtest.photo import SIZES, photograph
from i2ii_spool.ops.loadtest.report import Outcome, Report
from i2ii_spool.spool.status import JobStatus

POLL_SECONDS = 1.0


def _check_picture(data: bytes) -> None:
    try:
        Image.open(io.BytesIO(data)).load()
    except (
        Exception
    ) as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError...
        raise BadResult(f"the result is not a picture: {error}") from error


class LoadTest:
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
            raise NoWorker(
                "no workers are running, so no job would ever end; start one: i2ii gpu 0"
            )
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
                return Outcome(
                    started, ended, status, (status.error or {}).get("code", status.status)
                )
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
            await asyncio.sleep(POLL_SECONDS)
            with suppress(I2iiError):  # whoever waits for a job hears of it
                self._see(await self._client.system())

    def _see(self, system: dict[str, Any]) -> None:
        alive = [worker for worker in system["workers"] if worker["alive"]]
        self.ready |= {
            worker["worker"] for worker in alive if worker["state"] in ("ready", "running")
        }
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
        self._progress.update(
            self._all, completed=self._ended, detail=f"{self._ended} of {self._jobs}"
        )

    def show(self, workers: Iterable[dict[str, Any]]) -> None:
        """Show what `/system/status` says of the workers."""
        for worker in workers:
            line, done_before = self._line(worker)
            doing = (
                f"step {worker['step']} of {worker['steps']}"
                if worker["steps"]
                else worker["state"]
            )
            detail = f"{worker['jobs_done'] - done_before} done, {doing}"
            self._progress.update(
                line, total=worker["steps"] or 1, completed=worker["step"], detail=detail
            )

    def _line(self, worker: dict[str, Any]) -> tuple[TaskID, int]:
        """The worker's line, and how many jobs it had done before this load test."""
        name = worker["worker"]
        if name not in self._lines:
            self._lines[name] = self._progress.add_task(name, detail=""), worker["jobs_done"]
        return self._lines[name]


@contextmanager
def _display(jobs: int) -> Iterator[Display]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Display(progress, jobs)


def run(url: str, token: str | None = None, *, jobs: int, concurrency: int, prompt: str) -> Report:
    """Submit `jobs` pictures, `concurrency` at a time, and wait for each to end.

    Raises `I2iiError` if no server answers at `url`, or if no worker lives there; what fails later
    is in the report.
    """
    return asyncio.run(_run(url, token, jobs, concurrency, prompt))


async def _run(url: str, token: str | None, jobs: int, concurrency: int, prompt: str) -> Report:
    async with AsyncClient(url, token) as client:
        with _display(jobs) as display:
            load = LoadTest(client, display, prompt=prompt)
            await load.run(jobs=jobs, concurrency=concurrency)
    return Report(url, jobs, concurrency, load.outcomes, frozenset(load.ready))
