"""A storm: servers and workers are killed at random while many clients submit, ask, cancel, retry
and delete.

Some jobs are poison: one kills its worker, one hangs, one exhausts the memory, one raises. The test
acts as systemd: it starts again what has ended, and aborts a worker without a heartbeat. At the end
each accepted job is in one place, in a state that it may end in, or a client has deleted it.
"""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from i2ii_spool.jobs.folder import JobFolder, read_record
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name
from tests.support.chaos import (
    MAX_ATTEMPTS,
    SERVER,
    WORKER,
    ProcessGroup,
    check_done,
    is_dry,
    places,
)
from tests.support.http import ask, is_error
from tests.support.pictures import make_picture
from tests.support.service import Service, wait_until
from tests.support.storm_clients import POISONS, Client, JobHistory, Ledger

CLIENTS = 6
PAUSE = (0.1, 1.5)
HEARTBEAT_TIMEOUT = 4.0
"""Seconds without a heartbeat, after which a worker is taken to hang."""
MEMORY = 5 * 2**28
"""Bytes of address space. Each of a server's twenty threads reserves 72 MiB."""

SERVERS = {"server-a": SERVER, "server-b": SERVER}
WORKERS = {
    "gpu0": (WORKER, "poisonable", "0"),
    "gpu1": (WORKER, "poisonable", "1"),
    "gpu2": (WORKER, "slow_poisonable", "2"),
    "gpu3": (WORKER, "slow_poisonable", "3"),
}

POSSIBLE_CODES = {
    "sepia": {"crashed"},
    "hang": {"crashed"},
    "kill": {"crashed"},
    "eat": {"engine_error", "crashed"},
    "raise": {"engine_error", "crashed"},
}


class StormGroup(ProcessGroup):
    """Two servers, and four workers that may die of their jobs."""

    deaths = (-signal.SIGKILL, -signal.SIGABRT)
    commands: Mapping[str, tuple[str, ...]] = {**SERVERS, **WORKERS}
    pause = PAUSE
    heartbeat_timeout = HEARTBEAT_TIMEOUT

    def __init__(self, service: Service, chance: random.Random) -> None:
        self._starts: Counter[str] = Counter()
        self._logs: dict[str, Path] = {}
        self._heartbeats: dict[str, tuple[int, float]] = {}
        super().__init__(service, self.commands, chance)
        self.aborted = 0
        self.died = 0

    def _service_of(self, _name: str) -> Service:
        """The service of the host that it runs on."""
        return self._service

    def _worker_of(self, name: str) -> str:
        return worker_name(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        """Start it with a log of its own, and a limit to its memory."""
        self._starts[name] += 1
        self._logs[name] = self._service.log.with_name(f"{name}.{self._starts[name]}.log")
        self._logs[name].touch()
        self._heartbeats.pop(name, None)
        return self._service_of(name).start(
            *("sh", "-c", 'exec "$@" 2>"$0"', str(self._logs[name]), "prlimit", f"--as={MEMORY}"),
            *(sys.executable, *self._commands[name]),
            max_attempts=str(MAX_ATTEMPTS),
        )

    def urls(self) -> list[str]:
        """Where servers listen, or listened until a moment ago."""
        told = [self._logs[name].read_text().partition("listening on ")[2] for name in SERVERS]
        return [text.split(",")[0] for text in told if "," in text]

    def kill_for(self, seconds: float) -> None:
        """Kill some of them again and again, with pauses of random length, and in the end all of
        them."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            calm_until = time.monotonic() + self._chance.uniform(*self.pause)
            while time.monotonic() < calm_until:
                self.restart_dead()
                time.sleep(0.02)  # the random moment is the point
            self.kill_some()
        self.kill(list(self._commands))

    def restart_dead(self) -> None:
        """Do what systemd does: start again what has ended, abort what hangs."""
        for name in self.commands.keys() - SERVERS.keys():
            if self._is_hung(name):
                self._running[name].send_signal(signal.SIGABRT)
                self._running[name].wait()
                self.aborted += 1
            if (ended := self._running[name].poll()) is not None:
                assert ended in self.deaths, (
                    f"{name} ended with code {ended}:\n{self._logs[name].read_text()}"
                )
                self._running[name] = self._start(name)
                self.died += 1

    def _is_hung(self, name: str) -> bool:
        path = self._service.spool.workers / f"{self._worker_of(name)}.json"
        try:
            status, beat = json.loads(read_record(path)), path.stat().st_mtime_ns
        except OSError:  # it has none now; or NFS says for a moment that the file is stale
            return False
        if status["pid"] != self._running[name].pid or status["state"] == "loading":
            return False
        last, since = self._heartbeats.get(name, (0, 0.0))
        if beat != last:
            self._heartbeats[name] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > self.heartbeat_timeout

    def check_alive(self) -> None:
        """A server dies of nothing that happens to others; a worker may have died of its job a
        moment ago."""
        for name in SERVERS:
            ended = self._running[name].poll()
            assert ended is None, (
                f"{name} ended with code {ended}:\n{self._logs[name].read_text()[-4000:]}"
            )

    def figures(self) -> str:
        """Who has died how often."""
        servers = sum(self.kills[name] for name in SERVERS)
        return (
            f"{servers} kills of servers, {sum(self.kills.values()) - servers} of workers, "
            f"{self.died} died of jobs ({self.aborted} hung)"
        )

    def read_logs(self) -> str:
        """The logs of all processes, also of those that have ended."""
        return "".join(path.read_text() for path in sorted(self._service.log.parent.glob("*.log")))


@contextmanager
def storm_clients(
    group: StormGroup, spool: Spool, picture: bytes, ledger: Ledger, seed: int
) -> Iterator[None]:
    """Many clients at once, until the end of the block."""
    stopping = threading.Event()
    clients = [
        Client(group.urls, spool, picture, ledger, random.Random(seed + number))
        for number in range(CLIENTS)
    ]
    threads = [threading.Thread(target=client.run, args=(stopping,)) for client in clients]

    def have_left() -> bool:
        group.restart_dead()
        return not any(thread.is_alive() for thread in threads)

    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        wait_until(have_left, seconds=300)


def check_ended_as_it_may(folder: Path, history: JobHistory) -> str:
    """Return how the job has ended: as `done`, or with which code."""
    assert len(JobFolder(folder).attempts()) <= MAX_ATTEMPTS, folder
    if folder.parent.name == "failed":
        return check_failed(folder, history)
    check_done(folder)
    assert history.prompt not in POISONS, folder
    assert max(history.cancels, default=0.0) <= max(history.retries, default=0.0), (
        f"{folder.name} was cancelled: {history}"
    )
    return "done"


def check_failed(folder: Path, history: JobHistory) -> str:
    """A failed job says why, and may have failed of that; return its code."""
    codes = [(folder / "error.txt").read_text().partition(":")[0]]
    if (folder / "error.json").exists():
        codes.append(json.loads((folder / "error.json").read_text())["code"])
    else:  # the process that cancelled it was killed before it wrote the record
        assert codes == ["cancelled"], folder
        assert (folder / "cancel").exists(), folder
    possible = POSSIBLE_CODES[history.prompt] | ({"cancelled"} if history.delete_sent else set())
    assert set(codes) <= possible, f"{folder.name}, {history}: {codes}"
    assert not (folder / "result.json").exists(), folder
    assert codes[-1] != "crashed" or len(JobFolder(folder).attempts()) == MAX_ATTEMPTS, folder
    return codes[-1]


class Aftermath:
    """What is left of the jobs when all is quiet."""

    def __init__(self, spool: Spool, ledger: Ledger) -> None:
        self._spool = spool
        self._ledger = ledger
        self._found = list(places(spool))
        self._folders = {id: spool.root / state / id for state, id in self._found}
        self._requests = {
            id: json.loads((folder / "job.json").read_text())
            for id, folder in self._folders.items()
        }
        self._endings = {
            id: check_ended_as_it_may(self._folders[id], self._story(id)) for id in self._folders
        }
        self._begun = [len(JobFolder(folder).attempts()) for folder in self._folders.values()]
        self._gone = set(ledger.histories) - set(self._folders)

    def _story(self, id: str) -> JobHistory:
        """The job's history; one that was accepted, and whose answer was lost, has none but its
        request."""
        request = self._requests[id]
        return self._ledger.histories.get(id) or JobHistory(request["prompt"], request["n"])

    def figures(self) -> str:
        """What has become of the jobs, in numbers."""
        codes = Counter(code for code in self._endings.values() if code != "done")
        histories = self._ledger.histories.values()
        return (
            f"{len(histories)} accepted, "
            f"{sum(len(history.cancels) for history in histories)} cancelled, "
            f"{sum(len(history.retries) for history in histories)} retried, "
            f"{len(self._gone)} deleted, "
            f"{len(self._endings) - codes.total()} done, {codes.total()} failed {dict(codes)}, "
            f"{sum(times > 1 for times in self._begun)} run again, at most "
            f"{max(self._begun)} attempts"
        )

    def check(self) -> None:
        """Each job is in one place, or a client has deleted it."""
        assert len(self._folders) == len(self._found), "a job is in two places"
        assert is_dry(self._spool)
        numbers = Counter(request["seed"] for request in self._requests.values())
        assert max(numbers.values()) == 1, "one form has made two jobs"
        assert not {id for id in self._folders if self._story(id).is_gone}, "a deleted job is back"
        assert not {id for id in self._gone if not self._ledger.histories[id].delete_sent}, (
            "an accepted job is lost"
        )
        assert not set(self._ledger.histories) & set(os.listdir(self._spool.staging))
        assert not list(self._spool.done.glob("*/.*.tmp")), "half-written files are left in done/"

    def check_gone(self, url: str) -> None:
        """The server remembers what was there."""
        with closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
            for id in self._gone:
                answer = ask(connection, "GET", f"/status/{id}")
                assert (answer.status, is_error(answer)) == (410, True), f"{id}: {answer}"

    def check_proof(self, least_jobs: int) -> None:
        """It was a storm."""
        assert set(self._ledger.untouched) == set(POISONS), "a poison was never tried"
        assert len(self._ledger.histories) >= least_jobs, "too few jobs to prove anything"
        assert max(self._begun) > 1, "no job was ever interrupted"
        assert self._gone, "no job was ever deleted"


def check_logs(text: str, ledger: Ledger) -> None:
    """By the logs, no process met a bug, and none began a job too often."""
    assert "Traceback" not in text, text[text.index("Traceback") - 1000 :][:4000]
    begun = Counter(re.findall(r"job (\S+) claimed, attempt", text))
    runs = {id: 1 + len(history.retries) for id, history in ledger.histories.items()}
    assert not {id: times for id, times in begun.items() if times > MAX_ATTEMPTS * runs.get(id, 1)}


@pytest.mark.parametrize(
    ("seconds", "least_kills", "least_jobs"),
    [
        pytest.param(25, 15, 200, id="25s"),
        pytest.param(1800, 1500, 20_000, id="30min", marks=pytest.mark.long),
    ],
)
def test_every_accepted_job_ends_in_an_allowed_state_in_a_storm(
    service: Service, tmp_path: Path, seconds: float, least_kills: int, least_jobs: int
) -> None:
    seed = int(os.environ.get("STORM_SEED", "20261123"))
    print(f"\nSTORM_SEED={seed}")
    ledger = Ledger()
    group = StormGroup(service, random.Random(seed))
    with storm_clients(
        group,
        service.spool,
        make_picture(tmp_path / "photo.png", (48, 32)).read_bytes(),
        ledger,
        seed,
    ):
        group.kill_for(seconds)

    def has_run_dry() -> bool:
        group.restart_dead()
        return is_dry(service.spool)

    wait_until(has_run_dry, seconds=180)
    group.check_alive()
    assert not ledger.complaints, "\n".join(ledger.complaints)
    left = Aftermath(service.spool, ledger)
    print(
        f"storm, {seconds:.0f} s: {group.figures()}; {left.figures()}; "
        f"{len(ledger.histories) / seconds:.1f} jobs/s"
    )
    left.check()
    left.check_gone(group.urls()[0])
    check_logs(group.read_logs(), ledger)
    left.check_proof(least_jobs)
    assert sum(group.kills.values()) >= least_kills, "too few kills to prove anything"
