"""Wait for a job at a terminal: show a progress bar, then write the pictures."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from i2ii_spool.cli.terminal import echo
from i2ii_spool.client import Client, SpoolClient
from i2ii_spool.errors import InvalidRequest, JobFailed, NoServer
from i2ii_spool.spool.status import JobStatus

EX_INTERRUPTED = 130
"""The exit code after Ctrl-C, as of a shell: 128 + SIGINT."""


def check_output(output: Path | None) -> None:
    """Raise `InvalidRequest` if the picture could not be written, before anything is submitted."""
    folder = Path() if output is None else output.parent
    if not folder.is_dir():
        raise InvalidRequest(f"output: there is no folder {folder}; create it first")
    if output is not None and output.is_dir():
        raise InvalidRequest(f"output: {output} is a folder; name a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidRequest(f"output: {folder.absolute()} cannot be written; name another with -o")


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
        echo(f"job {id} continues; `i2ii cancel {id}` stops it", err=True)
        sys.exit(EX_INTERRUPTED)
    except NoServer as error:
        raise NoServer(f"{error}; job {id} continues without this command") from error
    if status.status != "completed":
        raise JobFailed(f"job {id} {status.status}: {(status.error or {}).get('message')}")
    for n, name in enumerate(status.outputs or (), start=1):
        first = output or Path(id + Path(name).suffix)
        path = first if n == 1 else first.with_stem(f"{first.stem}-{n}")
        path.write_bytes(client.result(id, n))
        echo(path)


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
