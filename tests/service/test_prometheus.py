"""A real Prometheus scrapes real services: the metrics are clean, each alert fires for a service
that is made sick in its way, and the queries of the rules and of the dashboard return data.

How long an alert waits is not tested here (test_alert_timing.py): the rules fire at once.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from i2ii_spool.jobs.request import EditRequest, Job
from i2ii_spool.spool.liveness import WorkerState, WorkerStatus, write_status
from i2ii_spool.spool.metrics import WebhookMetrics
from i2ii_spool.spool.submit import submit
from i2ii_spool.spool.webhook import report_of
from tests.support.pictures import make_picture
from tests.support.prometheus import ALERTS, DEPLOY, Prometheus, promtool, running, why_not
from tests.support.receiver import new_secret
from tests.support.seams import deliver_with
from tests.support.service import Service, cli, get_text, wait_until
from tests.support.workers import write_worker

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.xdist_group("prometheus"),  # one for the file
]

HUGE = str(10**9)
LONG_AGO = "20260101-000000-000-k7m2qf"
DASHBOARD = DEPLOY / "grafana/dashboard.json"
RULES = re.sub(r"for: \w+", "for: 0s", ALERTS.read_text())


def at_once(rules: str) -> str:
    """The rules, with windows in which twice a second is often."""
    return re.sub(r"offset \d+m", "offset 5s", re.sub(r"\[\d+m\]", "[30s]", rules))


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with running(tmp_path_factory.mktemp("prometheus"), at_once(RULES)) as started:
        yield started


def put(service: Service, count: int = 1, prompt: str = "sepia", **fields: int) -> list[str]:
    """Submit jobs straight into the spool."""
    picture = make_picture(service.spool.root.parent / "photo.jpg")
    request = EditRequest(prompt=prompt, **fields)  # type: ignore[arg-type]
    return [submit(service.spool, [picture], request, max_pixels=10**8) for _ in range(count)]


def make_old(service: Service, id: str) -> None:
    """Have a waiting job be of long ago."""
    folder = service.spool.incoming / id
    job = json.loads((folder / "job.json").read_text())
    job["submitted_at"] = "2026-01-01T00:00:00Z"
    (folder / "job.json").write_bytes(Job.model_validate(job).to_json())
    folder.rename(service.spool.incoming / LONG_AGO)


def ended(service: Service) -> int:
    return len(os.listdir(service.spool.done)) + len(os.listdir(service.spool.failed))


# --- one way of being sick each -------------------------------------------------------------------


def server_down(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    seen()
    service.stop_all()


def no_worker_up(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    seen()


def worker_down(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    worker = service.work()
    seen()
    worker.kill()


def host_down(service: Service, seen: Callable[[], None]) -> None:
    service.serve(lease_seconds="1")
    service.work()
    seen()
    write_worker(service.spool, "node7.gpu0")  # and never again


def worker_silent(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    worker = service.work()
    seen()
    os.kill(worker.pid, signal.SIGSTOP)
    (file,) = service.spool.workers.glob("*.json")
    os.utime(file, (file.stat().st_mtime - 600,) * 2)


def worker_degraded(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    service.work(engine="sick")
    seen()
    put(service, 3)


def worker_restarts(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    worker = service.work()
    seen()
    for _ in range(3):
        worker.kill()
        worker.wait()
        worker = service.work()
        seen()


def queue_wait_high(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    worker = service.work(engine="quick")
    seen()
    os.kill(worker.pid, signal.SIGSTOP)
    make_old(service, *put(service))
    os.kill(worker.pid, signal.SIGCONT)


def queue_near_limit(service: Service, seen: Callable[[], None]) -> None:
    service.serve(max_queue="5")
    seen()
    put(service, 5)


def oldest_waiting(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    seen()
    make_old(service, *put(service))


def failure_ratio(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    service.work(engine="raises_in_edit")
    seen()
    put(service)
    put(service, prompt="raise")


def job_crashed(service: Service, seen: Callable[[], None]) -> None:
    service.serve(max_attempts="1")
    worker = service.work(engine="killed_in_edit", max_attempts="1")
    seen()
    put(service, prompt="kill")
    worker.wait(timeout=30)
    service.work(engine="quick", max_attempts="1")
    wait_until(lambda: ended(service) == 1)


def out_of_memory(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    service.work(engine="out_of_memory")
    seen()
    put(service)


def disk_low(service: Service, seen: Callable[[], None]) -> None:
    status = os.statvfs(service.spool.root)
    free = status.f_bavail * status.f_frsize
    service.serve(min_free_mib=str(free / 2**20 / 1.5))
    seen()


def spool_not_writable(service: Service, seen: Callable[[], None]) -> None:
    service.serve()
    service.work()
    seen()
    service.spool.staging.rmdir()


def http_errors(service: Service, seen: Callable[[], None]) -> None:
    url = service.serve(min_free_mib=HUGE)
    picture = make_picture(service.spool.root.parent / "photo.jpg")

    def refused() -> None:
        cli(service, "submit", str(picture), "-p", "sepia", "--url", url, check=False)

    refused()
    seen()
    refused()


def report_pending(service: Service, pending: int) -> Path:
    """Write what a deliverer writes."""
    report = report_of(service.spool)
    report.write_text(WebhookMetrics(pid=1, pending=pending).model_dump_json())
    return report


def webhooks_pending(service: Service, seen: Callable[[], None]) -> None:
    report_pending(service, 101)
    service.serve()
    seen()
    report_pending(service, 102)


def webhooks_silent(service: Service, seen: Callable[[], None]) -> None:
    os.utime(report_pending(service, 0), (1, 1))
    service.serve()
    seen()


SICK = {
    "I2iiServerDown": server_down,
    "I2iiNoWorkerUp": no_worker_up,
    "I2iiWorkerDown": worker_down,
    "I2iiHostDown": host_down,
    "I2iiWorkerSilent": worker_silent,
    "I2iiWorkerDegraded": worker_degraded,
    "I2iiWorkerRestarts": worker_restarts,
    "I2iiQueueWaitHigh": queue_wait_high,
    "I2iiQueueNearLimit": queue_near_limit,
    "I2iiOldestWaiting": oldest_waiting,
    "I2iiFailureRatio": failure_ratio,
    "I2iiJobCrashed": job_crashed,
    "I2iiOutOfMemory": out_of_memory,
    "I2iiDiskLow": disk_low,
    "I2iiSpoolNotWritable": spool_not_writable,
    "I2iiHttpErrors": http_errors,
    "I2iiWebhooksPending": webhooks_pending,
    "I2iiWebhooksSilent": webhooks_silent,
}


@pytest.mark.parametrize("alert", SICK)
def test_an_alert_fires_for_a_service_that_is_sick_in_its_way(
    prometheus: Prometheus, service: Service, alert: str
) -> None:
    job = f"i2ii-{alert}"
    scrapes = f'count_over_time(up{{job="{job}"}}[5m])'

    def seen() -> None:
        """Wait until Prometheus has scraped the service as it is now."""
        if not prometheus.query(f'up{{job="{job}"}}'):
            prometheus.scrape(job, service.url)
        before = int(prometheus.query(scrapes)[0]["value"][1])
        wait_until(lambda: int(prometheus.query(scrapes)[0]["value"][1]) > before + 1)

    SICK[alert](service, seen)
    wait_until(lambda: alert in prometheus.firing(job), seconds=30)


def test_every_alert_is_made_to_fire() -> None:
    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text())) == set(SICK)


# --- a service that is well -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def well(
    prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    """A service of two servers and a worker that has done jobs and is at work; and its `job`."""
    service, job = Service(tmp_path_factory.mktemp("well")), "i2ii-well"
    urls = [service.serve(min_free_mib="1"), service.serve(min_free_mib="1")]
    service.work(engine="slow", min_free_mib="1")
    deliver_with(service, webhook_secrets=new_secret())
    wait_until(report_of(service.spool).exists)
    prometheus.scrape(job, *urls)
    put(service, 8, num_inference_steps=10)
    picture = make_picture(service.spool.root.parent / "photo.jpg")
    cli(service, "submit", str(picture), "-p", "sepia", "--url", urls[0])
    with suppress(HTTPError):
        urlopen(f"{urls[0]}/edit", data=b"no form")
    wait_until(lambda: ended(service) >= 3)
    yield service, job
    service.stop_all()


def test_promtool_finds_nothing_wrong_with_the_metrics(well: tuple[Service, str]) -> None:
    assert promtool("check", "metrics", text=get_text(f"{well[0].url}/metrics")).strip() == ""


def test_no_alert_fires_for_a_service_that_is_well(
    prometheus: Prometheus, well: tuple[Service, str]
) -> None:
    wait_until(lambda: ended(well[0]) >= 4)
    assert prometheus.firing(well[1]) == set()


def test_two_servers_do_not_count_a_worker_twice(
    prometheus: Prometheus, well: tuple[Service, str]
) -> None:
    service, job = well
    wait_until(lambda: ended(service) >= 9)
    count = f'sum(max by (worker) (i2ii_images_total{{job="{job}"}}))'
    wait_until(lambda: prometheus.query(count)[0]["value"][1] == "9")
    twice = f'sum(i2ii_images_total{{job="{job}"}})'
    wait_until(lambda: prometheus.query(twice)[0]["value"][1] == "18")
    submitted = f'sum(i2ii_jobs_accepted_total{{job="{job}"}})'
    assert prometheus.query(submitted)[0]["value"][1] == "1"


@pytest.mark.usefixtures("well")
def test_the_examples_of_the_page_return_data(prometheus: Prometheus) -> None:
    page = (DEPLOY.parent / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| .*? \| .*? \| `(.*)` \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for example in rows:
        wait_until(partial(prometheus.query, example))


def queries_of(dashboard: Any) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_every_query_of_the_dashboard_returns_data(
    prometheus: Prometheus, well: tuple[Service, str]
) -> None:
    service, job = well
    status = WorkerStatus(
        worker="node7.gpu0",  # of another host, with a GPU
        state=WorkerState.READY,
        pid=1,
        gpu_id=0,
        engine="qwen",
        model="none",
        memory_used_mib=1000,
        memory_total_mib=2000,
        use_percent=50,
    )
    write_status(service.spool, status)
    queries = queries_of(json.loads(DASHBOARD.read_text()))
    assert len(queries) > 30
    for query in queries:
        assert 'job="$job"' in query
        now = query.replace("$job", job).replace("$__rate_interval", "30s")
        wait_until(partial(prometheus.query, now), seconds=10)


def test_the_dashboard_shows_every_metric_that_can_be_drawn() -> None:
    page = (DEPLOY.parent / "docs/metrics.md").read_text()
    told = set(re.findall(r"^\| `(i2ii_\w+)` \| (?:gauge|counter|histogram)", page, re.MULTILINE))
    text = DASHBOARD.read_text()
    left_out = {
        "i2ii_worker_info",
        "i2ii_worker_load_seconds",
        "i2ii_worker_heartbeat_timestamp_seconds",
        "i2ii_host_heartbeat_timestamp_seconds",
        "i2ii_spool_writable",
        "i2ii_job_attempts_total",
        "i2ii_webhooks_report_timestamp_seconds",
    }
    assert {name for name in told if name not in text} == left_out


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text()))
    assert used == names | {"__rate_interval"}
