"""A kill loop: servers and workers are killed at random, and no accepted job is lost."""

import http.client
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from i2ii_spool.jobs.folder import JobFolder
from tests.support.chaos import (
    MAX_ATTEMPTS,
    SERVER,
    WORKER,
    ProcessGroup,
    check_done,
    is_dry,
    places,
)
from tests.support.http import form
from tests.support.pictures import make_picture
from tests.support.service import Service, get_json, wait_until

BACKLOG = 24
PAUSE = (0.02, 0.8)
COMMANDS = {
    "server": SERVER,
    "gpu0": (WORKER, "quick", "0"),
    "gpu1": (WORKER, "slow", "1"),
    "gpu2": (WORKER, "slow", "2"),
}


def last_url(service: Service) -> str:
    """Where the latest server that came up listens; it may be dead by now."""
    return wait_until(lambda: service.read_log().rpartition("listening on ")[2].split(",")[0])


@dataclass
class Submitter:
    """Submits over HTTP until told to stop, and now and then asks what has become of an earlier
    job."""

    service: Service
    picture: bytes
    chance: random.Random
    accepted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._submit_to(last_url(self.service))
            except (OSError, http.client.HTTPException):
                # The server has died, and this submit was not accepted, though the job may be
                # there. Try the next one.
                self.stopping.wait(0.05)

    def _submit_to(self, url: str) -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        try:
            while not self.stopping.is_set():
                self._submit(connection)
                self._look_back(connection)
                while (
                    len(os.listdir(self.service.spool.incoming)) > BACKLOG
                    and not self.stopping.is_set()
                ):
                    self.stopping.wait(0.02)
        finally:
            connection.close()

    def _submit(self, connection: http.client.HTTPConnection) -> None:
        fields = {
            "prompt": "sepia",
            "num_inference_steps": "10",
            "n": str(self.chance.choice((1, 1, 2))),
        }
        body, headers = form(fields, self.picture)
        connection.request("POST", "/edit", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 202:
            self.accepted.append(json.loads(text)["request_id"])
        else:
            self.refused.append(f"{answer.status}: {text.decode()}")

    def _look_back(self, connection: http.client.HTTPConnection) -> None:
        """An accepted job can be found at every moment, also while it is recovered."""
        if not self.accepted:
            return
        id = self.chance.choice(self.accepted[-50:])
        connection.request("GET", f"/status/{id}")
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            self.lost.append(f"{id}: {answer.status}: {text.decode()}")


def counts_over_http(service: Service) -> list[int] | None:
    """How many jobs are in each state; None while the latest server is still on its way up."""
    try:
        status = get_json(f"{last_url(service)}/system/status")
    except OSError:
        return None
    return [status[f"{state}_requests"] for state in ("queued", "running", "completed", "failed")]


def check_failed(folder: Path) -> int:
    """Nothing is wrong with these jobs: one may only fail because it met with too many deaths."""
    failure = json.loads((folder / "error.json").read_text())
    assert failure["code"] == "crashed", failure
    assert (folder / "error.txt").read_text().startswith("crashed: ")
    assert not (folder / "result.json").exists(), folder
    assert len(JobFolder(folder).attempts()) == MAX_ATTEMPTS, folder
    return len(JobFolder(folder).attempts())


@pytest.mark.parametrize(
    ("seconds", "least_kills", "least_jobs"),
    [
        pytest.param(20, 15, 40, id="20s"),
        pytest.param(600, 500, 1500, id="10min", marks=pytest.mark.long),
    ],
)
def test_no_accepted_job_is_lost_or_doubled_whatever_is_killed(
    service: Service, tmp_path: Path, seconds: float, least_kills: int, least_jobs: int
) -> None:
    seed = int(os.environ.get("KILL_LOOP_SEED", "20261123"))
    print(f"\nKILL_LOOP_SEED={seed}")
    picture = make_picture(tmp_path / "photo.png", (24, 16)).read_bytes()
    submitter = Submitter(service, picture, random.Random(seed + 1))
    thread = threading.Thread(target=submitter.run)
    thread.start()
    try:
        chance = random.Random(seed)
        group = ProcessGroup(service, COMMANDS, chance)
        wait_until(lambda: len(submitter.accepted) >= 5)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(chance.uniform(*PAUSE))  # the random moment is the point
            group.kill_some()
    finally:
        submitter.stopping.set()
        thread.join()

    spool = service.spool
    wait_until(lambda: is_dry(spool), seconds=90)
    group.check_alive()

    found = list(places(spool))
    where = {id: state for state, id in found}
    begun = {id: check_done(spool.done / id) for state, id in found if state == "done"}
    begun |= {id: check_failed(spool.failed / id) for state, id in found if state == "failed"}
    done = sum(state == "done" for state, _ in found)
    kills = sum(group.kills.values())
    print(
        f"kill loop, {seconds:.0f} s: {len(submitter.accepted)} accepted, {kills} kills "
        f"({group.kills['server']} of the server), {done} done, {len(found) - done} failed, "
        f"{sum(count > 1 for count in begun.values())} run again, at most "
        f"{max(begun.values())} attempts"
    )

    assert len(where) == len(found), "a job is in two places"
    assert set(submitter.accepted) <= set(where), "an accepted job is lost"
    assert len(set(submitter.accepted)) == len(submitter.accepted), "an id was given twice"
    assert not submitter.lost, "an accepted job could not be found for a while"
    assert not submitter.refused, "a good request was refused"
    assert not set(submitter.accepted) & set(os.listdir(spool.staging))
    assert max(begun.values()) <= MAX_ATTEMPTS
    assert not list(spool.done.glob("*/.*.tmp")), "half-written files are left in done/"

    wait_until(lambda: counts_over_http(service) == [0, 0, done, len(found) - done])

    assert kills >= least_kills, "too few kills to prove anything"
    assert min(group.kills.values()) > 0, "one process was never killed"
    assert len(submitter.accepted) >= least_jobs, "too few jobs to prove anything"
    assert sum(count > 1 for count in begun.values()) > 0, "no job was ever interrupted"
