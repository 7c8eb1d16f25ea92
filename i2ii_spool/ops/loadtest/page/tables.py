"""The tables of the page: the workers, and the run with its machine and its settings."""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

from i2ii_spool.ops.loadtest.page.markup import (
    Html,
    clock,
    counted,
    grouped,
    natural,
    of_a_job,
    seconds,
    tag,
)
from i2ii_spool.ops.loadtest.report import Report, WorkerShare

MAX_DETAILS = 12
NONE = "–"


def table(name: str, heads: Sequence[str], rows: Iterable[Iterable[Html]]) -> Html:
    """Return a table. A head that begins with # is of numbers, which stand on the right."""
    head = [
        tag("th", each.removeprefix("#"), scope="col", class_="nr" if each[0] == "#" else None)
        for each in heads
    ]
    inside = tag(
        "table",
        tag("thead", tag("tr", *head)),
        tag("tbody", *(tag("tr", *row) for row in rows)),
        aria_label=name,
    )
    # A narrow window scrolls it, with keys too.
    return tag(
        "div", inside, class_="tablewrap", tabindex=0, role="region", aria_label=f"{name}, table"
    )


def workers(report: Report) -> Html:
    """Return what each worker did, and what it runs on."""
    heads = ["Worker", "#Jobs", "#Share", "#Load", "#Edit", "#Save", "#Busy", "Engine", "Model"]
    with_memory = any(map(_memory, report.workers_seen.values()))
    rows = [
        _worker_row(report, name, share)[: None if with_memory else -1]
        for name, share in sorted(report.workers.items(), key=lambda item: natural(item[0]))
    ]
    if with_memory:
        heads.append("#GPU memory")
    note = tag(
        "p",
        "Load, edit and save are the mean of a job in seconds. Busy is the share of the run that "
        "went into load and edit.",
        class_="hint",
    )
    head = tag("header", tag("h2", "Workers"), class_="head")
    return tag("section", head, table("Workers", heads, rows), note, class_="panel")


def _worker_row(report: Report, name: str, share: WorkerShare) -> list[Html]:
    timings = [
        outcome.timings
        for outcome in report.completed
        if outcome.timings and outcome.status and outcome.status.worker == name
    ]

    def mean(stage: str) -> str:
        return seconds(fmean(getattr(each, stage) for each in timings)) if timings else NONE

    seen = report.workers_seen.get(name, {})
    memory = _memory(seen)
    numbers = [
        *(grouped(share.jobs), f"{share.share_percent:.0f} %"),
        *(mean(stage) for stage in ("load", "edit", "save")),
        f"{share.utilisation_percent:.0f} %",
    ]
    return [
        tag("th", of_a_job(name, 80), scope="row"),
        *(tag("td", each, class_="nr") for each in numbers),
        *(tag("td", of_a_job(str(seen.get(key) or NONE), 80)) for key in ("engine", "model")),
        tag("td", f"{memory / 1024:.0f} GiB" if memory else NONE, class_="nr"),
    ]


def _memory(worker: Mapping[str, Any]) -> float:
    """Return the GPU's MiB, or 0: the server is not trusted to send a number."""
    memory = worker.get("memory_total_mib")
    return memory if isinstance(memory, int | float) else 0


def run(report: Report) -> Html:
    """Return what was run, on what, with which settings."""
    facts = [
        ("Server", shown_url(report.url)),
        ("Instruction", report.prompt),
        ("Jobs", f"{grouped(report.jobs)}, {report.concurrency} at a time"),
        ("Pictures sent", _sizes(report)),
        ("Results", _results(report)),
        *_details(report),
        ("Took", _duration(report.makespan)),
        ("Workers ready", str(len(report.ready))),
        (
            "Parallel efficiency",
            f"{report.parallel_efficiency:.0%} of the workers' time went into edits",
        ),
        (
            "Measured from",
            f"{platform.system()} {platform.machine()}, {counted(os.cpu_count() or 1, 'core')}, "
            f"Python {platform.python_version()}",
        ),
    ]
    rows = (
        tag("div", tag("dt", name), tag("dd", of_a_job(value))) for name, value in facts if value
    )
    head = tag("header", tag("h2", "The run"), class_="head")
    return tag("section", head, tag("dl", *rows, class_="facts"), class_="panel")


def _duration(span: float) -> str:
    return f"{seconds(span)} s" + (f" ({clock(span)})" if span >= 60 else "")


def _sizes(report: Report) -> str:
    return ", ".join("{} × {}".format(*each.size) for each in report.sheet.pictures)


def _results(report: Report) -> str:
    """Return the sizes of the results, the most frequent first."""
    sizes = Counter(
        (each.status.width, each.status.height)
        for each in report.completed
        if each.status and each.status.width
    )
    ordered = [size for size, _ in sizes.most_common()]
    more = f" and {counted(len(ordered) - 4, 'other size')}" if len(ordered) > 4 else ""
    return ", ".join("{} × {}".format(*size) for size in ordered[:4]) + more


def _details(report: Report) -> list[tuple[str, str]]:
    """Return what the engine says of the first edit: its steps, its guidance."""
    first = next((each.status for each in report.completed if each.status), None)
    if first is None:
        return []
    plain = {
        name: value
        for name, value in (first.details or {}).items()
        if isinstance(value, str | int | float) and value != ""
    }
    named = {"steps": first.steps, **plain} if first.steps else plain
    return [
        (name.replace("_", " ").capitalize()[:60], str(value))
        for name, value in list(named.items())[:MAX_DETAILS]
    ]


def shown_url(url: str) -> str:
    """Return a URL without the user and the password that it may hold: reports are passed on."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
