"""`i2ii top`: show the queue, the workers and their GPUs, live.

It reads only the spool, so that it shows the workers of other hosts, too. docs/operations.md has
the `ls` and `cat` that show the same.
"""

import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from i2ii_spool.jobs.ids import age_of
from i2ii_spool.spool.capacity import free_bytes
from i2ii_spool.spool.hosts import HostView, by_host
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import (
    WorkerObserver,
    WorkerState,
    WorkerView,
    seconds_between_completions,
)
from i2ii_spool.spool.lookup import JobLocation, count, list_jobs, queued_ids
from i2ii_spool.spool.status import JobStatus, status_of

REFRESH_SECONDS = 1.0
NEXT_JOBS = 5
PIPE_WIDTH = 120
WIDE = 110
"""Columns of a terminal from which the table has all its columns."""
COLOURS = {
    WorkerState.LOADING: "cyan",
    WorkerState.READY: "green",
    WorkerState.RUNNING: "bold green",
    WorkerState.DEGRADED: "yellow",
    WorkerState.STOPPING: "yellow",
}


def run(spool: Spool, *, lease: float) -> None:
    """Show the spool until Ctrl-C; once, if standard output is not a terminal."""
    observer = WorkerObserver(spool, lease=lease)
    if sys.stdout is None or not sys.stdout.isatty():
        Console(width=PIPE_WIDTH).print(_view(spool, observer, PIPE_WIDTH))
        return
    try:
        with Live(console=Console(), screen=True, auto_refresh=False) as live:
            while True:
                live.update(_view(spool, observer, live.console.width), refresh=True)
                time.sleep(REFRESH_SECONDS)
    except KeyboardInterrupt:
        return


def _view(spool: Spool, observer: WorkerObserver, width: int) -> RenderableType:
    queue = queued_ids(spool)
    workers = observer.look()
    running = _statuses(spool, list_jobs(spool, State.RUNNING), queue)
    jobs = {status.request_id: status for status in running}
    parts = [*_header(spool, workers, queue), *_hosts(workers), Text()]
    if not workers:
        parts.append(
            Text(
                "no workers are running; start one with systemctl start i2ii-gpu@0, or i2ii gpu 0",
                style="yellow",
            )
        )
    else:
        parts.append(_worker_table(workers, jobs, is_wide=width >= WIDE))
    if queue:
        first = [JobLocation(id, State.INCOMING, spool.incoming / id) for id in queue[:NEXT_JOBS]]
        parts += [Text(), _queue_table(_statuses(spool, first, queue), len(queue))]
    return Group(*parts)


def _statuses(spool: Spool, jobs: Sequence[JobLocation], queue: Sequence[str]) -> list[JobStatus]:
    found = [status_of(spool, location, queue=queue) for location in jobs]
    return [status for status in found if status is not None]


def _header(
    spool: Spool, workers: Sequence[WorkerView], queue: Sequence[str]
) -> list[RenderableType]:
    counts = count(spool)
    pace = seconds_between_completions(workers)
    states = f"{len(queue)} waiting, {counts[State.RUNNING]} running, {counts[State.DONE]} done, "
    speed = ""
    if pace is not None:
        speed = f", {60 / pace:.1f} jobs/min, queue empty in {_span(len(queue) * pace)}"
    oldest = f", oldest waits {_span(age_of(queue[0]))}" if queue else ""
    return [
        Text(f"i2ii {spool.root}  {free_bytes(spool) / 2**30:.1f} GiB free", style="bold"),
        Text(f"{states}{counts[State.FAILED]} failed{speed}{oldest}"),
    ]


def _hosts(workers: Sequence[WorkerView]) -> list[RenderableType]:
    """A line for each host, if there are several."""
    hosts = by_host(workers)
    return [_host_line(host) for host in hosts] if len(hosts) > 1 else []


def _host_line(host: HostView) -> RenderableType:
    if not host.alive:
        heard = f"last heard of {_span(host.heartbeat_age)} ago"
        return Text(f"host {host.host} dead, {heard}", style="bold red")
    counts = f"{host.ready_workers} of {len(host.workers)} workers ready"
    version = f"i2ii {' and '.join(host.versions)}"
    return Text(f"host {host.host} {counts}, {host.running_jobs} jobs running, {version}")


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _worker_table(
    workers: Sequence[WorkerView], jobs: dict[str, JobStatus], *, is_wide: bool
) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    for name in ("WORKER", "STATE", "STEP", "", "ETA", "MEMORY", "GPU"):
        table.add_column(name, no_wrap=True)
    if is_wide:
        for name in ("DONE", "FAILED", "BEAT"):
            table.add_column(name, no_wrap=True, justify="right")
    table.add_column("JOB", no_wrap=True, overflow="ellipsis", ratio=1)
    for worker in workers:
        table.add_row(*_worker_row(worker, jobs.get(worker.status.job or ""), is_wide=is_wide))
    return table


def _worker_row(
    worker: WorkerView, job: JobStatus | None, *, is_wide: bool
) -> list[RenderableType]:
    status = worker.status
    # The job's own progress is fresher than the heartbeat.
    source = status if job is None else job
    step, steps = source.step or 0, source.steps or 0
    is_editing = worker.alive and steps > 0
    eta = job.eta_seconds if is_editing and job is not None else None
    used, total = status.memory_used_mib, status.memory_total_mib
    cells: list[RenderableType] = [
        Text(status.worker),
        Text(status.state, style=COLOURS[status.state])
        if worker.alive
        else Text("dead", style="bold red"),
        f"{step}/{steps}" if is_editing else "-",
        ProgressBar(total=steps, completed=step, width=8) if is_editing else "",
        "-" if eta is None else _span(eta),
        "-" if used is None or total is None else f"{used / 1024:.0f}/{total / 1024:.0f} GiB",
        _busy(status.use_percent, status.temperature_celsius),
    ]
    if is_wide:
        cells += [str(status.jobs_done), str(status.jobs_failed), _span(worker.heartbeat_age)]
    if not status.note:
        return [*cells, _described(job)]
    note = _printable(status.note)
    return [*cells, note if job is None else Text("  ").join((_described(job), note))]


def _busy(use: int | None, temperature: int | None) -> str:
    parts = [f"{use} %"] if use is not None else []
    parts += [f"{temperature} °C"] if temperature is not None else []
    return " ".join(parts) or "-"


def _queue_table(jobs: Sequence[JobStatus], total: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True, header_style="dim")
    table.add_column("NEXT", justify="right")
    table.add_column("WAITS", no_wrap=True)
    table.add_column(f"JOB (of {total})", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        table.add_row(str(job.position), _span(age_of(job.request_id)), _described(job))
    return table


def _described(job: JobStatus | None) -> Text:
    return Text("-") if job is None else _printable(f"{job.request_id}  {job.prompt or ''}")


def _printable(text: str) -> Text:
    """Return a client's text without control characters, and without markup: `Text` reads none."""
    return Text("".join(letter if letter.isprintable() else " " for letter in text))
