"""The page of a load test: what it draws, what it says, and that no text of a job is markup."""

import configparser
import io
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from i2ii_spool.jobs.records import Timings
from i2ii_spool.ops.loadtest.page import charts
from i2ii_spool.ops.loadtest.page.document import MAX_FAILURES, page
from i2ii_spool.ops.loadtest.page.markup import clock, natural, nice, seconds, tag
from i2ii_spool.ops.loadtest.page.timeline import COLUMNS, Timeline
from i2ii_spool.ops.loadtest.report import Outcome, Report
from i2ii_spool.ops.loadtest.sheet import (
    MAX_BYTES,
    MAX_RESULTS,
    SIDE,
    ContactSheet,
    Shot,
    Thumbnail,
    sampled,
    thumbnail,
)
from i2ii_spool.spool.status import JobStatus

ROOT = Path(__file__).parents[2]
BEGAN = datetime(2026, 11, 26, 14, 2, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\u202e"


class Elements(HTMLParser):
    """Counts the elements, by name and class, and keeps the text outside of the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.words: list[str] = []
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self._in_style = name == "style"
        classes = dict(attributes).get("class") or ""
        self.count.update([name, *(f"{name}.{each}" for each in classes.split())])

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def job(began: float, *, worker: str = "node.gpu0", edit: float = 1.5, **more: Any) -> Outcome:
    """A job that waits 0.5 s, loads 0.5 s, is edited, and is saved in 0.25 s."""
    ended = began + 1.25 + edit
    status = JobStatus(
        request_id=f"job-{began:g}",
        status="completed",
        worker=worker,
        submitted_at=BEGAN + timedelta(seconds=began),
        completed_at=BEGAN + timedelta(seconds=ended),
        timings=Timings(queue=0.5, load=0.5, edit=edit, save=0.25),
        **more,
    )
    return Outcome(100 + began, 100 + ended, status)


def report_of(outcomes: Sequence[Outcome], **more: Any) -> Report:
    jobs = more.pop("jobs", len(outcomes))
    ready = frozenset({"node.gpu0", "node.gpu1"})
    return Report("http://x", jobs, 2, outcomes, ready, began=BEGAN, **more)


# --- what it says ---------------------------------------------------------------------------------


def test_a_job_has_a_bar_for_each_stage_in_the_lane_of_its_worker() -> None:
    timeline = Timeline(report_of([job(0), job(2), job(1, worker="node.gpu1")]))
    first = timeline.lanes["node.gpu0"][0]
    assert (first.waited, first.load, first.edit) == ((0, 0.5), (0.5, 1), (1, 2.5))
    assert first.save == pytest.approx((2.5, 2.75))
    drawn = Elements(timeline.to_html()).count
    assert [drawn[f"rect.{stage}"] for stage in ("load", "edit", "save")] == [3, 3, 3]
    assert timeline.names == ["node.gpu0", "node.gpu1"]


def test_the_clock_of_the_server_is_laid_on_that_of_the_client() -> None:
    status = job(0).status
    assert status is not None
    late = Outcome(999.0, 1002.0, status)
    assert Timeline(report_of([late])).lanes["node.gpu0"][0].waited == (0, 0.5)


def test_slow_jobs_and_failures_are_marked() -> None:
    failed = Outcome(101, 103, None, "queue_full", "the queue is full")
    timeline = Timeline(report_of([*(job(at) for at in range(4)), job(5, edit=9), failed]))
    drawn = Elements(timeline.to_html()).count
    assert drawn["rect.slow"] == 1
    assert drawn["path.failed"] == 1
    assert timeline.names[-1] == "no worker"


def test_ten_thousand_jobs_make_a_small_page_that_still_adds_up() -> None:
    report = report_of([job(2 * at, worker=f"node.gpu{at % 8}") for at in range(10_000)])
    timeline = Timeline(report)
    assert not timeline.has_bars
    html = page(report)
    assert len(html) < 200_000
    assert Elements(html).count["rect"] == 0
    edits = [stages.edit for stages in timeline.lanes["node.gpu0"]]
    covered = sum(timeline.shares(edits)) * report.makespan / COLUMNS
    assert covered == pytest.approx(1250 * 1.5, rel=1e-3)


def test_without_a_completed_job_it_says_so() -> None:
    failed = Outcome(100, 101, None, "queue_full", "the queue is full")
    for outcomes in ([failed], []):
        text = Elements(page(report_of(outcomes, jobs=5))).text
        assert "No job has completed, so there is no latency and no throughput." in text
        assert f"Stopped by Ctrl-C: {len(outcomes)} job" in text
    assert "No job has completed" not in Elements(page(report_of([job(0)]))).text


def test_failures_are_listed_with_code_and_message_those_alike_together() -> None:
    outcomes = [Outcome(100, 101, None, "crashed", "it died") for _ in range(3)]
    outcomes += [Outcome(100, 101, None, "odd", f"message {at}") for at in range(MAX_FAILURES + 5)]
    text = Elements(page(report_of(outcomes))).text
    assert "3 ×crashedit died" in text
    assert "message 0" in text
    assert "And 6 other messages." in text


def test_it_names_engine_settings_and_machine() -> None:
    done = job(0, width=1024, height=683, details={"preset": "fast", "steps": 4, "transform": {}})
    seen = {"node.gpu0": {"engine": "qwen", "model": "m-2511", "memory_total_mib": 81920}}
    text = Elements(page(report_of([done], workers_seen=seen, prompt="a watercolour"))).text
    for expected in ("1024 × 683", "Presetfast", "Steps4", "qwen", "m-2511", "80 GiB"):
        assert expected in text
    assert "26 November 2026, 14:02 UTC+00:00" in text
    assert "a watercolour" in text


def test_a_password_in_the_url_is_left_out() -> None:
    report = Report("http://me:secret@x:8000/i2ii", 0, 1, [], frozenset())
    assert "secret" not in page(report)
    assert "http://x:8000/i2ii" in page(report)


# --- text of others -------------------------------------------------------------------------------


def test_no_text_of_a_job_or_a_worker_is_markup() -> None:
    hostile = job(0, worker=HOSTILE, details={HOSTILE: HOSTILE}, engine=HOSTILE, model=HOSTILE)
    assert hostile.status is not None
    named = hostile.status.model_copy(update={"request_id": HOSTILE})
    outcomes = [
        Outcome(hostile.started, hostile.ended, named),
        Outcome(100, 101, named, HOSTILE, HOSTILE),
    ]
    seen = {HOSTILE: dict.fromkeys(("engine", "model", "memory_total_mib"), HOSTILE)}
    plain = page(report_of([job(0), Outcome(100, 101, job(0).status, "code", "message")]))
    html = page(report_of(outcomes, prompt=HOSTILE, workers_seen=seen))
    assert Elements(html).count["script"] == Elements(plain).count["script"] == 0
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert Elements(html).text.count("<script>alert(1)</script>") >= 6


def test_markup_escapes_text_and_attributes() -> None:
    assert tag("p", "1 < 2 & \ud800", title='"<') == (
        '<p title="&quot;&lt;">1 &lt; 2 &amp; \N{REPLACEMENT CHARACTER}</p>'
    )
    assert tag("p", tag("b", "x")) == "<p><b>x</b></p>"


# --- the contact sheet ----------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 4, 7, 24, 96, 10_000])
def test_the_sheet_shows_each_picture_as_often(jobs: int) -> None:
    shown = [job for job in sampled(jobs, 4) if job < jobs]
    assert len(shown) <= MAX_RESULTS
    often = Counter(job % 4 for job in shown)
    assert max(often.values()) - min(often[at] for at in range(min(jobs, 4))) <= 1
    assert max(shown) >= jobs - 1 - jobs / 4


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_thumbnail_is_bounded_and_bare(mode: str) -> None:
    noise = Random(1).randbytes(900 * 700 * 4)
    picture = Image.frombytes("RGBA", (900, 700), noise).convert(mode)
    picture.info["icc_profile"] = b"profile"
    small = thumbnail(picture)
    assert len(small.webp) <= MAX_BYTES
    assert small.size == (900, 700)
    opened = Image.open(io.BytesIO(small.webp))
    assert opened.format == "WEBP"
    assert max(opened.size) <= SIDE
    assert "icc_profile" not in opened.info


def test_the_fullest_page_has_less_than_three_megabytes() -> None:
    full = Thumbnail(b"\xff" * MAX_BYTES, (1024, 768))
    shots = [Shot(at, at % 4, 1.0, full) for at in range(MAX_RESULTS)]
    outcomes = [job(2 * at, worker=f"node.gpu{at % 16}") for at in range(2_400)]
    html = page(report_of(outcomes, sheet=ContactSheet([full] * 4, shots)))
    assert Elements(html).count["img"] == MAX_RESULTS + 4
    assert len(html) < 3_000_000


# --- numbers --------------------------------------------------------------------------------------


def test_numbers_are_written_short() -> None:
    assert [seconds(value) for value in (0.123, 9.87, 21.62, 315.2)] == [
        *("0.12", "9.87", "21.6", "315")
    ]
    assert [clock(value) for value in (7, 315, 3915)] == ["0:07", "5:15", "1:05:15"]
    assert [nice(value) for value in (0.013, 0.02, 3, 70)] == pytest.approx([0.02, 0.02, 5, 100])
    assert sorted(["gpu10", "gpu2"], key=natural) == ["gpu2", "gpu10"]


@pytest.mark.parametrize("span", [0.004, 0.3, 7, 59, 61, 315, 4000, 90_000])
def test_an_axis_has_a_few_marks_within_the_run(span: float) -> None:
    marks = charts.ticks(span)
    assert 2 <= len(marks) <= charts.TICKS + 1
    assert marks[-1] <= span
    words = Elements(charts.time_axis(span)).words
    assert len(words) == len(set(words)) == len(marks)


def test_all_latencies_alike_make_a_chart() -> None:
    chart, scale = charts.latency_chart([2.0] * 5, {"p50": 2.0})
    assert "at most 5 jobs" in scale
    assert "NaN" not in chart


def test_the_template_is_in_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["i2ii_spool"].split(",")
    packed = {path for each in patterns for path in (ROOT / "i2ii_spool").glob(each.strip())}
    assert ROOT / "i2ii_spool/ops/loadtest/page/page.html" in packed
