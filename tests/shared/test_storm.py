"""A storm on two hosts: a server and a worker on each are killed at random, while clients ask
now one host, now the other."""

import os
import random
from pathlib import Path

import pytest

from i2ii_spool.spool.layout import Spool
from tests.crash.test_storm import Aftermath, StormGroup, check_logs, storm_clients
from tests.support import storm_clients as clients
from tests.support.chaos import SERVER, WORKER, is_dry
from tests.support.hosts import HostService
from tests.support.pictures import make_picture
from tests.support.service import Service, wait_until
from tests.support.storm_clients import Ledger

COMMANDS = {
    "server-a": SERVER,
    "server-b": SERVER,
    "h1.gpu0": (WORKER, "quick", "0"),
    "h2.gpu0": (WORKER, "slow", "0"),
}


class StormOfTwoHosts(StormGroup):
    """The processes of both hosts."""

    commands = COMMANDS
    pause = (2.0, 8.0)
    heartbeat_timeout = 30.0  # the kernel that is a process has one processor

    def __init__(self, services: tuple[HostService, HostService], chance: random.Random) -> None:
        self._services = services
        super().__init__(services[0], chance)

    def _service_of(self, name: str) -> Service:
        return self._services[name == "server-b" or name.startswith("h2.")]

    def _worker_of(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    ("seconds", "least_kills", "least_jobs"),
    [
        pytest.param(10, 4, 10, id="10s"),
        pytest.param(300, 40, 200, id="5min", marks=pytest.mark.long),
    ],
)
def test_every_accepted_job_ends_once_in_a_storm_on_two_hosts(
    services: tuple[HostService, HostService],
    spools: tuple[Spool, Spool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    least_kills: int,
    least_jobs: int,
) -> None:
    monkeypatch.setattr(clients, "POISON_EVERY", 10**9)  # no job kills its worker
    # The clients submit faster than two workers edit where the file system is slow.
    monkeypatch.setattr(clients, "PAUSE", 2.0)
    seed = int(os.environ.get("STORM_SEED", "20261127"))
    print(f"\nSTORM_SEED={seed}")
    ledger = Ledger()
    group = StormOfTwoHosts(services, random.Random(seed))
    wait_until(lambda: len(group.urls()) == 2, seconds=60)
    picture = make_picture(tmp_path / "photo.png", (48, 32)).read_bytes()
    with storm_clients(group, spools[0], picture, ledger, seed):
        group.kill_for(seconds)

    def has_run_dry() -> bool:
        group.restart_dead()
        return is_dry(spools[1])

    wait_until(has_run_dry, seconds=max(180, 4 * seconds))
    group.check_alive()
    assert not ledger.complaints, "\n".join(ledger.complaints)
    for spool in spools:
        left = Aftermath(spool, ledger)
        left.check()
    print(
        f"storm on two hosts, {seconds:.0f} s: {group.figures()}; {left.figures()}; "
        f"{len(ledger.histories) / seconds:.1f} jobs/s"
    )
    for url in group.urls():
        left.check_gone(url)
    check_logs(group.read_logs(), ledger)
    assert len(ledger.histories) >= least_jobs, "too few jobs to prove anything"
    assert sum(group.kills.values()) >= least_kills, "too few kills to prove anything"
