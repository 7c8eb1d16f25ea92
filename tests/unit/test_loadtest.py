"""The report of the load test, and the photographs that it sends."""

import io

import pytest
from PIL import Image

from i2ii_spool.jobs.records import Timings
from i2ii_spool.ops.loadtest.photo import photograph
from i2ii_spool.ops.loadtest.report import Outcome, Report, histogram, percentile
from i2ii_spool.spool.status import JobStatus


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


def test_a_stopped_run_reports_the_jobs_that_ended() -> None:
    report = Report("http://x", 9, 2, [outcome(10, 12, "node.gpu0")], frozenset())
    assert (report.stopped, report.failed) == (True, 0)
    assert "9 jobs, 2 at a time, to http://x; stopped after 1" in report.to_text()


def test_a_run_without_an_end_has_no_figures() -> None:
    report = Report("http://x", 9, 2, [], frozenset({"node.gpu0"}))
    assert report.to_dict()["throughput"] == 0
    assert report.to_dict()["workers"]["node.gpu0"]["utilisation_percent"] == 0
    assert "latency     unknown" in report.to_text()


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


def test_photographs_are_deterministic_and_of_realistic_size() -> None:
    data = photograph(1024, 768, seed=1)
    assert data == photograph(1024, 768, seed=1)
    assert data != photograph(1024, 768, seed=2)
    assert 100_000 < len(data) < 150_000
    assert Image.open(io.BytesIO(data)).size == (1024, 768)
