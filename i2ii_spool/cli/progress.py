"""Wait for a job at a terminal: show a progress bar, then write the pictures."""

import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from i2ii_spool.client import Client, SpoolClient
from i2ii_spool.errors import JobFailed
from i2ii_spool.spool.status import JobStatus

EX_INTERRUPTED = 130
"""The exit code after Ctrl-C, as of a shell: 128 + SIGINT."""


def wait_and_write(client: Client | SpoolClient, id: str, output: Path | None) -> None:
    """Show the progress of the job, write its pictures when it is done, and print their paths.

    The pictures are `out.png`, `out-2.png`, ... if `output` is `out.png`. Raises `JobFailed`.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(id, total=None, detail="")
            status = client.wait(id, lambda status: bar.update(task, **_shown(status)))
    except KeyboardInterrupt:
        click.echo(f"job {id} continues; `i2ii cancel {id}` stops it", err=True)
        sys.exit(EX_INTERRUPTED)
    if status.status != "completed":
        raise JobFailed(f"job {id} {status.status}: {(status.error or {}).get('message')}")
    for n, name in enumerate(status.outputs or (), start=1):
        first = output or Path(id + Path(name).suffix)
        path = first if n == 1 else first.with_stem(f"{first.stem}-{n}")
        path.write_bytes(client.result(id, n))
        click.echo(path)


def _shown(status: JobStatus) -> dict[str, Any]:
    """Return what the bar shows of a status, as arguments of `Progress.update`."""
    if status.status == "queued":
        return {"detail": f"queued, position {status.position}"}
    if status.status != "running":
        return {"total": 1, "completed": 1, "detail": status.status}
    eta = "" if status.eta_seconds is None else f", {status.eta_seconds:.0f} s left"
    return {
        "total": status.steps or None,
        "completed": status.step or 0,
        "detail": f"step {status.step}/{status.steps} on {status.worker}{eta}",
    }
