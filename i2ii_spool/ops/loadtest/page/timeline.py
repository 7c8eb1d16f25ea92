"""The timeline of the page: who did what when, on one axis of seconds since the first submit.

The client's clock starts and ends a run; the stages of a job are those of the server and of its
worker. Their clocks are laid on the client's by the submit that took the least time.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from i2ii_spool.jobs.records import Timings
from i2ii_spool.ops.loadtest.page import charts
from i2ii_spool.ops.loadtest.page.charts import WIDTH, number, path
from i2ii_spool.ops.loadtest.page.markup import Html, counted, natural, seconds, tag
from i2ii_spool.ops.loadtest.report import Outcome, Report

MAX_BARS = 150
"""A worker with more jobs shows columns of what share of the time it was busy: a bar of each job
would be thinner than a pixel, and the file large."""
COLUMNS = 250
SLOW = 2.0
"""An edit that takes so many times the median is marked."""
HEIGHT = 28
BAR = (2.0, 17.0)
"""The upper edge and the height of the bars of load and edit; the save is a thin one below."""
SAVE = (21.0, 5.0)
NO_WORKER = "no worker"

Span = tuple[float, float]
"""A start and an end, in seconds since the first submit."""


@dataclass(frozen=True)
class Stages:
    """When a job was where."""

    id: str
    timings: Timings
    waited: Span
    load: Span
    edit: Span
    save: Span


class Timeline:
    """The jobs of a report on one axis."""

    def __init__(self, report: Report) -> None:
        self.span = report.makespan
        self._began = min(outcome.started for outcome in report.outcomes)
        self._ahead = min(
            (
                outcome.status.submitted_at.timestamp() - outcome.started
                for outcome in report.outcomes
                if outcome.status and outcome.status.submitted_at
            ),
            default=0.0,
        )
        self.lanes: dict[str, list[Stages]] = {name: [] for name in report.ready}
        self.failures: dict[str, list[float]] = defaultdict(list)
        for outcome in report.outcomes:
            self._place(outcome)
        names = self.lanes.keys() | self.failures.keys()
        self.names = sorted(names, key=lambda name: (name == NO_WORKER, natural(name)))

    def _place(self, outcome: Outcome) -> None:
        status = outcome.status
        worker = (status and status.worker) or NO_WORKER
        if not outcome.succeeded:
            self.failures[worker].append(self._since_begin(outcome.ended))
        elif status and status.timings and status.submitted_at and status.completed_at:
            submitted, saved = (
                self._since_begin(at.timestamp() - self._ahead)
                for at in (status.submitted_at, status.completed_at)
            )
            stages = staged(status.request_id, status.timings, submitted, saved)
            self.lanes.setdefault(worker, []).append(stages)

    def _since_begin(self, at: float) -> float:
        return at - self._began

    @property
    def _all(self) -> list[Stages]:
        return [stages for lane in self.lanes.values() for stages in lane]

    @property
    def slow_seconds(self) -> float:
        """Seconds of edit above which a job is marked."""
        return SLOW * median(_length(stages.edit) for stages in self._all) if self._all else 0.0

    @property
    def has_bars(self) -> bool:
        """Whether each job has a bar."""
        return all(len(lane) <= MAX_BARS for lane in self.lanes.values())

    @property
    def has_slow(self) -> bool:
        """Whether a job is marked as slow."""
        return self.has_bars and any(
            _length(stages.edit) > self.slow_seconds for stages in self._all
        )

    def to_html(self) -> Html:
        """Draw it: the queue, and a lane for each worker."""
        names = shortened(self.names)
        lanes = [self._lane(name, names[name]) for name in self.names]
        return tag(
            "div",
            *([self._queue()] if self._all else []),
            *lanes,
            tag("div", tag("span"), charts.time_axis(self.span), class_="lane", aria_hidden="true"),
            class_="lanes",
        )

    def _queue(self) -> Html:
        waiting = self.shares([stages.waited for stages in self._all])
        most = max(waiting)
        heights = [each / max(most, 1.0) * (HEIGHT - 2) for each in waiting]
        chart = charts.svg(
            f"Jobs in the queue over time, at most {most:.0f}",
            HEIGHT,
            charts.grid(charts.ticks(self.span), self.span, HEIGHT),
            path(charts.columns(heights, base=HEIGHT), "wait"),
            path(charts.steps(heights, base=HEIGHT), "wait-edge"),
        )
        return lane("queue", f"max {most:.0f}", chart)

    def _lane(self, name: str, short: str) -> Html:
        jobs, failed = self.lanes.get(name, []), self.failures.get(name, [])
        done = counted(len(jobs), "job")
        label = f"{name}: {done}" + (f", {len(failed)} failed" if failed else "")
        bars = self._bars(jobs) if self.has_bars else self._columns(jobs)
        chart = charts.svg(
            label,
            HEIGHT,
            charts.grid(charts.ticks(self.span), self.span, HEIGHT),
            *bars,
            path("".join(f"M{each} 0v{HEIGHT}" for each in self._marks(failed)), "failed"),
        )
        return lane(short, str(len(failed) if name == NO_WORKER else len(jobs)), chart)

    def _marks(self, failed: Sequence[float]) -> list[int]:
        return sorted({round(min(at, self.span) / self.span * WIDTH) for at in failed})

    def _bars(self, jobs: Iterable[Stages]) -> list[Html]:
        slow = self.slow_seconds
        return [
            tag(
                "g",
                tag("title", described(stages)),
                self._bar(stages.load, BAR, "load"),
                self._bar(stages.edit, BAR, "slow" if _length(stages.edit) > slow else "edit"),
                self._bar(stages.save, SAVE, "save"),
            )
            for stages in jobs
        ]

    def _bar(self, span: Span, place: tuple[float, float], class_: str) -> Html:
        start, end = (min(max(at, 0.0), self.span) / self.span * WIDTH for at in span)
        top, height = place
        if end - start < 0.05:
            return Html()
        return tag(
            "rect",
            x=number(start),
            y=number(top),
            width=number(max(end - start, 0.1)),
            height=number(height),
            class_=class_,
        )

    def _columns(self, jobs: Sequence[Stages]) -> list[Html]:
        """Draw what share of each slice of the time a worker loaded, edited and saved."""
        base = sum(BAR)
        load = [share * BAR[1] for share in self.shares([stages.load for stages in jobs])]
        edit = [share * BAR[1] for share in self.shares([stages.edit for stages in jobs])]
        save = [share * SAVE[1] for share in self.shares([stages.save for stages in jobs])]
        both = [min(BAR[1], sum(each)) for each in zip(load, edit, strict=True)]
        return [
            path(charts.columns(both, base=base), "load"),
            path(charts.columns([min(BAR[1], each) for each in edit], base=base), "edit"),
            path(charts.columns([min(SAVE[1], each) for each in save], base=sum(SAVE)), "save"),
        ]

    def shares(self, spans: Iterable[Span]) -> list[float]:
        """Return for each slice of the run how many of the spans cover it, in the mean."""
        shares = [0.0] * COLUMNS
        slice_ = self.span / COLUMNS
        # Only the slices at both ends are covered in part; between them, count starts and ends.
        change = [0] * (COLUMNS + 1)
        for start, end in spans:
            first, last = (min(max(at / slice_, 0.0), COLUMNS) for at in (start, end))
            a, b = min(int(first), COLUMNS - 1), min(int(last), COLUMNS - 1)
            shares[a] -= first - a
            shares[b] -= b + 1 - last
            change[a] += 1
            change[b + 1] -= 1
        covering = 0
        for at in range(COLUMNS):
            covering += change[at]
            shares[at] = max(0.0, round(shares[at] + covering, 6))
        return shares


def lane(name: str, note: str, chart: Html) -> Html:
    """Return one row of the timeline."""
    label = tag("div", tag("b", name), tag("span", note), class_="who", aria_hidden="true")
    return tag("div", label, chart, class_="lane")


def staged(id: str, timings: Timings, submitted: float, saved: float) -> Stages:
    """Return when a job was where: a save may wait for the one before it."""
    claimed = submitted + timings.queue
    loaded = claimed + timings.load
    return Stages(
        id,
        timings,
        waited=(submitted, claimed),
        load=(claimed, loaded),
        edit=(loaded, loaded + timings.edit),
        save=(saved - timings.save, saved),
    )


def described(stages: Stages) -> str:
    """Say what became of a job."""
    timings = stages.timings
    return (
        f"{stages.id}: waited {seconds(timings.queue)} s, load {seconds(timings.load)} s, "
        f"edit {seconds(timings.edit)} s, save {seconds(timings.save)} s"
    )


def shortened(names: Sequence[str]) -> dict[str, str]:
    """Return the names without the host, if all are of the same one."""
    hosts = {name.partition(".")[0] for name in names if name != NO_WORKER}
    return {name: (name.partition(".")[2] or name) if len(hosts) == 1 else name for name in names}


def _length(span: Span) -> float:
    return span[1] - span[0]
