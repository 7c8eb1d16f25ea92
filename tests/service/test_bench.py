"""The load test and the benchmarks: that they run, and that their figures agree. No timing is
judged."""

import io
import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from i2ii_spool.jobs.records import Timings
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import Outcome, Report, histogram, percentile
from i2ii_spool.spool.status import JobStatus
from tests.support.service import Service, cli

ROOT = Path(__file__).parents[2]


def bench(service: Service, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return cli(service, "bench", "--url", url, *arguments, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# --- against a real service -----------------------------------------------------------------------


def test_the_load_is_spread_over_the_workers_and_reported(service: Service) -> None:
    url = service.serve()
    service.work("0")
    service.work("1")
    ran = bench(service, url, "-n", "6", "-c", "3", "-p", "invert", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["jobs"], report["succeeded"], report["failed"], report["errors"]) == (
        6,
        6,
        0,
        {},
    )
    assert len(list(service.spool.done.iterdir())) == 6
    assert report["throughput"] == pytest.approx(6 / report["makespan_seconds"], rel=0.01)
    latency = report["latency_seconds"]
    assert (
        0
        < latency["p50"]
        <= latency["p90"]
        <= latency["p99"]
        <= latency["max"]
        <= report["makespan_seconds"]
    )
    assert report["mean_seconds"]["edit"] > 0
    workers = report["workers"].values()
    assert len(workers) == 2
    assert sum(worker["jobs"] for worker in workers) == 6
    assert sum(worker["share_percent"] for worker in workers) == pytest.approx(100, abs=0.1)
    assert 0 < report["parallel_efficiency"] <= 1


def test_failed_jobs_are_counted_by_their_code_and_fail_the_command(service: Service) -> None:
    url = service.serve()
    service.work()
    ran = bench(service, url, "-n", "2", "-p", "summon a dragon")
    assert ran.returncode == 1
    assert "succeeded   0, 2 failed" in ran.stdout
    assert "2 x unknown_instruction" in ran.stdout


def test_a_server_that_is_not_there_is_one_clear_line(service: Service) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = bench(service, url)
    assert ran.returncode != 0
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1
    assert f"no server answers at {url}" in ran.stderr


def test_without_a_worker_nothing_is_submitted(service: Service) -> None:
    ran = bench(service, service.serve())
    assert ran.returncode != 0
    assert (
        ran.stderr
        == "i2ii: no workers are running, so no job would ever end; start one with i2ii gpu 0\n"
    )
    assert not list(service.spool.incoming.iterdir())


# --- the report -----------------------------------------------------------------------------------


def outcome(started: float, ended: float, worker: str) -> Outcome:
    """A job that its worker was busy with for 2 s."""
    timings = Timings(queue=0.5, load=0.5, edit=1.5, save=0.1)
    return Outcome(
        started,
        ended,
        JobStatus(request_id="x", status="completed", worker=worker, timings=timings),
    )


def test_a_report_adds_up() -> None:
    good = [
        outcome(10, 12, "node.gpu0"),
        outcome(10, 15, "node.gpu1"),
        outcome(12, 20, "node.gpu0"),
    ]
    report = Report(
        "http://x", 4, 2, [*good, Outcome(11, 11.5, error="queue_full")], frozenset({"node.gpu2"})
    )
    shown = report.to_dict()
    assert not report.all_succeeded
    assert (shown["succeeded"], shown["failed"], shown["errors"]) == (3, 1, {"queue_full": 1})
    assert (shown["makespan_seconds"], shown["throughput"]) == (10, 0.3)
    assert shown["latency_seconds"] == {"p50": 5, "p90": 8, "p99": 8, "max": 8}
    assert shown["mean_seconds"] == {"queue": 0.5, "load": 0.5, "edit": 1.5, "save": 0.1}
    assert [worker["jobs"] for worker in shown["workers"].values()] == [2, 1, 0]
    assert shown["workers"]["node.gpu0"]["utilisation_percent"] == 40
    assert shown["parallel_efficiency"] == 0.2  # 6 busy seconds of three workers' 10
    assert "1 x queue_full" in report.to_text()


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.0, 1)]
)
def test_a_percentile_is_one_of_the_numbers(share: float, expected: int) -> None:
    assert percentile(range(1, 101), share) == expected


@pytest.mark.parametrize(
    "seconds", [[1.0], [2.0] * 5, [0.1, 0.2, 9.0]], ids=["one", "all equal", "an outlier"]
)
def test_a_histogram_counts_every_job(seconds: list[float]) -> None:
    counts = [int(line.split("█ ")[1]) for line in histogram(seconds) if "█" in line]
    assert sum(counts) == len(seconds)


def test_photographs_are_the_same_each_time_and_as_heavy_as_real_ones() -> None:
    data = photograph(1024, 768, seed=1)
    assert data == photograph(1024, 768, seed=1)
    assert data != photograph(1024, 768, seed=2)
    assert 100_000 < len(data) < 150_000
    assert Image.open(io.BytesIO(data)).size == (1024, 768)


# --- the benchmarks -------------------------------------------------------------------------------

EXPECTED = {
    "spool": [
        "durable submits",
        "no-op jobs",
        "idle worker",
        "claim: long",
        "status: many",
        "--help",
    ],
    "http": [
        "POST /edit, 130 KB",
        "POST /edit, p99",
        "GET /status/ID",
        "JPEG photographs",
        "PNG noise",
    ],
    "pictures": ["PNG level 1", "PNG level 6", "encode as webp", "judge a JPEG", "read a JPEG"],
}


@pytest.mark.parametrize("script", EXPECTED)
def test_a_benchmark_prints_every_figure(script: str, tmp_path: Path) -> None:
    large = ["--large"] if script == "http" else []
    figures = run_benchmark(script, "--dir", str(tmp_path), *large)
    names = [figure["name"] for figure in figures]
    for expected in EXPECTED[script]:
        assert any(expected in name for name in names), f"{expected!r} is not among {names}"
    assert all(math.isfinite(figure["value"]) and figure["value"] > 0 for figure in figures)
    assert list(tmp_path.iterdir()) == []


def run_benchmark(script: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", f"benchmarks.{script}", "--quick", "--json", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["machine"]["cores"]
    figures: list[dict[str, Any]] = answer["figures"]
    return figures
