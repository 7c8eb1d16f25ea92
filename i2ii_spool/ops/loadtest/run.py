"""The load test: submit pictures to a running service, wait for each job, and measure.

A job succeeds when it has completed, and its picture has been downloaded and can be decoded.
Latency is measured at the client: from the first byte of the submit to the answer that the job has
ended.
"""

import asyncio
import io
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from i2ii_spool.client import AsyncClient
from i2ii_spool.errors import BadResult, I2iiError, NoWorker
from i2ii_spool.jobs.request import EditRequest, parse
from i2ii_spool.ops.loadtest.photo import SIZES, photograph
from i2ii_spool.ops.loadtest.report import Outcome, Report
from i2ii_spool.ops.loadtest.sheet import ContactSheet, Shot, Thumbnail, sampled, thumbnail
from i2ii_spool.spool.status import JobStatus

POLL_SECONDS = 1.0


class LoadTest:
    """One load test."""

    def __init__(
        self, client: AsyncClient, display: "Display", *, prompt: str, shown: frozenset[int]
    ) -> None:
        self._client = client
        self._display = display
        self._request = parse(EditRequest, {"prompt": prompt})
        self._pictures = [photograph(*size, seed=seed) for seed, size in enumerate(SIZES)]
        self._shown = shown
        self.outcomes: list[Outcome] = []
        self.shots: list[Shot] = []
        self.ready: set[str] = set()
        self.workers: dict[str, dict[str, Any]] = {}

    @property
    def sheet(self) -> ContactSheet:
        """The pictures that were sent and the results that are shown; empty without the latter."""
        if not self._shown:
            return ContactSheet()
        sent = [thumbnail(check_picture(picture)) for picture in self._pictures]
        return ContactSheet(sent, sorted(self.shots, key=lambda shot: shot.job))

    async def run(self, *, jobs: int, concurrency: int) -> None:
        """Run all jobs to their ends. Raises `I2iiError` without a server or a worker."""
        system = await self._client.system()
        if not system["alive_processes"]:
            raise NoWorker(
                "no workers are running, so no job would ever end; start one with i2ii gpu 0"
            )
        self._note(system)
        watch = asyncio.create_task(self._watch())
        try:
            waiting = iter(range(jobs))
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(self._run_jobs(waiting))
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with suppress(I2iiError):  # the jobs report the same error
                self._note(await self._client.system())

    def _note(self, system: dict[str, Any]) -> None:
        """Note which workers are ready, and show what they do."""
        alive = [worker for worker in system["workers"] if worker["alive"]]
        self.ready |= {
            worker["worker"] for worker in alive if worker["state"] in ("ready", "running")
        }
        self.workers |= {worker["worker"]: worker for worker in alive}
        self._display.show(alive)

    async def _run_jobs(self, waiting: Iterator[int]) -> None:
        """Run jobs one after the other, until none waits."""
        for index in waiting:
            self.outcomes.append(await self._run_job(index))
            self._display.count()

    async def _run_job(self, index: int) -> Outcome:
        started = time.monotonic()
        picture = index % len(self._pictures)
        status = None
        try:
            status = await self._edit(self._pictures[picture])
            ended = time.monotonic()
            if status.status != "completed":
                described = status.error or {}
                code = described.get("code", status.status)
                message = described.get("message", "")
                return Outcome(started, ended, status, code, message)
            result = await self._client.result(status.request_id)
            small = await asyncio.to_thread(_judged, result, with_thumbnail=index in self._shown)
            if small is not None:
                self.shots.append(Shot(index, picture, ended - started, small))
        except I2iiError as error:
            return Outcome(started, time.monotonic(), status, error.code, error.message)
        return Outcome(started, ended, status)

    async def _edit(self, picture: bytes) -> JobStatus:
        """Submit a job and wait for its end; cancel it if the load test is stopped."""
        id = await self._client.submit([picture], self._request)
        try:
            return await self._client.wait(id)
        except asyncio.CancelledError:
            with suppress(I2iiError):
                await self._client.cancel(id)
            raise


def check_picture(data: bytes) -> Image.Image:
    """Return the picture, decoded. Raises `BadResult` for anything else."""
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error...: by the decoder
        raise BadResult(f"the result is not a picture: {error}") from error
    return picture


def _judged(data: bytes, *, with_thumbnail: bool) -> Thumbnail | None:
    picture = check_picture(data)
    return thumbnail(picture) if with_thumbnail else None


class Display:
    """The progress bars: one of all jobs, and one per worker."""

    def __init__(self, progress: Progress, jobs: int) -> None:
        self._progress = progress
        self._jobs = jobs
        self._ended = 0
        self._all = progress.add_task("all jobs", total=jobs, detail="")
        self._bars: dict[str, tuple[TaskID, int]] = {}
        """By worker: its bar, and the jobs that it had done before this load test."""

    def count(self) -> None:
        """Count one more job that has ended."""
        self._ended += 1
        self._progress.update(
            self._all, completed=self._ended, detail=f"{self._ended} of {self._jobs}"
        )

    def show(self, workers: Iterable[dict[str, Any]]) -> None:
        """Show the workers of an answer of `/system/status`."""
        for worker in workers:
            name, step, steps = worker["worker"], worker["step"], worker["steps"]
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, detail=""), worker["jobs_done"]
            bar, done_before = self._bars[name]
            activity = f"step {step} of {steps}" if steps else worker["state"]
            detail = f"{worker['jobs_done'] - done_before} done, {activity}"
            self._progress.update(bar, total=steps or 1, completed=step, detail=detail)


def run(
    url: str,
    token: str | None = None,
    *,
    jobs: int,
    concurrency: int,
    prompt: str,
    with_sheet: bool = False,
) -> Report:
    """Submit `jobs` pictures, `concurrency` at a time, and wait for each to end.

    Raises `I2iiError` if no server answers at `url`, or if no worker is running. The report has the
    errors that come later, and the contact sheet if it is asked for. Ctrl-C cancels the jobs that
    run; the report has those that have ended.
    """
    shown = sampled(jobs, len(SIZES)) if with_sheet else frozenset()
    return asyncio.run(_run(url, token, jobs, concurrency, prompt, shown))


async def _run(
    url: str,
    token: str | None,
    jobs: int,
    concurrency: int,
    prompt: str,
    shown: frozenset[int],
) -> Report:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    began = datetime.now().astimezone()
    async with AsyncClient(url, token) as client:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            test = LoadTest(client, Display(progress, jobs), prompt=prompt, shown=shown)
            # Ctrl-C cancels this task, and asyncio raises KeyboardInterrupt only if it ends so.
            with suppress(asyncio.CancelledError):
                await test.run(jobs=jobs, concurrency=concurrency)
    return Report(
        url,
        jobs,
        concurrency,
        test.outcomes,
        frozenset(test.ready),
        prompt=prompt,
        began=began,
        workers_seen=test.workers,
        sheet=test.sheet,
    )
