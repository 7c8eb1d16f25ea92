"""Real workers and servers on two hosts: some die, and some sleep."""

import json
import signal
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from i2ii_spool.jobs.request import EditRequest
from i2ii_spool.spool.submit import submit
from tests.support.chaos import places
from tests.support.hosts import HostService
from tests.support.http import Answer, ask, form
from tests.support.service import wait_until
from tests.support.workers import end, is_done, step_of, wait_failed

Services = tuple[HostService, HostService]


def submit_on(service: HostService, picture: Path, steps: int) -> str:
    request = EditRequest(prompt="sepia", num_inference_steps=steps)
    return submit(service.spool, [picture], request, max_pixels=10**7)


def result_of(service: HostService, id: str) -> dict[str, Any]:
    """Wait until the job is done; return its result."""
    wait_until(lambda: is_done(service, id), seconds=240)
    result: dict[str, Any] = json.loads((service.spool.done / id / "result.json").read_text())
    return result


def work_at(service: HostService, id: str, engine: str = "long", **settings: str) -> Any:
    """Start the host's worker and wait until it works at the job."""
    worker = service.work(engine=engine, **settings)
    wait_until(lambda: step_of(service.spool, id, service.worker()) > 0, seconds=60)
    return worker


def ask_once(url: str, method: str, path: str, *rest: Any) -> Answer:
    with closing(HTTPConnection(urlsplit(url).netloc, timeout=60)) as connection:
        return ask(connection, method, path, *rest)


def test_job_of_a_killed_worker_is_done_by_the_other_host(
    services: Services, picture: Path
) -> None:
    here, there = services
    id = submit_on(here, picture, steps=100)
    work_at(here, id).kill()
    there.work(engine="quick", lease_seconds="3")
    result = result_of(here, id)
    assert (result["worker"], result["attempt"]) == (there.worker(), 2)
    assert list(places(here.spool)) == [("done", id)]


def test_worker_that_slept_drops_the_job_that_the_other_host_has_done(
    services: Services, picture: Path
) -> None:
    here, there = services
    id = submit_on(here, picture, steps=100)
    sleeper = work_at(here, id)
    sleeper.send_signal(signal.SIGSTOP)
    there.work(engine="quick", lease_seconds="3")
    assert result_of(there, id)["worker"] == there.worker()
    made = {path.name: path.read_bytes() for path in (there.spool.done / id).iterdir()}

    sleeper.send_signal(signal.SIGCONT)
    wait_until(lambda: f"job {id} was taken from this worker" in here.read_log(), seconds=60)
    after = {path.name: path.read_bytes() for path in (there.spool.done / id).iterdir()}
    assert after == made
    assert list(places(there.spool)) == [("done", id)]


def test_servers_of_both_hosts_tell_the_same_of_a_job(services: Services, picture: Path) -> None:
    here, there = services
    urls = [service.serve() for service in services]

    def told() -> set[str]:
        return {ask_once(url, "GET", f"/status/{id}").json()["status"] for url in urls}

    body, headers = form({"prompt": "sepia", "num_inference_steps": "100"}, picture.read_bytes())
    id = ask_once(urls[0], "POST", "/edit", body, headers).json()["request_id"]
    assert told() == {"queued"}
    worker = work_at(there, id)
    assert told() == {"running"}
    assert ask_once(urls[0], "DELETE", f"/jobs/{id}").status == 202
    assert wait_failed(there, id)["code"] == "cancelled"
    assert told() == {"cancelled"}
    assert end(worker) == 0
    assert ask_once(urls[1], "POST", f"/jobs/{id}/retry").status == 202
    assert told() == {"queued"}
    here.work(engine="quick")
    assert result_of(there, id)["worker"] == here.worker()
    assert told() == {"completed"}
    assert [ask_once(url, "GET", f"/result/{id}").status for url in urls] == [200, 200]
