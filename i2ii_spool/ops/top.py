"""`i2ii top`: the queue, the workers and their GPUs, live. All of it is read from the spool, so
that it shows the workers of other hosts too; docs/operations.md has the `ls` and `cat` that show
the same."""

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerState, WorkerView, list_workers
from i2ii_spool.spool.lookup import JobLocation, count, list_jobs, queued_ids
from i2ii_spool.spool.status import JobStatus, status_of

REFRESH_SECONDS = 1.0
NEXT_JOBS = 5
PIPE_WIDTH = 120
WIDE = 110
COLOURS = {
    WorkerState.LOADING: "cyan",
    WorkerState.READY: "green",
    WorkerState.RUNNING: "bold green",
    WorkerState.DEGRADED: "yellow",
    WorkerState.STOPPING: "yellow",
}


def run(spool: Spool, *, lease: float) -> None:
    """Show the spool until Ctrl-C comes; once, where standard output is no terminal."""
    if not sys.stdout.isatty():
        Console(width=PIPE_WIDTH).print(_view(spool, lease, PIPE_WIDTH))
        return
    try:
        with Live(console=Console(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_view(spool, lease, live.console.width), refresh=True)
                time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def _view(spool: Spool, lease: float, width: int) -> RenderableType:
    queue = queued_ids(spool)
    workers = list_workers(spool, lease=lease)
    running = _statuses(spool, list_jobs(spool, State.RUNNING), queue)
    jobs = {status.request_id: status for status in running}
    parts: list[RenderableType] = [_header(spool, workers, queue), Text()]
    parts.append(_workers(workers, jobs, is_wide=width >= WIDE) if workers else _NO_WORKERS)
    if queue:
        places = [JobLocation(id, State.INCOMING, spool.incoming / id) for id in queue[:NEXT_JOBS]]
        parts += [Text(), _queue(_statuses(spool, places, queue), len(queue))]
    return Group(*parts)


_NO_WORKERS = Text(
    "no worker lives; start one: systemctl start i2ii-gpu@0, or i2ii gpu 0", style="yellow"
)


def _statuses(spool: Spool, places: Sequence[JobLocation], queue: Sequence[str]) -> list[JobStatus]:
    return [
        status for place in places if (status := status_of(spool, place, queue=queue)) is not None
    ]


# --- the header -----------------------------------------------------------------------------------


def _header(spool: Spool, workers: Sequence[WorkerView], queue: Sequence[str]) -> RenderableType:
    counts = count(spool)
    paces = [seen.status.mean_job_seconds for seen in workers if seen.ready]
    rate = sum(1 / pace for pace in paces if pace)
    states = f"{len(queue)} waiting, {counts[State.RUNNING]} running, {counts[State.DONE]} done, "
    speed = f", {60 * rate:.1f} jobs/min, queue empty in {_span(len(queue) / rate)}" if rate else ""
    oldest = f", oldest waits {_span(_age(queue[0]))}" if queue else ""
    return Group(
        Text(f"i2ii {spool.root}  {free_bytes(spool) / 2**30:.1f} GiB free", style="bold"),
        Text(f"{states}{counts[State.FAILED]} failed{speed}{oldest}"),
    )


def _age(id: str) -> float:
    """For how many seconds a job waits: an id begins with when it was made."""
    made = datetime.strptime(id[:19], "%Y%m%d-%H%M%S-%f").replace(tzinfo=UTC)
    return max(0.0, time.time() - made.timestamp())


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


# --- the workers ----------------------------------------------------------------------------------


def _workers(workers: Sequence[WorkerView], jobs: dict[str, JobStatus], *, is_wide: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    for name in ("WORKER", "STATE", "STEP", "", "ETA", "MEMORY", "GPU"):
        table.add_column(name, no_wrap=True)
    if is_wide:
        for name in ("DONE", "FAILED", "BEAT"):
            table.add_column(name, no_wrap=True, justify="right")
    table.add_column("JOB", no_wrap=True, overflow="ellipsis", ratio=1)
    for seen in workers:
        table.add_row(*_worker(seen, jobs.get(seen.status.job or ""), is_wide=is_wide))
    return table


def _worker(seen: WorkerView, job: JobStatus | None, *, is_wide: bool) -> list[RenderableType]:
    status = seen.status
    state = (
        Text(status.state, style=COLOURS[status.state])
        if seen.alive
        else Text("dead", style="bold red")
    )
    # The job's own progress is fresher than the heartbeat.
    step, steps = (
        (job.step or 0, job.steps or 0) if job is not None else (status.step, status.steps)
    )
    is_editing = seen.alive and steps > 0
    cells: list[RenderableType] = [
        Text(status.worker),
        state,
        f"{step}/{steps}" if is_editing else "-",
        ProgressBar(total=steps, completed=step, width=8) if is_editing else "",
        _span(job.eta_seconds)
        if is_editing and job is not None and job.eta_seconds is not None
        else "-",
        _memory(status.memory_used_mib, status.memory_total_mib),
        "-" if status.use_percent is None else f"{status.use_percent} %",
    ]
    if is_wide:
        cells += [str(status.jobs_done), str(status.jobs_failed), _span(seen.heartbeat_age)]
    return [*cells, _safe(status.note) if status.note else _described(job)]


def _memory(used: int | None, total: int | None) -> str:
    return "-" if used is None or total is None else f"{used / 1024:.0f}/{total / 1024:.0f} GiB"


def _described(job: JobStatus | None) -> Text:
    return Text("-") if job is None else _safe(f"{job.request_id}  {job.prompt or ''}")


def _safe(text: str) -> Text:
    """What a stranger has written, without what a terminal would obey; `Text` takes no markup."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))


# --- the queue ------------------------------------------------------------------------------------


def _queue(jobs: Sequence[JobStatus], total: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("NEXT", justify="right")
    table.add_column("WAITS", no_wrap=True)
    table.add_column(f"JOB (of {total})", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        table.add_row(str(job.position), _span(_age(job.request_id)), _described(job))
    return table
