"""Waiting at a terminal: a progress bar, and then the picture."""

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from i2ii_spool.client import Client, SpoolClient
from i2ii_spool.errors import JobFailed
from i2ii_spool.spool.status import JobStatus


def wait_and_write(client: Client | SpoolClient, id: str, output: Path | None) -> None:
    """Show how the job goes; once it is done, write its pictures and print their paths. Raises
    `JobFailed`."""
    try:
        status = _watch(client, id)
    except KeyboardInterrupt:
        click.echo(f"job {id} goes on; `i2ii cancel {id}` stops it", err=True)
        sys.exit(130)
    if status.status != "completed":
        raise JobFailed(f"job {id} {status.status}: {(status.error or {}).get('message')}")
    for n, name in enumerate(status.outputs or (), start=1):
        path = _path_of(n, output or Path(id + Path(name).suffix))
        path.write_bytes(client.result(id, n))
        click.echo(path)


def _watch(client: Client | SpoolClient, id: str) -> JobStatus:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(id, total=None, detail="")

        def show(status: JobStatus) -> None:
            match status.status:
                case "queued":
                    bar.update(task, detail=f"queued, position {status.position}")
                case "running":
                    bar.update(
                        task,
                        total=status.steps or None,
                        completed=status.step or 0,
                        detail=_steps(status),
                    )
                case _:
                    bar.update(task, total=1, completed=1, detail=status.status)

        return client.wait(id, show)


def _steps(status: JobStatus) -> str:
    eta = "" if status.eta_seconds is None else f", {status.eta_seconds:.0f} s to go"
    return f"step {status.step}/{status.steps} on {status.worker}{eta}"


def _path_of(n: int, first: Path) -> Path:
    """`out.png` for the first picture, `out-2.png` for the second."""
    return first if n == 1 else first.with_stem(f"{first.stem}-{n}")
