"""The load test and the benchmarks: that they run, and that their figures agree. No timing is
judged."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.hosts_simulation import Calls, Case, Machines, Simulation
from tests.support.service import Service, cli, wait_until

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


def test_ctrl_c_reports_the_jobs_that_ended_and_cancels_the_others(service: Service) -> None:
    url = service.serve()
    service.work(engine="slow")  # 0.5 s a job
    command = [sys.executable, "-m", "i2ii_spool", "bench", "--url", url, "-n", "500", "--json"]
    process = subprocess.Popen(
        command, env=service.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_until(lambda: len(list(service.spool.done.iterdir())) >= 2)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    report = json.loads(printed)
    assert report["stopped"]
    assert 1 <= report["succeeded"] < 500
    assert report["failed"] == 0
    assert not list(service.spool.incoming.iterdir())


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
    "webhooks": ["pending, one receiver", "at a receiver that hangs", "idle"],
    "pictures": ["PNG level 1", "PNG level 6", "encode as webp", "inspect a JPEG", "read a JPEG"],
}


@pytest.mark.parametrize("script", EXPECTED)
def test_a_benchmark_prints_every_figure(script: str, tmp_path: Path) -> None:
    large = ["--large"] if script == "http" else []
    figures = run_script(script, "--dir", str(tmp_path), *large)
    names = [figure["name"] for figure in figures]
    for expected in EXPECTED[script]:
        assert any(expected in name for name in names), f"{expected!r} is not among {names}"
    assert all(math.isfinite(figure["value"]) and figure["value"] >= 0 for figure in figures)
    assert list(tmp_path.iterdir()) == []


def run_script(script: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", f"benchmarks.{script}", "--quick", "--json", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["machine"]["cores"]
    figures: list[dict[str, Any]] = answer["figures"]
    return figures


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a host another name")
def test_workers_of_two_hosts_share_a_folder(tmp_path: Path) -> None:
    there = tmp_path / "there"
    here = tmp_path / "here"
    here.mkdir()
    there.symlink_to(here)
    names = {figure["name"] for figure in run_script("hosts", str(here), str(there))}
    assert {
        "2 workers on 1 host, 0.0 s an edit",
        "2 workers on 2 hosts, 0.1 s an edit",
        "a lost race",
        "a look at the queue, 100 waiting",
        "claim + release, 100 waiting",
    } <= names
    assert list(here.iterdir()) == []


CALLS = Calls(job=100, lost_race=10, look=2, names=1000, second=0)


def test_simulated_workers_do_not_hinder_each_other_on_a_fast_server() -> None:
    machines = Machines(capacity=1e9, latency=0, cpu=0.5)
    for workers in (1, 10):
        one = Simulation(CALLS, machines, Case(workers, edit=2, waiting=1000)).run()
        assert one.rate == pytest.approx(workers / 2.5, rel=0.15)
        assert one.races < 1


def test_a_simulated_server_answers_no_more_than_it_can() -> None:
    machines = Machines(capacity=1000, latency=0.001, cpu=0)
    few, many = (
        Simulation(CALLS, machines, Case(workers, edit=1, waiting=100_000)).run()
        for workers in (5, 100)
    )
    assert few.load < 1
    assert many.load == 1
    assert many.calls == pytest.approx(1000, rel=0.1)
    assert many.rate < 10  # 100 calls each; and races are lost


def test_a_simulated_look_takes_longer_in_a_longer_queue() -> None:
    machines = Machines(capacity=10_000, latency=0, cpu=0)
    short, long = (
        Simulation(CALLS, machines, Case(20, edit=1, waiting=waiting)).run()
        for waiting in (1000, 1_000_000)
    )
    assert long.rate < short.rate
