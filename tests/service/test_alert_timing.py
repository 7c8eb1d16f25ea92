"""deploy/prometheus/alerts.yml: after how long each alert fires, by `promtool test rules`."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.prometheus import ALERTS, promtool, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

STEP = 30
"""Seconds between two samples, and between two evaluations."""
WORKER = 'job="i2ii",worker="node7.gpu0"'


class Case(NamedTuple):
    """An alert, the samples that bring it about, and when it must fire."""

    alert: str
    series: dict[str, str]
    seconds: int | None
    """None for never."""


def of_worker(name: str, values: str, labels: str = "", instance: str = "a") -> dict[str, str]:
    return {f'{name}{{{WORKER},instance="{instance}"{labels}}}': values}


def of_host(name: str, values: str, instance: str = "a") -> dict[str, str]:
    return {f'{name}{{job="i2ii",host="node7",instance="{instance}"}}': values}


def of_spool(name: str, values: str, labels: str = "", instance: str = "a") -> dict[str, str]:
    return {f'{name}{{job="i2ii",instance="{instance}"{labels}}}': values}


SICK_AT_330 = "0x10 1x60"
WELL_UNTIL_300 = "1x10 0x60"
FINISHED = "i2ii_jobs_finished_total"
REQUESTS = "i2ii_http_requests_total"
CASES = [
    Case("I2iiServerDown", of_spool("up", WELL_UNTIL_300), 330 + 60),
    Case("I2iiServerDown", {'up{job="node",instance="a"}': "0x70"}, None),
    Case(
        "I2iiNoWorkerUp",
        of_spool("i2ii_build_info", "1x70") | of_worker("i2ii_worker_up", WELL_UNTIL_300),
        330 + 60,
    ),
    Case(
        "I2iiNoWorkerUp",
        of_spool("i2ii_build_info", "1x70") | of_worker("i2ii_worker_up", "1x10 stale"),
        330 + 60,
    ),
    Case(  # one of two servers has not noticed yet
        "I2iiWorkerDown",
        of_worker("i2ii_worker_up", WELL_UNTIL_300)
        | of_worker("i2ii_worker_up", "1x12 0x60", instance="b"),
        390 + 120,
    ),
    Case("I2iiWorkerDown", of_worker("i2ii_worker_up", "1x10 stale"), None),
    Case(  # one of two servers has not noticed yet
        "I2iiHostDown",
        of_host("i2ii_host_heartbeat_timestamp_seconds", "0+30x10 300x60")
        | of_host("i2ii_host_workers", "2x10 0x60")
        | of_host("i2ii_host_workers", "2x12 0x60", instance="b"),
        390 + 120,
    ),
    Case(  # one of its two workers has died
        "I2iiHostDown",
        of_host("i2ii_host_heartbeat_timestamp_seconds", "0+30x70")
        | of_host("i2ii_host_workers", "2x10 1x60"),
        None,
    ),
    Case(  # it was stopped
        "I2iiHostDown",
        of_host("i2ii_host_heartbeat_timestamp_seconds", "0+30x10 stale")
        | of_host("i2ii_host_workers", "1x10 stale"),
        None,
    ),
    Case(  # silent since 300 s
        "I2iiWorkerSilent",
        of_worker("i2ii_worker_heartbeat_timestamp_seconds", "0+30x10 300x60")
        | of_worker("i2ii_worker_up", "1x70"),
        450 + 60,
    ),
    Case(
        "I2iiWorkerSilent",
        of_worker("i2ii_worker_heartbeat_timestamp_seconds", "0+30x10 300x60")
        | of_worker("i2ii_worker_up", "0x70"),
        None,
    ),
    Case(
        "I2iiWorkerDegraded",
        of_worker("i2ii_worker_state", SICK_AT_330, ',state="degraded"'),
        330 + 120,
    ),
    Case(  # at 330, 420 and 510 s
        "I2iiWorkerRestarts",
        of_worker("i2ii_worker_start_timestamp_seconds", "0x10 330x2 420x2 510x60"),
        510,
    ),
    Case(
        "I2iiWorkerRestarts",
        of_worker("i2ii_worker_start_timestamp_seconds", "0x10 330x2 420x60"),
        None,
    ),
    Case(
        "I2iiQueueWaitHigh",
        of_worker("i2ii_job_queue_seconds_bucket", "0+5x70", ',le="300.0"')
        | of_worker("i2ii_job_queue_seconds_bucket", "0+9x70", ',le="900.0"')
        | of_worker("i2ii_job_queue_seconds_bucket", "0+9x70", ',le="+Inf"'),
        30 + 600,
    ),
    Case(
        "I2iiQueueWaitHigh",
        of_worker("i2ii_job_queue_seconds_bucket", "0+9x70", ',le="300.0"')
        | of_worker("i2ii_job_queue_seconds_bucket", "0+10x70", ',le="900.0"')
        | of_worker("i2ii_job_queue_seconds_bucket", "0+10x70", ',le="+Inf"'),
        None,
    ),
    Case(
        "I2iiQueueNearLimit",
        of_spool("i2ii_jobs", "80x10 81x60", ',state="incoming"')
        | of_spool("i2ii_queue_limit", "100x70"),
        330 + 60,
    ),
    Case("I2iiOldestWaiting", of_spool("i2ii_queue_oldest_timestamp_seconds", "0x70"), 1830 + 60),
    Case(
        "I2iiFailureRatio",
        of_worker(FINISHED, "0+94x70", ',outcome="completed"')
        | of_worker(FINISHED, "0+900x70", ',outcome="cancelled"')
        | of_worker(FINISHED, "0+6x70", ',outcome="failed"'),
        30 + 300,
    ),
    Case(
        "I2iiFailureRatio",
        of_worker(FINISHED, "0+96x70", ',outcome="completed"')
        | of_worker(FINISHED, "0+4x70", ',outcome="failed"'),
        None,
    ),
    Case("I2iiJobCrashed", of_worker(FINISHED, SICK_AT_330, ',outcome="crashed"'), 330),
    Case("I2iiJobCrashed", of_spool("i2ii_server_jobs_crashed_total", SICK_AT_330), 330),
    Case("I2iiJobCrashed", of_spool("i2ii_server_jobs_crashed_total", "3x70"), None),
    Case("I2iiOutOfMemory", of_worker("i2ii_worker_oom_total", SICK_AT_330), 330),
    Case(
        "I2iiDiskLow",
        of_spool("i2ii_spool_free_bytes", "200x10 199x60")
        | of_spool("i2ii_spool_min_free_bytes", "100x70"),
        330 + 300,
    ),
    Case(  # one of two servers cannot write
        "I2iiSpoolNotWritable",
        of_spool("i2ii_spool_writable", WELL_UNTIL_300)
        | of_spool("i2ii_spool_writable", "1x70", instance="b"),
        330 + 60,
    ),
    Case("I2iiWebhooksPending", of_spool("i2ii_webhooks_pending", "0+10x140"), 900 + 900),
    Case("I2iiWebhooksPending", of_spool("i2ii_webhooks_pending", "0+10x30 300x110"), None),
    Case("I2iiWebhooksPending", of_spool("i2ii_webhooks_pending", "0+1x100 100x40"), None),
    Case(  # silent since 300 s
        "I2iiWebhooksSilent",
        of_spool("i2ii_webhooks_report_timestamp_seconds", "0+30x10 300x60"),
        390 + 120,
    ),
    Case(
        "I2iiWebhooksSilent",
        of_spool("i2ii_webhooks_report_timestamp_seconds", "0+30x10 stale"),
        None,
    ),
    Case(
        "I2iiHttpErrors",
        of_spool(REQUESTS, "0+98x70", ',route="/jobs",code="200"')
        | of_spool(REQUESTS, "0+2x70", ',route="/jobs",code="500"'),
        30 + 300,
    ),
    Case(
        "I2iiHttpErrors",
        of_spool(REQUESTS, "0+98x70", ',route="/jobs",code="200"')
        | of_spool(REQUESTS, "0+2x70", ',route="/health",code="503"'),
        None,
    ),
]


def expectation(case: Case, seconds: int, *, fires: bool) -> Any:
    return {
        "expr": f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}})',
        "eval_time": f"{seconds}s",
        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.alert} {case.seconds}")
def test_an_alert_fires_after_its_time_and_not_before(case: Case, tmp_path: Path) -> None:
    if case.seconds is None:
        times = [expectation(case, at, fires=False) for at in range(0, 35 * 60, 300)]
    else:
        before = expectation(case, case.seconds - STEP, fires=False)
        times = [before, expectation(case, case.seconds, fires=True)]
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    written = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": f"{STEP}s",
        "tests": [{"interval": f"{STEP}s", "input_series": series, "promql_expr_test": times}],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(written))
    promtool("test", "rules", str(file))


def test_the_rules_are_clean_and_each_is_timed() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert len(alerts) == len(set(alerts)) > 10
    assert set(alerts) == {case.alert for case in CASES if case.seconds is not None}


def test_the_page_names_every_alert() -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert sorted(re.findall(r"^\| `(I2ii\w+)` \|", page, re.MULTILINE)) == sorted(alerts)
