"""GET /metrics: what Prometheus reads, with one server and with several."""

import asyncio
import json
import logging
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from i2ii_spool.server.auth import tokens
from i2ii_spool.spool import lookup
from i2ii_spool.spool.layout import Spool, State
from i2ii_spool.spool.liveness import WorkerState
from i2ii_spool.spool.metrics import Buckets, WebhookMetrics, WorkerMetrics
from i2ii_spool.spool.webhook import report_of
from tests.support.app import Client, Connect, HandWorker, check_error, form, get
from tests.support.jobs import SubmitJob
from tests.support.service import Service, cli, get_text, wait_until

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
TOKEN = "a-token-of-an-operator"
Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


class Scrape:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types: dict[str, str] = {}
        self._samples: Samples = {}
        for family in text_string_to_metric_families(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                of_name = self._samples.setdefault(sample.name, {})
                labels = frozenset(sample.labels.items())
                assert labels not in of_name, f"{sample} is there twice"
                of_name[labels] = sample.value

    def value(self, name: str, **labels: str) -> float:
        """The one sample with exactly these labels."""
        return self._samples[name][frozenset(labels.items())]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        wanted = labels.items()
        return sum(v for have, v in self._samples.get(name, {}).items() if wanted <= have)

    def has(self, name: str, **labels: str) -> bool:
        return any(labels.items() <= have for have in self._samples.get(name, {}))

    def names(self) -> set[str]:
        return set(self._samples)


async def scrape(client: Client, **headers: str) -> Scrape:
    response = await client.get("/metrics", headers=headers)
    assert response.status == 200, await response.text()
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scrape(await response.text())


async def scrape_until(client: Client, name: str, **labels: str) -> Scrape:
    """Scrape until the sample is not 0: what was read of the spool is used for a moment."""
    for _ in range(100):
        shown = await scrape(client)
        if shown.sum(name, **labels):
            return shown
        await asyncio.sleep(0.1)
    raise AssertionError(f"{name} stays 0")


def counted(**changes: Any) -> WorkerMetrics:
    """What a worker has counted that has done nothing, but for the changes."""
    nothing = Buckets((1, 5)).snapshot()
    given = {"started_at": 1.5e9, "queue": nothing, "run": {}, "stages": {}, "step": nothing}
    return WorkerMetrics.model_validate({**given, **changes})


# --- the spool ------------------------------------------------------------------------------------


async def test_the_jobs_are_counted_by_state(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    for _ in range(7):
        submit_job()
    for end in (worker.finish, worker.finish, worker.fail):
        end()
    worker.claim()
    shown = await scrape(await connect(max_queue=70, min_free_mib=1))
    states = {"incoming": 3, "running": 1, "done": 2, "failed": 1}
    for state, count in states.items():
        assert shown.value("i2ii_jobs", state=state) == count
    assert shown.value("i2ii_queue_limit") == 70
    assert shown.value("i2ii_spool_min_free_bytes") == 2**20
    assert shown.value("i2ii_spool_free_bytes") > 2**20
    assert shown.value("i2ii_spool_writable") == 1
    assert shown.value("i2ii_build_info", **_only(shown, "i2ii_build_info")) == 1


def _only(shown: Scrape, name: str) -> dict[str, str]:
    (labels,) = shown._samples[name]
    return dict(labels)


async def test_the_oldest_job_is_a_time_that_is_absent_when_none_waits(
    connect: Connect, submit_job: SubmitJob
) -> None:

    client = await connect()
    assert not (await scrape(client)).has("i2ii_queue_oldest_timestamp_seconds")
    submit_job()
    shown = await scrape_until(client, "i2ii_jobs", state="incoming")
    at = shown.value("i2ii_queue_oldest_timestamp_seconds")
    assert time.time() - 10 < at < time.time()


async def test_what_ends_between_two_scrapes_is_seen(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    client = await connect()
    assert (await scrape(client)).value("i2ii_jobs", state="done") == 0
    submit_job()
    worker.finish()
    shown = await scrape_until(client, "i2ii_jobs", state="done")
    assert shown.value("i2ii_jobs", state="done") == 1


async def test_a_scrape_does_not_wait_for_many_ended_jobs(
    connect: Connect,
    worker: HandWorker,
    submit_job: SubmitJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = threading.Event()

    def slow_count(spool: Spool) -> dict[State, int]:
        if reading.is_set():
            time.sleep(1)
        reading.set()
        time.sleep(0.02)
        return lookup.count(spool)

    monkeypatch.setattr("i2ii_spool.server.app.count", slow_count)
    client = await connect()
    assert (await scrape(client)).value("i2ii_jobs", state="done") == 0
    submit_job()
    worker.finish()
    await asyncio.sleep(1.1)  # the count is out of date
    started = time.monotonic()
    assert (await scrape(client)).value("i2ii_jobs", state="done") == 0
    assert time.monotonic() < started + 0.9
    await scrape_until(client, "i2ii_jobs", state="done")


async def test_a_spool_that_cannot_be_read_is_shown_and_the_rest_as_well(
    connect: Connect, spool: Spool
) -> None:
    client = await connect()
    spool.incoming.rmdir()
    shown = await scrape(client)
    assert shown.value("i2ii_spool_writable") == 0
    assert not shown.has("i2ii_jobs")
    assert not shown.has("i2ii_spool_free_bytes")
    assert shown.has("i2ii_build_info")
    assert shown.value("i2ii_queue_limit") == 10_000


async def test_a_disk_below_its_floor_is_not_writable(connect: Connect) -> None:
    shown = await scrape(await connect(min_free_mib=10**12))
    assert shown.value("i2ii_spool_writable") == 0
    assert shown.value("i2ii_jobs", state="done") == 0


# --- HTTP -----------------------------------------------------------------------------------------


async def test_requests_are_counted_by_route_and_code(
    connect: Connect, submit_job: SubmitJob
) -> None:
    client = await connect()
    id = submit_job()
    await client.get(f"/status/{id}")
    await client.get(f"/status/{id}?wait=0")
    await client.get("/status/20260101-000000-000-aaaaaa")
    await client.get("/no/such/path")
    await client.get("/livez/")
    await client.request("PROPFIND", "/jobs")
    shown = await scrape(client)
    requests = "i2ii_http_requests_total"
    assert shown.value(requests, method="GET", route="/status/{id}", code="200") == 1
    assert shown.value(requests, method="GET", route="/status/{id}?wait", code="200") == 1
    assert shown.value(requests, method="GET", route="/status/{id}", code="404") == 1
    assert shown.value(requests, method="GET", route="other", code="404") == 1
    assert shown.value(requests, method="GET", route="/livez", code="200") == 1
    assert shown.value(requests, method="other", route="/jobs", code="405") == 1
    assert shown.sum(requests) == 6
    seconds = "i2ii_http_request_seconds"
    assert shown.value(f"{seconds}_count", method="GET", route="/status/{id}") == 2
    assert shown.value(f"{seconds}_bucket", method="GET", route="/status/{id}", le="+Inf") == 2
    assert 0 < shown.value(f"{seconds}_sum", method="GET", route="/status/{id}") < 5
    assert "aaaaaa" not in shown.text
    assert id not in shown.text


async def test_accepted_and_refused_submits_are_counted(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    client = await connect(max_queue=2)
    with caplog.at_level(logging.INFO):
        key = {"Idempotency-Key": "one"}
        for _ in range(2):  # the same job
            assert (await client.post("/edit", data=form(), headers=key)).status == 202
        await client.post("/edit", data=form(seed="-2"))
        await client.post("/edit", data=form(b"no picture"))
        assert (await client.post("/edit", data=form())).status == 202
        await client.post("/edit", data=form())
        await client.post("/v1/images/edits", data=form())
    shown = await scrape(client)
    assert shown.value("i2ii_jobs_accepted_total", via="edit") == 2
    assert shown.value("i2ii_jobs_accepted_total", via="openai") == 0
    refused = "i2ii_jobs_refused_total"
    assert shown.value(refused, reason="invalid_request") == 1
    assert shown.value(refused, reason="unsupported_picture") == 1
    assert shown.value(refused, reason="queue_full") == 2
    assert shown.sum(refused) == 4
    assert shown.value("i2ii_server_job_events_total", event="submitted") == 2
    assert shown.value("i2ii_server_job_events_total", event="resubmitted") == 1


# --- workers --------------------------------------------------------------------------------------


async def test_a_worker_is_shown_as_it_last_wrote(connect: Connect, worker: HandWorker) -> None:
    step = Buckets((1, 5))
    for seconds in (0.5, 1, 3, 3, 70):
        step.observe(seconds)
    metrics = counted(
        gpu_uuid="GPU-8f3a",
        load_seconds=12.5,
        events={"claimed": 9, "completed": 4, "failed": 3, "cancelled": 1, "released": 2},
        failures={"crashed": 1, "out_of_memory": 2},
        images=6,
        step=step.snapshot(),
        run={"": step.snapshot(), 'a"b\n': step.snapshot()},
        stages={"edit": step.snapshot()},
    )
    worker.show(
        WorkerState.DEGRADED,
        memory_used_mib=3,
        memory_total_mib=4,
        use_percent=50,
        metrics=metrics,
    )
    client = await connect()
    shown = await scrape(client)
    name = worker.name
    assert shown.value("i2ii_worker_up", worker=name) == 1
    for state in WorkerState:
        expected = state is WorkerState.DEGRADED
        assert shown.value("i2ii_worker_state", worker=name, state=state.value) == expected
    info = {"host": name.partition(".")[0], "gpu": "0", "gpu_uuid": "GPU-8f3a"}
    shown.value("i2ii_worker_info", worker=name, engine="hand", model="none", **info)
    on = {"worker": name, "gpu_uuid": "GPU-8f3a"}
    assert shown.value("i2ii_gpu_memory_used_bytes", **on) == 3 * 2**20
    assert shown.value("i2ii_gpu_memory_total_bytes", **on) == 4 * 2**20
    assert shown.value("i2ii_gpu_utilization_ratio", **on) == 0.5
    outcomes = {"completed": 4, "failed": 2, "cancelled": 1, "crashed": 1}
    for outcome, count in outcomes.items():
        assert shown.value("i2ii_jobs_finished_total", worker=name, outcome=outcome) == count
    assert shown.value("i2ii_job_attempts_total", worker=name) == 9
    assert shown.value("i2ii_jobs_requeued_total", worker=name, reason="released") == 2
    assert shown.value("i2ii_jobs_requeued_total", worker=name, reason="died") == 0
    assert shown.value("i2ii_images_total", worker=name) == 6
    assert shown.value("i2ii_worker_oom_total", worker=name) == 2
    assert shown.value("i2ii_worker_load_seconds", worker=name) == 12.5
    assert shown.value("i2ii_worker_start_timestamp_seconds", worker=name) == 1.5e9
    for le, count in {"1.0": 2, "5.0": 4, "+Inf": 5}.items():
        assert shown.value("i2ii_step_seconds_bucket", worker=name, le=le) == count
    assert shown.value("i2ii_step_seconds_sum", worker=name) == 77.5
    assert shown.value("i2ii_job_run_seconds_count", worker=name, preset='a"b\n') == 5
    shown_file = (await get(client, "/system/status"))["workers"][0]
    assert "metrics" not in shown_file


async def test_a_dead_worker_is_down_and_keeps_its_counters(
    connect: Connect, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY, use_percent=50, metrics=counted(images=6))
    client = await connect()
    worker.die()
    shown = await scrape(client)
    assert shown.value("i2ii_worker_up", worker=worker.name) == 0
    assert shown.value("i2ii_images_total", worker=worker.name) == 6
    assert shown.has("i2ii_worker_heartbeat_timestamp_seconds", worker=worker.name)
    assert not shown.has("i2ii_worker_state")
    assert not shown.has("i2ii_gpu_utilization_ratio")


@pytest.mark.parametrize("metrics", [None, {"of": "another version"}, 7, {"step": "?"}])
async def test_a_worker_of_another_version_is_shown_without_counters(
    connect: Connect, spool: Spool, worker: HandWorker, metrics: object
) -> None:

    worker.show(WorkerState.READY)
    file = spool.workers / f"{worker.name}.json"
    status = json.loads(file.read_text())
    assert "metrics" not in status
    file.write_text(json.dumps(status if metrics is None else {**status, "metrics": metrics}))
    client = await connect()
    shown = await scrape(client)
    assert shown.value("i2ii_worker_up", worker=worker.name) == 1
    assert not shown.has("i2ii_images_total")
    assert (await get(client, "/health"))["ready_workers"] == 1


async def test_a_status_file_that_cannot_be_read_is_a_worker_that_is_down(
    connect: Connect, spool: Spool, worker: HandWorker
) -> None:
    worker.show(WorkerState.READY, metrics=counted(images=6))
    (spool.workers / "node7.gpu0.json").write_text("{")
    (spool.workers / "notes.json").write_text("of a user")
    copy = (spool.workers / f"{worker.name}.json").read_text()
    (spool.workers / "node7.gpu1.json").write_text(copy)
    shown = await scrape(await connect())
    assert shown.value("i2ii_worker_up", worker="node7.gpu0") == 0
    assert shown.has("i2ii_worker_up", worker=worker.name)
    assert shown.sum("i2ii_images_total") == 6
    assert "notes" not in shown.text


async def test_two_servers_on_one_spool_show_the_same_spool_and_each_its_own_requests(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    worker.show(WorkerState.READY, metrics=counted(images=6))
    for _ in range(2):
        submit_job()
    worker.finish()
    clients = [await connect(), await connect()]
    await clients[0].get("/jobs")
    one, other = [await scrape(client) for client in clients]
    assert one.value("i2ii_http_requests_total", method="GET", route="/jobs", code="200") == 1
    assert not other.has("i2ii_http_requests_total", route="/jobs")
    own = {"i2ii_http", "i2ii_server", "i2ii_spool_free", "python_", "process_"}
    for name in one.names():
        if not name.startswith(tuple(own)):
            assert one._samples[name] == other._samples[name], name


# --- access ---------------------------------------------------------------------------------------


async def test_with_tokens_it_takes_one_of_an_operator(connect: Connect, tmp_path: Path) -> None:

    alice = tokens.add(tmp_path / "tokens", "alice", is_operator=False)
    client = await connect(api_token=TOKEN, tokens_file=tmp_path / "tokens")
    await check_error(await client.get("/metrics"), 401, "unauthorized")
    response = await client.get("/metrics", headers={"Authorization": f"Bearer {alice}"})
    assert "operator" in await check_error(response, 403, "forbidden")
    await scrape(client, Authorization=f"Bearer {TOKEN}")


@pytest.mark.parametrize(
    ("networks", "forwarded", "status"),
    [
        ("127.0.0.0/8", "", 200),
        ("10.0.0.0/8 ::1", "", 401),
        ("unix", "", 401),
        ("10.0.0.0/8", "10.1.2.3", 200),
        ("127.0.0.0/8", "203.0.113.7", 401),
    ],
)
async def test_a_network_may_read_it_without_a_token(
    connect: Connect, networks: str, forwarded: str, status: int
) -> None:
    proxies = "127.0.0.1" if forwarded else None
    client = await connect(api_token=TOKEN, metrics_networks=networks, trusted_proxies=proxies)
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    assert (await client.get("/metrics", headers=headers)).status == status
    assert (await client.get("/jobs", headers=headers)).status == 401
    wrong = {**headers, "Authorization": "Bearer of-someone-else"}
    assert (await client.get("/metrics", headers=wrong)).status == 401


async def test_a_page_whose_name_is_rebound_does_not_read_it_as_its_network(
    connect: Connect,
) -> None:
    client = await connect(api_token=TOKEN, metrics_networks="127.0.0.1", allowed_hosts="mine.test")
    for host, status in (("evil.test", 421), ("mine.test", 200), ("127.0.0.1", 200)):
        assert (await client.get("/metrics", headers={"Host": host})).status == status
    with_token = {"Host": "evil.test", "Authorization": f"Bearer {TOKEN}"}
    assert (await client.get("/metrics", headers=with_token)).status == 200


async def test_without_tokens_it_asks_for_this_machines_name(connect: Connect) -> None:
    client = await connect()
    await scrape(client)
    assert (await client.get("/metrics", headers={"Host": "evil.test"})).status == 421


# --- real workers ---------------------------------------------------------------------------------


def test_a_worker_counts_what_it_does_and_begins_anew_when_it_restarts(
    service: Service, picture: Path
) -> None:
    url = service.serve()
    worker = service.work(engine="slow")
    steps = ("--num-inference-steps", "10")
    ids = [
        cli(service, "submit", str(picture), "-p", "a", *steps).stdout.split()[0] for _ in range(2)
    ]

    def shown() -> Scrape:
        return Scrape(get_text(f"{url}/metrics"))

    name = service.workers()[0]["worker"]
    wait_until(
        lambda: shown().value("i2ii_jobs_finished_total", worker=name, outcome="completed") == 2
    )
    seen = shown()
    assert seen.value("i2ii_job_attempts_total", worker=name) == 2
    assert seen.value("i2ii_images_total", worker=name) == 2
    assert seen.value("i2ii_step_seconds_count", worker=name) == 18
    assert 0.9 <= seen.value("i2ii_step_seconds_sum", worker=name) < 9
    assert seen.value("i2ii_job_run_seconds_count", worker=name, preset="") == 2
    assert seen.value("i2ii_job_run_seconds_sum", worker=name, preset="") >= 1
    assert seen.value("i2ii_job_queue_seconds_count", worker=name) == 2
    for stage in ("load", "edit", "save"):
        assert seen.value("i2ii_job_stage_seconds_count", worker=name, stage=stage) == 2
    assert seen.value("i2ii_http_connections") >= 1
    assert not [id for id in ids if id in seen.text]
    worker.kill()
    worker.wait()
    started = seen.value("i2ii_worker_start_timestamp_seconds", worker=name)
    service.work(engine="slow")
    wait_until(lambda: shown().value("i2ii_worker_start_timestamp_seconds", worker=name) > started)
    again = shown()
    assert again.value("i2ii_jobs_finished_total", worker=name, outcome="completed") == 0
    assert again.value("i2ii_worker_up", worker=name) == 1


def test_a_job_that_kills_its_workers_is_counted_as_crashed(
    service: Service, picture: Path
) -> None:
    url = service.serve(max_attempts="1")
    worker = service.work(engine="killed_in_edit", max_attempts="1")
    cli(service, "submit", str(picture), "-p", "kill")
    worker.wait(timeout=30)
    service.work(engine="quick", max_attempts="1")

    def crashed() -> float:
        seen = Scrape(get_text(f"{url}/metrics"))
        by_worker = seen.sum("i2ii_jobs_finished_total", outcome="crashed")
        return by_worker + seen.value("i2ii_server_jobs_crashed_total")

    assert wait_until(crashed) == 1


# --- the page -------------------------------------------------------------------------------------


async def test_the_page_has_every_metric_and_no_other(
    connect: Connect, worker: HandWorker, submit_job: SubmitJob
) -> None:
    submit_job()
    load = {"load_seconds": 1.0}
    worker.show(
        WorkerState.READY,
        memory_used_mib=3,
        memory_total_mib=4,
        use_percent=50,
        metrics=counted(**load),
    )
    report_of(worker.spool).write_text(WebhookMetrics(pid=1, pending=2).model_dump_json())
    shown = await scrape(await connect())
    types = {
        name + ("_total" if kind == "counter" else ""): kind
        for name, kind in shown.types.items()
        if name.startswith("i2ii_")
    }
    rows = re.findall(r"^\| `(i2ii_\w+)` \| (\w+) \|", PAGE, re.MULTILINE)
    assert dict(rows) == types
    assert len(rows) == len(types)
