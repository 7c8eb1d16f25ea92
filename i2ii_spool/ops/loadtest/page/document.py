"""The page itself: its parts, put into the template."""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import Any

from i2ii_spool import __version__
from i2ii_spool.ops.loadtest.page import charts, tables
from i2ii_spool.ops.loadtest.page.markup import (
    Html,
    counted,
    grouped,
    join,
    markup,
    of_a_job,
    seconds,
    tag,
)
from i2ii_spool.ops.loadtest.page.timeline import SLOW, Timeline
from i2ii_spool.ops.loadtest.report import Outcome, Report
from i2ii_spool.ops.loadtest.sheet import ContactSheet, Shot, Thumbnail

MAX_FAILURES = 50
MAX_MESSAGE = 600
FEW_A_MINUTE = 60.0
"""Below so many jobs a minute the page counts by the minute, else by the second."""


def page(report: Report) -> str:
    """Return the page of a load test."""
    template = files("i2ii_spool.ops.loadtest").joinpath("page/page.html").read_text("utf-8")
    return Template(template).substitute(
        summary=summary(report),
        notice=notice(report),
        figures=figures(report),
        body=join(panels(report)),
        version=markup(__version__),
    )


def panels(report: Report) -> Iterable[Html]:
    """Yield what there is to show of a run, one panel each."""
    if report.failed:
        yield failures(report)
    if report.makespan:
        yield timeline(report)
    if report.succeeded and report.makespan:
        yield tag("div", latency(report), throughput(report), class_="panels")
    yield tables.workers(report)
    yield tables.run(report)
    if report.sheet.shots:
        yield contact_sheet(report.sheet)


def panel(title: str, *inside: str, note: str = "", class_: str = "panel") -> Html:
    """Return a part of the page under its heading."""
    aside = [tag("p", note, class_="note")] if note else []
    return tag(
        "section", tag("header", tag("h2", title), *aside, class_="head"), *inside, class_=class_
    )


def summary(report: Report) -> Html:
    """Return the line under the title."""
    began = report.began
    iso = began.isoformat("T", "seconds")
    when = tag("time", f"{began.day} {began:%B %Y, %H:%M} UTC{iso[-6:]}", datetime=iso)
    return join(
        (
            when,
            f". {counted(report.jobs, 'job')}, {report.concurrency} at a time, to ",
            tag("span", tables.shown_url(report.url), class_="url"),
        )
    )


def notice(report: Report) -> Html:
    """Return what must be known before the figures are read."""
    said = []
    if report.stopped:
        ended = counted(len(report.outcomes), "job")
        said.append(
            f"Stopped by Ctrl-C: {ended} of {grouped(report.jobs)} had ended. "
            "The figures are of those."
        )
    if not report.succeeded:
        said.append("No job has completed, so there is no latency and no throughput.")
    return join(tag("p", text, class_="notice") for text in said)


def rate(report: Report) -> tuple[float, str]:
    """Return by what to multiply jobs a second, and the unit of that."""
    if report.throughput * 60 < FEW_A_MINUTE:
        return 60.0, "jobs a minute"
    return 1.0, "jobs a second"


def figures(report: Report) -> Html:
    """Return the five figures of the run."""
    factor, unit = rate(report)
    latency = report.latency

    def figure(name: str, value: str, unit: str = "", class_: str | None = None) -> Html:
        small = [tag("small", f" {unit}")] if unit and value != "–" else []
        return tag("div", tag("dt", name), tag("dd", value, *small), class_=class_)

    def of_latency(name: str) -> str:
        return seconds(latency[name]) if latency else "–"

    return tag(
        "dl",
        figure("Throughput", seconds(report.throughput * factor) if latency else "–", unit),
        figure("Median", of_latency("p50"), "s"),
        figure("99th percentile", of_latency("p99"), "s"),
        figure("Completed", grouped(report.succeeded), f"of {grouped(report.jobs)}"),
        figure("Failed", grouped(report.failed), class_="bad" if report.failed else None),
        class_="figures",
    )


def timeline(report: Report) -> Html:
    """Return the lanes of the workers, with what the colours mean."""
    drawn = Timeline(report)
    means = report.means
    names = {"queue": "wait", "load": "load", "edit": "edit", "save": "save"}
    keys = [
        key(names[stage], names[stage], f"{seconds(value)} s") for stage, value in means.items()
    ]
    if drawn.has_slow:
        keys.append(key("slow", f"edit over {SLOW:g} × the median"))
    if report.failed:
        keys.append(key("failed", "failed"))
    legend = tag("ul", *keys, class_="legend")
    said = "Columns show how much of the time a worker was busy."
    hint = [] if drawn.has_bars else [tag("p", said, class_="hint")]
    note = "seconds of a job in the mean" if means else ""
    return panel("Jobs per worker", legend, drawn.to_html(), *hint, note=note)


def key(class_: str, name: str, value: str = "") -> Html:
    """Return one entry of a legend."""
    inside = [" ", tag("b", value)] if value else []
    return tag("li", tag("i", class_=f"key {class_}", aria_hidden="true"), name, *inside)


def latency(report: Report) -> Html:
    """Return the distribution of the latency."""
    marks = {name: report.latency[name] for name in ("p50", "p99")}
    names = {"p50": "median", "p99": "99th percentile"}
    keys = [key(f"mark {name}", names[name], f"{seconds(at)} s") for name, at in marks.items()]
    chart, note = charts.latency_chart([each.seconds for each in report.completed], marks)
    return panel("Submit to result", tag("ul", *keys, class_="legend"), chart, note=note)


def throughput(report: Report) -> Html:
    """Return how many jobs completed over time."""
    factor, unit = rate(report)
    began = min(outcome.started for outcome in report.outcomes)
    ends = [outcome.ended - began for outcome in report.completed]
    mean = key("mean", "mean", f"{seconds(report.throughput * factor)}")
    chart = charts.throughput_chart(ends, report.makespan, factor, unit)
    return panel("Throughput over time", tag("ul", mean, class_="legend"), chart, note=unit)


def failures(report: Report) -> Html:
    """List the failures, those of one code and message together."""
    alike: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in report.outcomes:
        if outcome.error is not None:
            alike[outcome.error, outcome.message].append(outcome)
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    rows = [
        tag(
            "li",
            tag("b", f"{grouped(len(outcomes))} ×"),
            tag("code", of_a_job(code, 80)),
            tag("p", of_a_job(message, MAX_MESSAGE)),
            tag("code", _example(outcomes), class_="example"),
        )
        for (code, message), outcomes in ordered[:MAX_FAILURES]
    ]
    left = len(ordered) - MAX_FAILURES
    more = [tag("p", f"And {counted(left, 'other message')}.", class_="hint")] if left > 0 else []
    note = "with the first job of each"
    return panel("Failures", tag("ul", *rows), *more, note=note, class_="panel failures")


def _example(outcomes: Iterable[Outcome]) -> Html:
    ids = (outcome.status.request_id for outcome in outcomes if outcome.status)
    return of_a_job(next(ids, "not submitted"), 80)


def contact_sheet(sheet: ContactSheet) -> Html:
    """Return each picture that was sent, with results of it."""
    groups = []
    for at, sent in enumerate(sheet.pictures):
        results = [shot for shot in sheet.shots if shot.picture == at]
        if results:
            tiles = (sent_tile(at, sent), *map(result_tile, results))
            ratio = max(4 / 3, sent.size[0] / sent.size[1])
            groups.append(tag("ul", *tiles, class_="contact", style=f"--ratio:{ratio:.3f}"))
    return panel("Contact sheet", *groups, note="what was sent, and some of the results")


def sent_tile(at: int, sent: Thumbnail) -> Html:
    """Return a picture that was sent."""
    size = "{} × {}".format(*sent.size)
    return tile(sent, f"picture {at + 1} as it was sent", "sent", size, class_="sent")


def result_tile(shot: Shot) -> Html:
    """Return the result of a job."""
    name = f"job {grouped(shot.job + 1)}"
    return tile(shot.thumbnail, f"result of {name}", name, f"{seconds(shot.seconds)} s")


def tile(picture: Thumbnail, alt: str, name: str, note: str, **attributes: Any) -> Html:
    """Return a thumbnail with its caption."""
    image = tag(
        "img",
        src=f"data:image/webp;base64,{b64encode(picture.webp).decode()}",
        alt=alt,
        width=picture.size[0],
        height=picture.size[1],
    )
    caption = tag("figcaption", tag("b", name), " ", tag("span", note))
    return tag("li", tag("figure", image, caption), **attributes)
