"""Workers as processes, from outside: their status files, and where their jobs are."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

from i2ii_spool.jobs.folder import read_record
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerState, WorkerStatus, worker_name, write_status
from i2ii_spool.spool.submit import submit
from tests.support.service import Service, wait_until

GPU0 = worker_name("gpu0")


def submit_into(service: Service, picture: Path, **fields: Any) -> str:
    """Submit the picture into the service's spool; the arguments are fields of the request."""
    request = EditRequest(**{"prompt": "sepia", **fields})
    return submit(service.spool, [picture], request, max_pixels=10**8)


def write_worker(spool: Spool, worker: str, *, at: float | None = None, **fields: Any) -> None:
    """Write the status of a worker, as of another host; `at` is the time of its heartbeat."""
    given = {"state": WorkerState.READY, "pid": 1, "gpu_id": 0, "engine": "hand", "model": "none"}
    write_status(spool, WorkerStatus(**{**given, **fields, "worker": worker}))
    if at is not None:
        os.utime(spool.workers / f"{worker}.json", (at, at))


def read(path: Path) -> Any:
    return json.loads(read_record(path))


def is_done(service: Service, id: str) -> bool:
    return (service.spool.done / id).is_dir()


def wait_done(service: Service, id: str) -> dict[str, Any]:
    """Wait for the job's end; return its result."""
    wait_until(lambda: is_done(service, id) or (service.spool.failed / id / "error.json").exists())
    assert is_done(service, id), (service.spool.failed / id / "error.txt").read_text()
    return read(service.spool.done / id / "result.json")


def wait_failed(service: Service, id: str, *, seconds: float = 20) -> dict[str, Any]:
    """Wait until the job has failed; return why."""
    wait_until(lambda: (service.spool.failed / id).is_dir(), seconds=seconds)
    return read(service.spool.failed / id / "error.json")


def step_of(spool: Spool, id: str, worker: str = GPU0) -> int:
    """How far a job is, by its progress file; 0 where there is none."""
    try:
        return read(spool.running / worker / id / "progress.json")["step"]
    except FileNotFoundError:
        return 0


def wait_at_work(service: Service, id: str, *, step: int = 1, worker: str = GPU0) -> None:
    wait_until(lambda: step_of(service.spool, id, worker) >= step)


def status_file(service: Service, worker: str = GPU0) -> Path:
    return service.spool.workers / f"{worker}.json"


def wait_status(service: Service, worker: str = GPU0, **fields: Any) -> dict[str, Any]:
    """Wait until the worker shows these fields; return all that it shows."""

    def shown() -> dict[str, Any] | None:
        try:
            status = read(status_file(service, worker))
        except FileNotFoundError:
            return None
        return status if fields.items() <= status.items() else None

    return wait_until(shown)


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Send the signal; return the exit code."""
    process.send_signal(number)
    return process.wait(30)
