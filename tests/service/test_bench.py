"""The load test and the benchmarks: that they run, and that their figures agree. No timing is
judged."""

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


def test_failed_jobs_are_counted_by_code_and_fail_the_command(live: Service) -> None:
    ran = bench(live, live.url, "-n", "2", "-p", "summon a dragon")
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
    "pictures": ["PNG level 1", "PNG level 6", "encode as webp", "inspect a JPEG", "read a JPEG"],
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
