"""Two processes act on one job at the same moment: one succeeds, and the other gets an error."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from i2ii_spool.errors import EngineError
from i2ii_spool.jobs.folder import JobFolder
from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool import actions, admission, claim
from i2ii_spool.spool.admission import Admission
from i2ii_spool.spool.claim import Claims
from i2ii_spool.spool.durable_io import sweep_temp_files
from i2ii_spool.spool.layout import Spool
from i2ii_spool.spool.liveness import worker_name
from i2ii_spool.spool.recovery import recover
from i2ii_spool.spool.submit import submit
from tests.support.chaos import WORKER, check_done, places
from tests.support.http import Answer, ask, form, is_error
from tests.support.pictures import is_same_picture, make_picture
from tests.support.service import Service, cli, wait_until

NODE1 = "node1.gpu0"
NODE2 = "node2.gpu0"

Outcome = TypeVar("Outcome")


def submit_to(service: Service, picture: Path, **fields: Any) -> str:
    """Submit the picture; `fields` are those of the request."""
    request = EditRequest(**{"prompt": "sepia", "num_inference_steps": 10, **fields})
    return submit(service.spool, [picture], request, max_pixels=10**8)


def wait_done(service: Service, id: str) -> dict[str, Any]:
    """Wait until the job is done; return its result."""
    wait_until(lambda: (service.spool.done / id).is_dir(), seconds=120)
    result: dict[str, Any] = json.loads((service.spool.done / id / "result.json").read_text())
    return result


def ask_once(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Ask over a connection of its own."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        return ask(connection, method, path, body, headers)


def all_at_once(calls: Sequence[Callable[[], Outcome]]) -> list[Outcome]:
    """Make all the calls, each in a thread of its own, at the same moment as near as may be."""
    start = threading.Barrier(len(calls))

    def call(function: Callable[[], Outcome]) -> Outcome:
        start.wait()
        return function()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


# --- two hosts ------------------------------------------------------------------------------------


@pytest.fixture
def work_on_node2(service: Service) -> Callable[..., subprocess.Popen[bytes]]:
    """Start the worker of another host: it is one that bears another host's name."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("another host's name needs root and unshare(1)")
    tried = subprocess.run(
        ["unshare", "--uts", "hostname", "node2"], capture_output=True, text=True
    )
    if tried.returncode != 0:
        pytest.skip(f"another host's name cannot be had here: {tried.stderr.strip()}")

    def work(engine: str, **settings: str) -> subprocess.Popen[bytes]:
        rename = ("unshare", "--uts", "sh", "-c", 'hostname node2; exec "$@"', "sh")
        worker = service.start(*rename, sys.executable, WORKER, engine, "0", **settings)
        wait_until((service.spool.workers / f"{NODE2}.json").exists)
        return worker

    return work


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_suspended_worker_wakes_up_and_drops_its_lost_claim(
    service: Service, picture: Path, work_on_node2: Callable[..., subprocess.Popen[bytes]]
) -> None:
    id = submit_to(service, picture, num_inference_steps=100)
    sleeper = work_on_node2("slow", lease_seconds="1")
    progress = service.spool.running / NODE2 / id / "progress.json"
    wait_until(lambda: progress.exists() and json.loads(progress.read_text())["step"] > 1)
    sleeper.send_signal(signal.SIGSTOP)

    other = service.work("1", engine="quick", lease_seconds="1")
    result = wait_done(service, id)
    assert (result["worker"], result["attempt"]) == (worker_name("gpu1"), 2)
    made = contents(service.spool.done / id)
    other.terminate()
    assert other.wait(60) == 0

    next_id = submit_to(service, picture)
    sleeper.send_signal(signal.SIGCONT)
    result = wait_done(service, next_id)
    assert (result["worker"], result["attempt"]) == (NODE2, 1)
    assert f"job {id} was taken from this worker" in service.read_log()
    assert contents(service.spool.done / id) == made
    assert sorted(places(service.spool)) == [("done", id), ("done", next_id)]


def test_worker_that_loses_a_claim_race_claims_the_next_job(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep_too_long(_folder: Path) -> None:
        monkeypatch.setattr(claim, "sweep_temp_files", sweep_temp_files)
        recover(spool, NODE2, max_attempts=3)

    ids = [
        submit(spool, [picture], EditRequest(prompt="sepia"), max_pixels=10**8) for _ in range(2)
    ]
    spool.create_worker(NODE2)
    claims = Claims(spool, NODE2, max_attempts=3)
    monkeypatch.setattr(claim, "sweep_temp_files", sleep_too_long)
    claimed = claims.next()
    assert claimed is not None
    assert claimed.id == ids[1]
    assert sorted(places(spool)) == [("incoming", ids[0]), ("running", ids[1])]


def test_worker_that_loses_a_retried_job_leaves_the_winners_files(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = submit(spool, [picture], EditRequest(prompt="sepia"), max_pixels=10**8)
    claims = {name: Claims(spool, name, max_attempts=3) for name in (NODE1, NODE2)}
    for name in claims:
        spool.create_worker(name)
    first = claims[NODE1].next()
    assert first is not None
    first.fail(EngineError("the first run"))
    actions.retry(spool, id)

    has_ended = JobFolder.has_ended

    def win_meanwhile(job: JobFolder) -> bool:
        monkeypatch.setattr(JobFolder, "has_ended", has_ended)
        ended = has_ended(job)
        claims[NODE1].backlog.hint(id)
        won = claims[NODE1].next()
        assert won is not None
        won.save("result.png", b"the second run")
        return ended

    monkeypatch.setattr(JobFolder, "has_ended", win_meanwhile)
    assert claims[NODE2].next() is None
    mine = spool.running / NODE1 / id
    assert sorted(path.name for path in mine.iterdir()) == [
        "attempt-1.json",
        "input.jpg",
        "job.json",
        "result.png",
    ]
    assert os.listdir(spool.running / NODE2) == []


# --- retention and readers ------------------------------------------------------------------------


class Reader:
    """Fetches without pause what retention is about to delete."""

    def __init__(self, service: Service, url: str, picture: bytes, chance: random.Random) -> None:
        self._service = service
        self._url = url
        self._picture = picture
        self._chance = chance
        self.answers: Counter[str] = Counter()
        self.complaints: list[str] = []

    def read(self, stopping: threading.Event) -> None:
        """Ask again and again, over one connection."""
        with closing(
            http.client.HTTPConnection(urlsplit(self._url).netloc, timeout=60)
        ) as connection:
            while not stopping.is_set():
                for id in sorted(os.listdir(self._service.spool.done))[:5]:
                    kind = self._chance.choice(("result", "result", "status"))
                    self._judge(kind, id, ask(connection, "GET", f"/{kind}/{id}"))

    def _judge(self, kind: str, id: str, answer: Answer) -> None:
        if answer.status != 200:
            is_right = answer.status == 410 and is_error(answer)
        elif kind == "result":
            is_right = is_same_picture(answer.body, self._picture)
        else:
            is_right = answer.json().get("outputs") == ["result.png"]
        if not is_right:
            self.complaints.append(f"the {kind} of {id}: {answer}")
        self.answers[f"{kind} {answer.status}"] += 1


@contextmanager
def busy(*tasks: Callable[[threading.Event], None]) -> Iterator[None]:
    """Each of the tasks is at work, in a thread of its own, until the end of the block."""
    stopping = threading.Event()
    with ThreadPoolExecutor(len(tasks)) as pool:
        running = [pool.submit(task, stopping) for task in tasks]
        try:
            yield
        finally:
            stopping.set()
    for task in running:
        task.result()


def test_what_retention_deletes_is_whole_until_it_is_gone(service: Service, tmp_path: Path) -> None:
    picture = make_picture(tmp_path / "photo.png", (200, 150))

    def feed(stopping: threading.Event) -> None:
        while not stopping.is_set():
            submit_to(service, picture)
            while len(os.listdir(service.spool.incoming)) > 8 and not stopping.is_set():
                stopping.wait(0.01)

    url = service.serve()
    service.work(engine="quick")
    readers = [
        Reader(service, url, picture.read_bytes(), random.Random(number)) for number in range(4)
    ]
    with busy(feed, *(reader.read for reader in readers)):
        wait_until(lambda: len(os.listdir(service.spool.done)) > 20)
        for _ in range(6):
            all_at_once([lambda: cli(service, "gc", "--keep-jobs", "10")] * 2)

    answers = sum((reader.answers for reader in readers), Counter[str]())
    print(f"\n{dict(answers)}")
    assert not [complaint for reader in readers for complaint in reader.complaints]
    assert "Traceback" not in service.read_log()
    assert min(answers["result 200"], answers["status 200"]) > 0
    assert answers["result 410"] + answers["status 410"] > 0, "nobody ever came too late"


# --- cancel, retry, delete ------------------------------------------------------------------------


class Tally:
    """Who was told to have moved a job that began as failed, and whether that explains where it is
    now."""

    def __init__(self, service: Service, picture: Path) -> None:
        self._service = service
        self._id = submit_to(service, picture)
        actions.cancel(service.spool, self._id)
        self.told: list[str] = []

    def retry(self, url: str) -> int:
        """Retry the job over HTTP; return the status of the answer."""
        return self._note(ask_once(url, "POST", f"/jobs/{self._id}/retry"), {202, 409, 410})

    def delete(self, url: str) -> int:
        """Delete the job over HTTP if it has failed; return the HTTP status."""
        path = f"/jobs/{self._id}?state=failed"
        return self._note(ask_once(url, "DELETE", path), {200, 409, 410})

    def cancel(self, url: str) -> int:
        """Cancel the job over HTTP if it waits; return the HTTP status."""
        path = f"/jobs/{self._id}?state=incoming"
        return self._note(ask_once(url, "DELETE", path), {200, 409, 410})

    def command(self, verb: str) -> None:
        """Do it with the command."""
        ended = cli(self._service, verb, self._id, check=False)
        assert ended.returncode == (0 if ended.stdout else 64), ended
        if ended.stdout:
            self.told.append(ended.stdout.split()[1])

    def _note(self, answer: Answer, documented: set[int]) -> int:
        assert answer.status in documented, answer
        assert answer.status < 400 or is_error(answer), answer
        if answer.status < 400:
            self.told.append(answer.json()["status"])
        return answer.status

    def check(self) -> None:
        """Each move had one winner: the job was retried no more often than it had failed, and
        deleted once."""
        where = [state for state, id in places(self._service.spool) if id == self._id]
        queued, cancelled, deleted = (
            self.told.count(word) for word in ("queued", "cancelled", "deleted")
        )
        assert (queued - cancelled, deleted, where) in (
            (1, 0, ["incoming"]),
            (0, 0, ["failed"]),
            (0, 1, []),
        ), self.told


def test_exactly_one_concurrent_retry_or_delete_succeeds(service: Service, picture: Path) -> None:
    servers = [service.serve(), service.serve()]
    for _ in range(60):
        tally = Tally(service, picture)
        all_at_once(
            [partial(move, url) for move in (tally.retry, tally.delete) for url in servers * 2]
        )
        tally.check()


def test_the_same_action_from_three_processes_takes_effect_once(
    service: Service, picture: Path
) -> None:
    def on_and_on(move: Callable[[str], int], url: str) -> Callable[[threading.Event], None]:
        def do(stopping: threading.Event) -> None:
            while move(url) != 410 and not stopping.is_set():
                pass

        return do

    here, there = service.serve(), service.serve()
    told: Counter[str] = Counter()
    for _ in range(4):
        tally = Tally(service, picture)
        with busy(
            on_and_on(tally.retry, here),
            on_and_on(tally.retry, there),
            on_and_on(tally.cancel, here),
        ):
            all_at_once([partial(tally.command, verb) for verb in ("cancel", "retry", "rm")])
        tally.check()
        told.update(tally.told)
    assert min(told[word] for word in ("queued", "cancelled")) > 4, "they hardly ever met"


def test_idempotency_key_of_a_deleted_job_makes_one_new_job(
    service: Service, picture: Path
) -> None:
    servers = [service.serve(), service.serve()]
    body, headers = form({"prompt": "sepia"}, picture.read_bytes())

    def send(key: str, url: str) -> Answer:
        return ask_once(url, "POST", "/edit", body, {**headers, "Idempotency-Key": key})

    for key in map(str, range(20)):
        id = send(key, servers[0]).json()["request_id"]
        actions.cancel(service.spool, id)
        actions.delete_job(service.spool, id)
        before = len(os.listdir(service.spool.incoming))
        answers = all_at_once([partial(send, key, url) for url in servers * 3])
        assert {answer.status for answer in answers} == {202}, answers
        assert len({answer.json()["request_id"] for answer in answers}) == 1, answers
        assert len(os.listdir(service.spool.incoming)) == before + 1


# --- claims and guests ----------------------------------------------------------------------------


def test_of_four_workers_each_job_has_one(service: Service, picture: Path) -> None:
    workers = [service.work(str(number), engine="quick") for number in range(4)]
    ids = [submit_to(service, picture, seed=seed) for seed in range(300)]
    results = {id: wait_done(service, id) for id in ids}
    for id, result in results.items():
        assert check_done(service.spool.done / id) == 1
        attempt = json.loads((service.spool.done / id / "attempt-1.json").read_text())
        assert attempt["worker"] == result["worker"]
    assert Counter(re.findall(r"job (\S+) claimed", service.read_log())) == Counter(ids)
    assert sorted(places(service.spool)) == [("done", id) for id in sorted(ids)]
    assert {result["worker"] for result in results.values()} == {
        worker_name(f"gpu{number}") for number in range(4)
    }
    for worker in workers:
        worker.terminate()
        assert worker.wait(60) == 0
    assert sum(map(int, re.findall(r"stopped: (\d+) jobs done", service.read_log()))) == 300


@pytest.mark.parametrize("ready", [False, True], ids=["settled", "ready"])
def test_guest_admitted_by_several_servers_becomes_one_job(
    service: Service, tmp_path: Path, picture: Path, ready: bool
) -> None:
    for number in range(2):
        service.serve()
        service.work(str(number), engine="quick")
    names = [f"guest-{number:02}" for number in range(50)]
    for name in names:
        guest = tmp_path / "outside" / name
        guest.mkdir(parents=True)
        shutil.copy(picture, guest)
        (guest / "prompt.txt").write_text("sepia")
        if ready:
            (guest / "ready").touch()
    for name in names:
        os.rename(tmp_path / "outside" / name, service.spool.incoming / name)
    wait_until(
        lambda: (
            len(list(places(service.spool))) == 50 and len(os.listdir(service.spool.done)) == 50
        ),
        seconds=60,
    )
    assert sorted(id.partition("_")[2] for _, id in places(service.spool)) == names
    assert "Traceback" not in service.read_log()


def test_guest_is_not_refused_while_another_server_writes_into_it(
    spool: Spool, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet_another(folder: Path) -> None:
        (folder / ".job.json.0123abcd.tmp").touch()

    guest = spool.incoming / "guest"
    guest.mkdir()
    shutil.copy(picture, guest)
    (guest / "prompt.txt").write_text("sepia")
    (guest / "ready").touch()
    monkeypatch.setattr(admission, "sweep_temp_files", meet_another)
    (id,) = Admission(spool, settle=5, patience=60, max_bytes=10**6, max_pixels=10**6).run_once()
    assert list(places(spool)) == [("incoming", id)]
