"""Processes of an older version and of this one on one spool, as during an upgrade host by host."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from i2ii_spool.spool.liveness import worker_name
from tests.support import ROOT
from tests.support.service import Service, cli, get_json, wait_until
from tests.support.workers import (
    is_done,
    step_of,
    submit_into,
    wait_done,
    wait_failed,
    wait_status,
)

OLD = "6920886"
"""The last commit before the status of a worker told its version, and a spool its format."""
RUN = "import sys; sys.path.insert(0, {!r}); from i2ii_spool.cli.main import main; main({!r})"
GPU0, GPU1 = worker_name("gpu0"), worker_name("gpu1")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package of the older version."""
    command = ["git", "archive", OLD, "i2ii_spool"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"this clone has no history: {archive.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def start_old(service: Service, old: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return service.start(sys.executable, "-c", RUN.format(str(old), list(arguments)))


def serve_old(service: Service, old: Path) -> str:
    start_old(service, old, "serve", "--port", "0")
    wait_until(lambda: "listening on " in service.read_log())
    return service.read_log().rpartition("listening on ")[2].split(",")[0]


def work_old(service: Service, old: Path, unit: str = "0") -> subprocess.Popen[bytes]:
    process = start_old(service, old, "gpu", unit)
    wait_status(service, worker_name(f"gpu{unit}"), state="ready", pid=process.pid)
    return process


def test_an_old_and_a_new_worker_share_the_jobs_of_a_new_server(
    service: Service, old: Path, picture: Path
) -> None:
    url = service.serve()
    work_old(service, old)
    service.work("1")
    jobs = [submit_into(service, picture) for _ in range(12)]
    assert {wait_done(service, id)["worker"] for id in jobs} <= {GPU0, GPU1}
    shown = wait_until(lambda: get_json(f"{url}/system/status"))
    versions = {worker["worker"]: worker["version"] for worker in shown["workers"]}
    assert versions[GPU0] == ""
    assert versions[GPU1]
    assert shown["ready_workers"] == 2
    report = json.loads(cli(service, "doctor", "--json", check=False).stdout)
    (finding,) = [each for each in report["findings"] if each["check"] == "hosts"]
    assert "several versions" in finding["message"]


def test_an_old_server_serves_the_jobs_of_a_new_worker(
    service: Service, old: Path, picture: Path
) -> None:
    url = serve_old(service, old)
    service.work("0")
    id = submit_into(service, picture)
    wait_done(service, id)
    assert get_json(f"{url}/status/{id}")["worker"] == GPU0
    assert get_json(f"{url}/health") == {"status": "healthy", "ready_workers": 1}
    assert get_json(f"{url}/system/status")["ready_workers"] == 1


def test_each_version_recovers_the_jobs_of_a_dead_worker_of_the_other(
    service: Service, old: Path, picture: Path
) -> None:
    new = service.work("0", engine="slow")
    first = submit_into(service, picture, num_inference_steps=100)
    wait_until(lambda: step_of(service.spool, first))
    new.kill()
    new.wait()
    restarted = work_old(service, old)  # under the same name, as after a downgrade
    assert wait_done(service, first)["attempt"] == 2
    second = submit_into(service, picture)
    wait_done(service, second)
    restarted.kill()
    restarted.wait()
    (service.spool.done / second).rename(service.spool.running / GPU0 / second)
    service.work("0")
    wait_until(lambda: is_done(service, second))


def test_an_old_worker_fails_a_job_with_a_field_that_it_does_not_know(
    service: Service, old: Path, picture: Path
) -> None:
    """Hence workers are upgraded before servers."""
    work_old(service, old)
    id = submit_into(service, picture)
    wait_done(service, id)
    job = service.spool.done / id
    record = json.loads((job / "job.json").read_text())
    (job / "job.json").write_text(json.dumps({**record, "a_new_field": 1}))
    job.rename(service.spool.incoming / id)
    assert "a_new_field is not a field of this request" in wait_failed(service, id)["message"]
