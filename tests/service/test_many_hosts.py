"""Several hosts on one spool: what is shown of them, and two of one name."""

import json
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from i2ii_spool.spool.hosts import by_host
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import WorkerLock, WorkerState, list_workers, worker_name
from tests.support.app import Connect, HandWorker, get
from tests.support.seams import work_on
from tests.support.service import Service, cli, wait_until
from tests.support.workers import read, submit_into, wait_done, write_worker

NODE1, NODE2 = ("node1.a.example", "1111-aaaa"), ("node1.b.example", "2222-bbbb")
WORKER = "node1.gpu0"
LEASE = {"lease_seconds": "2"}


def is_ready(service: Service, process: subprocess.Popen[bytes], worker: str = WORKER) -> bool:
    """Whether the process has the worker's name, and takes jobs."""
    file = service.spool.workers / f"{worker}.json"
    status = read(file) if file.exists() else {"pid": None}
    return status["pid"] == process.pid and status["state"] == "ready"


def wait_ready(service: Service, process: subprocess.Popen[bytes]) -> None:
    wait_until(lambda: is_ready(service, process))


# --- two hosts of one name ------------------------------------------------------------------------


@pytest.mark.parametrize("shares_locks", [True, False])
def test_a_worker_does_not_start_under_the_name_of_another_hosts(
    service: Service, picture: Path, *, shares_locks: bool
) -> None:
    first = work_on(service, *NODE1, shares_locks=shares_locks)
    wait_ready(service, first)
    second = work_on(service, *NODE2, shares_locks=shares_locks)
    assert second.wait(30) == 78
    says = "i2ii: node1.gpu0 runs on another host, which is called node1.a.example"
    assert says in service.read_log()
    assert "hostnamectl set-hostname" in service.read_log()
    assert "Traceback" not in service.read_log()
    job = submit_into(service, picture)
    assert wait_done(service, job)["worker"] == WORKER
    assert is_ready(service, first)


def test_of_two_that_start_at_the_same_moment_one_ends(service: Service, picture: Path) -> None:
    both = [work_on(service, *node, shares_locks=False) for node in (NODE1, NODE2)]
    wait_until(lambda: any(process.poll() is not None for process in both))
    (ended,) = [process for process in both if process.poll() is not None]
    (other,) = [process for process in both if process is not ended]
    assert ended.returncode == 78
    assert "is called node1." in service.read_log()
    wait_ready(service, other)
    assert wait_done(service, submit_into(service, picture))["attempt"] == 1
    assert other.poll() is None


def test_a_worker_takes_the_name_of_a_dead_one_of_another_host_after_the_lease(
    service: Service, picture: Path
) -> None:
    first = work_on(service, *NODE1)
    wait_ready(service, first)
    first.kill()
    first.wait()
    job = submit_into(service, picture)
    (service.spool.incoming / job).rename(service.spool.running / WORKER / job)
    second = work_on(service, *NODE2, **LEASE)
    assert wait_done(service, job)["worker"] == WORKER
    assert "another host had a worker node1.gpu0; starting when it has been" in service.read_log()
    assert read(service.spool.workers / f"{WORKER}.json")["pid"] == second.pid


def test_a_killed_worker_of_the_same_host_starts_at_once(service: Service) -> None:
    first = work_on(service, *NODE1)
    wait_ready(service, first)
    first.kill()
    first.wait()
    wait_ready(service, work_on(service, *NODE1, lease_seconds="3600"))
    assert "another host" not in service.read_log()


def test_a_stopped_worker_leaves_its_name_to_any_host(service: Service) -> None:
    first = work_on(service, *NODE1)
    wait_ready(service, first)
    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    wait_ready(service, work_on(service, *NODE2, lease_seconds="3600"))


def test_a_worker_outlives_a_change_of_its_hosts_name(
    service: Service, picture: Path, tmp_path: Path
) -> None:
    name = tmp_path / "hostname"
    name.write_text("node1")
    worker = work_on(service, name, "1111-aaaa")
    wait_ready(service, worker)
    name.write_text("node1.example.com")  # as DHCP or cloud-init does
    folder = service.spool.running / WORKER
    folder.rmdir()
    # It makes its folder again when it has looked whether its name is still its own.
    wait_until(lambda: folder.is_dir() or worker.poll() is not None)
    assert wait_done(service, submit_into(service, picture))["worker"] == WORKER
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert not (service.spool.workers / f"{WORKER}.json").exists()


def open_files(process: subprocess.Popen[bytes]) -> str:
    names = []
    for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            names.append(str(descriptor.readlink()))
    return " ".join(names)


def test_a_worker_whose_lock_another_process_has_says_so_and_takes_it_later(
    service: Service,
) -> None:
    worker = work_on(service, *NODE1)
    wait_ready(service, worker)
    file = service.spool.locks / WORKER
    file.unlink()
    other = WorkerLock.take(service.spool, WORKER)
    assert other is not None
    with other:
        wait_until(lambda: "another process holds the new one" in service.read_log())
    wait_until(lambda: file.read_text() == f"{worker.pid}\n")


WAITING = """
from i2ii_spool.cli.main import main
from i2ii_spool.spool.liveness import WorkerLock
take, calls = WorkerLock.take, iter(range(40))
WorkerLock.take = lambda *name: take(*name) if next(calls, None) is None else None
main(["gpu", "0"])
"""
"""A worker that for two seconds finds its lock held by one that has just removed the file."""


def test_a_worker_waits_for_a_lock_whose_file_is_removed(service: Service) -> None:
    worker = service.start(sys.executable, "-c", WAITING)
    wait_until(lambda: is_ready(service, worker, worker_name("gpu0")) or worker.poll() is not None)
    assert worker.poll() is None


def test_what_another_process_removed_from_a_silent_worker_comes_back(
    service: Service, picture: Path
) -> None:
    worker = work_on(service, *NODE1)
    wait_ready(service, worker)
    spool = service.spool
    (spool.running / WORKER).rmdir()
    (spool.locks / WORKER).unlink()
    (spool.workers / f"{WORKER}.json").unlink()
    wait_until(lambda: (spool.running / WORKER).is_dir() and (spool.locks / WORKER).exists())
    wait_ready(service, worker)
    wait_until(lambda: f"{WORKER} (deleted)" not in open_files(worker))
    assert wait_done(service, submit_into(service, picture))["worker"] == WORKER
    assert worker.poll() is None


# --- what is shown --------------------------------------------------------------------------------


async def test_the_system_status_shows_hosts_and_tells_dead_ones_apart(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    worker.show(WorkerState.RUNNING, job="20260101-000000-000-aaaaaa", version="0.9")
    write_worker(spool, "nodeA.gpu0", host="nodeA.example", boot_id="1", version="1.0")
    write_worker(spool, "nodeA.gpu1", state=WorkerState.LOADING)
    write_worker(spool, "nodeB.gpu0", at=1, job="20260101-000000-000-bbbbbb")
    shown = await get(await connect(), "/system/status")
    hosts = {host["host"]: host for host in shown["hosts"]}
    mine = hosts.pop(worker.name.partition(".")[0])
    assert (mine["alive"], mine["running_requests"], mine["versions"]) == (True, 1, ["0.9"])
    assert {name: (host["alive"], host["workers"]) for name, host in hosts.items()} == {
        "nodeA": (True, 2),
        "nodeB": (False, 1),
    }
    assert (hosts["nodeA"]["alive_workers"], hosts["nodeA"]["ready_workers"]) == (2, 1)
    assert hosts["nodeB"]["running_requests"] == 0
    assert hosts["nodeB"]["heartbeat_age"] > 10**6 > hosts["nodeA"]["heartbeat_age"]
    (known,) = [each for each in shown["workers"] if each["worker"] == "nodeA.gpu0"]
    assert (known["host"], known["boot_id"], known["version"]) == ("nodeA.example", "1", "1.0")
    assert (shown["total_gpus"], shown["alive_processes"], shown["ready_workers"]) == (3, 3, 2)


def test_a_worker_tells_its_host_and_its_version(service: Service) -> None:
    service.work()
    (status,) = service.workers()
    assert status["host"]
    assert status["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert status["version"]
    assert status["worker"].startswith(status["host"].partition(".")[0])


def test_top_and_the_doctor_show_the_hosts_of_a_spool(service: Service) -> None:
    service.work()
    assert not re.search("^host ", cli(service, "top").stdout, re.MULTILINE)
    write_worker(service.spool, "nodeB.gpu0", at=1)
    shown = cli(service, "top").stdout
    mine = worker_name("gpu0").partition(".")[0]
    assert re.search(rf"^host {mine} 1 of 1 workers ready, 0 jobs running, i2ii ", shown, re.M)
    assert re.search(r"^host nodeB dead, last heard of \d+ h ago", shown, re.M)
    report = json.loads(cli(service, "doctor", "--json", check=False).stdout)
    findings = [each for each in report["findings"] if each["check"] == "hosts"]
    assert [each["verdict"] for each in findings] == ["warning", "ok"]
    assert findings[0]["message"].startswith("no worker of nodeB lives; last heard of ")
    assert f"{mine} 1 of 1 workers ready" in findings[1]["message"]


def test_the_doctor_tells_of_several_versions(service: Service) -> None:
    service.work()
    write_worker(service.spool, "nodeA.gpu0", version="7.0")
    write_worker(service.spool, "nodeB.gpu0")
    report = json.loads(cli(service, "doctor", "--json", check=False).stdout)
    (finding,) = [each for each in report["findings"] if each["check"] == "hosts"]
    assert finding["verdict"] == "warning"
    assert "nodeA 1 of 1 workers ready (7.0)" in finding["message"]
    assert "nodeB 1 of 1 workers ready (unknown)" in finding["message"]


def test_hosts_are_sorted_by_name_whatever_the_names_of_the_gpus(spool: Spool) -> None:
    for name in ("n-1.gpu0", "n.gpu0", "n-1.gpu1", "n.gpu1"):
        write_worker(spool, name)
    hosts = by_host(list_workers(spool, lease=60))
    assert [(host.host, len(host.workers)) for host in hosts] == [("n", 2), ("n-1", 2)]
