"""What `/metrics` shows to Prometheus: the spool and its workers as they are, and what this server
has counted.

Gauges of the spool are read at each scrape. What a worker counts stands in its status file. Every
server of a spool shows both alike; what it has counted itself has no label `worker`.
"""

import platform
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic

from aiohttp import hdrs, web
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

import i2ii_spool
from i2ii_spool.host.logging import EventCounter
from i2ii_spool.server.errors import ERROR
from i2ii_spool.settings import MIB
from i2ii_spool.spool.hosts import by_host, host_of
from i2ii_spool.spool.layout import State
from i2ii_spool.spool.liveness import WorkerState, WorkerView
from i2ii_spool.spool.metrics import Buckets, Histogram, WebhookMetrics, WorkerMetrics

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HTTP_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SUBMIT_ROUTES = {"/edit": "edit", "/v1/images/edits": "openai"}
"""The routes that accept jobs, and their `via`."""
OTHER = "other"
"""Stands for what clients make up: methods, and paths that no route has."""
WAITING = "?wait"
"""Behind the route of a long poll, which is to be slow."""


@dataclass(frozen=True)
class Reading:
    """What a scrape has read of the spool."""

    jobs: dict[State, int]
    oldest_waiting_at: float | None
    """When the oldest waiting job was submitted, in seconds since 1970."""
    workers: Sequence[WorkerView]
    unreadable: Iterable[str] = ()
    """The workers whose status file cannot be read."""
    free_bytes: int = 0
    webhooks: tuple[WebhookMetrics, float] | None = None
    """What the deliverer counts, and when it wrote that; None while none is running."""


@dataclass(frozen=True)
class Limits:
    """The limits in force that a scrape shows."""

    max_queue: int
    min_free: int


class ServerMetrics(Collector):
    """All that this server shows. It counts in the event loop alone."""

    def __init__(self) -> None:
        self.events = EventCounter()
        self.count_connections: Callable[[], int] = lambda: 0
        self.count_event_streams: Callable[[], int] = lambda: 0
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._seconds: dict[tuple[str, str], Buckets] = defaultdict(partial(Buckets, HTTP_BOUNDS))
        self._accepted: Counter[str] = Counter(dict.fromkeys(SUBMIT_ROUTES.values(), 0))
        self._refused: Counter[str] = Counter()
        self._families: list[Metric] = []
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._registry.register(self)

    def accept(self, request: web.Request, *, is_new: bool) -> None:
        """Count the job of a request, if it is a new one."""
        request[IS_ACCEPTED] = True
        if is_new:
            self._accepted[SUBMIT_ROUTES[route_of(request)]] += 1

    def count(self, request: web.Request, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        method = request.method if request.method in hdrs.METH_ALL else OTHER
        route = route_of(request)
        if route in SUBMIT_ROUTES and request.method == hdrs.METH_POST:
            if ERROR in request and IS_ACCEPTED not in request:
                self._refused[request[ERROR]] += 1
        elif "wait" in request.query and status < 400:
            route += WAITING
        self._requests[method, route, str(status)] += 1
        self._seconds[method, route].observe(seconds)

    def render(self, reading: Reading | None, limits: Limits, *, is_writable: bool) -> bytes:
        """Return all of it as text. Without a reading the spool cannot be read."""
        self._families = [
            *_of_spool(reading, limits, is_writable=is_writable),
            *(_of_workers(reading) if reading is not None else ()),
            *self._of_server(),
        ]
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what `render` shows."""
        yield from self._families

    def _of_server(self) -> Iterator[Metric]:
        labels = {"version": i2ii_spool.__version__, "python": platform.python_version()}
        yield _gauge("i2ii_build_info", "The version of this server; always 1.", [(labels, 1)])
        yield _counter(
            "i2ii_jobs_accepted",
            "Jobs that this server has accepted over HTTP.",
            [({"via": via}, count) for via, count in self._accepted.items()],
        )
        yield _counter(
            "i2ii_jobs_refused",
            "Submits over HTTP that this server has refused, by the code of the error.",
            [({"reason": code}, count) for code, count in self._refused.items()],
            labels=["reason"],
        )
        yield _counter(
            "i2ii_server_job_events",
            "What this server has done to jobs itself, by the action in its log.",
            [({"event": event}, count) for event, count in self.events.events.items()],
            labels=["event"],
        )
        yield _counter(
            "i2ii_server_jobs_crashed",
            "Jobs that failed as crashed because their last worker died, found by this server.",
            [({}, self.events.failures.get("crashed", 0))],
        )
        yield _counter(
            "i2ii_http_requests",
            "Requests that were answered, by route and status.",
            [
                ({"method": method, "route": route, "code": code}, count)
                for (method, route, code), count in self._requests.items()
            ],
            labels=["method", "route", "code"],
        )
        yield _histogram(
            "i2ii_http_request_seconds",
            "From the head of a request to its answer.",
            [
                ({"method": method, "route": route}, buckets.snapshot())
                for (method, route), buckets in self._seconds.items()
            ],
            labels=["method", "route"],
        )
        connections = self.count_connections()
        yield _gauge("i2ii_http_connections", "Open connections.", [({}, connections)])
        streams = self.count_event_streams()
        yield _gauge("i2ii_event_streams", "Open streams of /events.", [({}, streams)])


METRICS = web.AppKey("metrics", ServerMetrics)
IS_ACCEPTED = web.RequestKey("is_accepted", bool)


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request and the time until its answer."""
    started = monotonic()
    response = await handler(request)
    request.app[METRICS].count(request, response.status, monotonic() - started)
    return response


def route_of(request: web.Request) -> str:
    """Return the path of the route with its names of variables: `/status/{id}`."""
    resource = request.match_info.route.resource
    path = OTHER if resource is None else resource.canonical
    return OTHER if path == "/{path}" else path


# --- the spool ------------------------------------------------------------------------------------


def _of_spool(reading: Reading | None, limits: Limits, *, is_writable: bool) -> Iterator[Metric]:
    yield _gauge("i2ii_queue_limit", "Jobs that may wait.", [({}, limits.max_queue)])
    yield _gauge(
        "i2ii_spool_min_free_bytes",
        "Free disk below which submits are refused.",
        [({}, limits.min_free)],
    )
    yield _gauge(
        "i2ii_spool_writable",
        "Whether a job can be put into the spool now: 1 or 0.",
        [({}, is_writable)],
    )
    if reading is None:
        return
    yield _gauge(
        "i2ii_jobs",
        "Jobs in each state.",
        [({"state": str(state)}, count) for state, count in reading.jobs.items()],
    )
    if reading.oldest_waiting_at is not None:
        yield _gauge(
            "i2ii_queue_oldest_timestamp_seconds",
            "When the job that has waited longest was submitted; absent if none waits.",
            [({}, reading.oldest_waiting_at)],
        )
    yield _gauge("i2ii_spool_free_bytes", "Free disk of the spool.", [({}, reading.free_bytes)])
    if reading.webhooks is not None:
        yield from _of_webhooks(*reading.webhooks)


def _of_webhooks(metrics: WebhookMetrics, written_at: float) -> Iterator[Metric]:
    yield _counter(
        "i2ii_webhooks",
        "Attempts to tell a webhook, by what became of the message.",
        [
            ({"outcome": outcome}, getattr(metrics, outcome))
            for outcome in ("delivered", "retried", "dropped")
        ],
    )
    yield _gauge(
        "i2ii_webhooks_pending", "Messages that are still to be told.", [({}, metrics.pending)]
    )
    yield _gauge(
        "i2ii_webhooks_report_timestamp_seconds",
        "When the deliverer last wrote its counters.",
        [({}, written_at)],
    )


# --- the workers ----------------------------------------------------------------------------------

Sample = tuple[dict[str, str], float]
HistogramSample = tuple[dict[str, str], Histogram]


def _of_workers(reading: Reading) -> Iterator[Metric]:
    # Two files of one name would be two samples of one series, which Prometheus refuses.
    views = {view.status.worker: view for view in reading.workers}
    alive = {name: view for name, view in views.items() if view.alive}
    up = {name: float(view.alive) for name, view in views.items()}
    up = {**dict.fromkeys(reading.unreadable, 0.0), **up}
    yield _gauge(
        "i2ii_worker_up",
        "Whether the worker is alive, and its status file can be read: 1 or 0.",
        [({"worker": name}, value) for name, value in up.items()],
        labels=["worker"],
    )
    yield _gauge(
        "i2ii_worker_state",
        "1 for the state of a live worker, 0 for the others.",
        [
            ({"worker": name, "state": str(state)}, view.status.state is state)
            for name, view in alive.items()
            for state in WorkerState
        ],
        labels=["worker", "state"],
    )
    yield _gauge(
        "i2ii_worker_info",
        "What the worker runs, and where; always 1.",
        [(_info(name, view), 1) for name, view in views.items()],
        labels=["worker", "host", "gpu", "gpu_uuid", "engine", "model"],
    )
    yield _gauge(
        "i2ii_worker_heartbeat_timestamp_seconds",
        "When the worker last wrote its status.",
        [({"worker": name}, view.heartbeat_at) for name, view in views.items()],
        labels=["worker"],
    )
    hosts = by_host(list(views.values()))
    yield _gauge(
        "i2ii_host_workers",
        "Workers of the host that are alive; 0 if the host is dead.",
        [({"host": each.host}, each.alive_workers) for each in hosts],
        labels=["host"],
    )
    yield _gauge(
        "i2ii_host_heartbeat_timestamp_seconds",
        "When any worker of the host last wrote its status.",
        [({"host": each.host}, max(view.heartbeat_at for view in each.workers)) for each in hosts],
        labels=["host"],
    )
    yield from _of_gpus(alive)
    counted = {
        name: view.status.metrics for name, view in views.items() if view.status.metrics is not None
    }
    yield from _counters(counted)
    yield from _histograms(counted)


def _info(name: str, view: WorkerView) -> dict[str, str]:
    status = view.status
    return {
        "worker": name,
        "host": host_of(name),
        "gpu": "" if status.gpu_id is None else str(status.gpu_id),
        "gpu_uuid": _uuid(view),
        "engine": status.engine,
        "model": status.model,
    }


def _uuid(view: WorkerView) -> str:
    return "" if view.status.metrics is None else view.status.metrics.gpu_uuid


def _of_gpus(alive: dict[str, WorkerView]) -> Iterator[Metric]:
    for name, meaning, field_name, factor in (
        ("memory_used_bytes", "Memory in use by all processes.", "memory_used_mib", MIB),
        ("memory_total_bytes", "Memory of the GPU.", "memory_total_mib", MIB),
        ("utilization_ratio", "Part of the last second in which it computed.", "use_percent", 0.01),
    ):
        yield _gauge(
            f"i2ii_gpu_{name}",
            meaning,
            [
                ({"worker": worker, "gpu_uuid": _uuid(view)}, value * factor)
                for worker, view in alive.items()
                if (value := getattr(view.status, field_name)) is not None
            ],
            labels=["worker", "gpu_uuid"],
        )


def _counters(counted: dict[str, WorkerMetrics]) -> Iterator[Metric]:
    yield _gauge(
        "i2ii_worker_start_timestamp_seconds",
        "When the worker started.",
        [({"worker": name}, each.started_at) for name, each in counted.items()],
        labels=["worker"],
    )
    yield _gauge(
        "i2ii_worker_load_seconds",
        "How long the engine took to load.",
        [
            ({"worker": name}, each.load_seconds)
            for name, each in counted.items()
            if each.load_seconds is not None
        ],
        labels=["worker"],
    )
    yield _counter(
        "i2ii_job_attempts",
        "Attempts that the worker has begun.",
        [({"worker": name}, each.events.get("claimed", 0)) for name, each in counted.items()],
        labels=["worker"],
    )
    yield _counter(
        "i2ii_jobs_finished",
        "Jobs that the worker has ended, also for workers that died.",
        [
            ({"worker": name, "outcome": outcome}, count)
            for name, each in counted.items()
            for outcome, count in _outcomes(each).items()
        ],
        labels=["worker", "outcome"],
    )
    yield _counter(
        "i2ii_jobs_requeued",
        "Jobs that the worker gave back, and those of dead workers that it put back.",
        [
            ({"worker": name, "reason": reason}, each.events.get(event, 0))
            for name, each in counted.items()
            for reason, event in (("released", "released"), ("died", "requeued"))
        ],
        labels=["worker", "reason"],
    )
    yield _counter(
        "i2ii_images",
        "Pictures that the worker has made.",
        [({"worker": name}, each.images) for name, each in counted.items()],
        labels=["worker"],
    )
    yield _counter(
        "i2ii_worker_oom",
        "Jobs that failed in the worker because the GPU had too little memory.",
        [
            ({"worker": name}, each.failures.get("out_of_memory", 0))
            for name, each in counted.items()
        ],
        labels=["worker"],
    )


def _outcomes(metrics: WorkerMetrics) -> dict[str, int]:
    crashed = metrics.failures.get("crashed", 0)
    return {
        "completed": metrics.events.get("completed", 0),
        "failed": metrics.events.get("failed", 0) - crashed,
        "cancelled": metrics.events.get("cancelled", 0),
        "crashed": crashed,
    }


def _histograms(counted: dict[str, WorkerMetrics]) -> Iterator[Metric]:
    yield _histogram(
        "i2ii_job_queue_seconds",
        "From the submission of a job to the start of an attempt.",
        [({"worker": name}, each.queue) for name, each in counted.items()],
        labels=["worker"],
    )
    yield _histogram(
        "i2ii_job_run_seconds",
        "From the start of the attempt to the commit, of completed jobs.",
        [
            ({"worker": name, "preset": preset}, seconds)
            for name, each in counted.items()
            for preset, seconds in each.run.items()
        ],
        labels=["worker", "preset"],
    )
    yield _histogram(
        "i2ii_job_stage_seconds",
        "Parts of that time: reading the pictures, the edit, encoding and writing the result.",
        [
            ({"worker": name, "stage": stage}, seconds)
            for name, each in counted.items()
            for stage, seconds in each.stages.items()
        ],
        labels=["worker", "stage"],
    )
    yield _histogram(
        "i2ii_step_seconds",
        "Between two steps of an edit.",
        [({"worker": name}, each.step) for name, each in counted.items()],
        labels=["worker"],
    )


# --- families -------------------------------------------------------------------------------------


def _gauge(
    name: str, meaning: str, samples: Sequence[Sample], labels: Sequence[str] = ()
) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels or _names(samples))
    for values, value in samples:
        family.add_metric(list(values.values()), float(value))
    return family


def _counter(
    name: str, meaning: str, samples: Sequence[Sample], labels: Sequence[str] = ()
) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels or _names(samples))
    for values, value in samples:
        family.add_metric(list(values.values()), value)
    return family


def _histogram(
    name: str, meaning: str, samples: Sequence[HistogramSample], labels: Sequence[str]
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, histogram in samples:
        count, buckets = 0, []
        for bound, more in zip([*histogram.bounds, inf], histogram.counts, strict=True):
            count += more
            buckets.append(("+Inf" if bound == inf else str(bound), count))
        family.add_metric(list(values.values()), buckets, histogram.sum)
    return family


def _names(samples: Sequence[Sample]) -> list[str]:
    return list(samples[0][0])
