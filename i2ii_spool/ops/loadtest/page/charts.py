"""The charts of the page, as SVG. They are stretched to the width: their words are HTML."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from i2ii_spool.ops.loadtest.page.markup import (
    Html,
    clock,
    counted,
    join,
    nice,
    nice_seconds,
    seconds,
    tag,
)

WIDTH = 1000
"""Units from the left to the right of every chart."""
TICKS = 8
BINS = 24
LABELS = 6
MAX_WINDOWS = 60


def svg(label: str, height: int, *shapes: Html, class_: str = "chart") -> Html:
    """Return a chart. `label` says what it shows, to those who do not see it."""
    box = f"0 0 {WIDTH} {height}"
    return tag(
        "svg",
        *shapes,
        viewBox=box,
        preserveAspectRatio="none",
        class_=class_,
        role="img",
        aria_label=label,
    )


def path(points: str, class_: str) -> Html:
    """Return a path, or nothing for one without points."""
    return tag("path", d=points, class_=class_) if points else Html()


def number(value: float) -> str:
    """Return a coordinate, short."""
    return f"{value:.1f}".removesuffix(".0")


def columns(heights: Sequence[float], *, base: float, gap: float = 0.0) -> str:
    """Return the path of columns of equal widths over the whole chart, standing on `base`."""
    step = WIDTH / len(heights)
    return "".join(
        f"M{number(at * step + gap / 2)} {number(base)}v{number(-height)}h{number(step - gap)}"
        f"v{number(height)}z"
        for at, height in enumerate(heights)
        if height > 0
    )


def steps(heights: Sequence[float], *, base: float) -> str:
    """Return the path of the upper edge of such columns, without those of height 0 at the end."""
    step = WIDTH / len(heights)
    edge = [f"M0 {number(base - heights[0])}h{number(step)}"]
    for before, height in pairwise(heights):
        edge.append(
            f"v{number(before - height)}h{number(step)}" if before != height else f"h{number(step)}"
        )
    return "".join(edge)


def ticks(span: float) -> list[float]:
    """Return the times that the axis of a run of `span` seconds marks."""
    step = nice_seconds(span / TICKS)
    return [at * step for at in range(int(span / step) + 1)]


def grid(at: Iterable[float], span: float, height: float) -> Html:
    """Return upright lines at these values of `span`."""
    lines = "".join(f"M{number(each / span * WIDTH)} 0v{number(height)}" for each in at)
    return path(lines, "grid")


def axis(labels: Iterable[tuple[float, str]]) -> Html:
    """Return the words under a chart, each at its share of the width, 0 to 1."""
    return tag(
        "div",
        *(
            tag("span", text, style=f"--at:{at * 100:.2f}%", class_=_edge(at))
            for at, text in labels
        ),
        class_="axis",
        aria_hidden="true",
    )


def _edge(at: float) -> str | None:
    return "first" if at < 0.02 else "last" if at > 0.97 else None


def time_axis(span: float) -> Html:
    """Return the axis of a run of `span` seconds."""
    marks = ticks(span)
    step = marks[1] if len(marks) > 1 else span
    places = _places(step)

    def label(at: float) -> str:
        return clock(at) if span >= 60 else f"{at:.{places}f} s"

    return axis((at / span, label(at)) for at in marks)


def _places(step: float) -> int:
    """Return the decimals that tell multiples of `step` apart."""
    return max(0, -math.floor(math.log10(step)))


def latency_chart(latencies: Sequence[float], marks: dict[str, float]) -> tuple[Html, str]:
    """Return the distribution of latencies in seconds, with a line for each of `marks`; and its
    scale in words."""
    low, high = min(latencies), max(latencies)
    step = nice(max(high - low, high / 100, 0.001) / BINS)
    first = int(low / step)
    count = max(int(high / step) - first + 1, 4)
    bins = [0] * count
    for each in latencies:
        bins[min(count - 1, int(each / step) - first)] += 1
    most, width = max(bins), count * step

    def share(value: float) -> float:
        return min(1.0, (value - first * step) / width)

    named = ", ".join(f"{name} {seconds(value)} s" for name, value in marks.items())
    chart = svg(
        f"Distribution of the latency: {seconds(low)} to {seconds(high)} s, {named}",
        120,
        path(columns([each / most * 112 for each in bins], base=120, gap=2), "edit"),
        *(
            path(f"M{number(share(value) * WIDTH)} 0v120", f"mark {name}")
            for name, value in marks.items()
        ),
        class_="chart tall",
    )
    scale = f"at most {counted(most, 'job')} per {step:.10g} s"
    return join((chart, axis(_latency_labels(first * step, width)))), scale


def _latency_labels(low: float, width: float) -> list[tuple[float, str]]:
    """Return round latencies between `low` and `low + width`, each with its share of the way."""
    step = nice(width / LABELS)
    places = _places(step)
    first = math.ceil(low / step - 1e-9)
    marked = [at * step for at in range(first, int((low + width) / step + 1e-9) + 1)]
    return [((at - low) / width, f"{at:.{places}f} s") for at in marked]


def round_top(value: float) -> float:
    """Return the end of a scale that shows `value`: of few digits, and at most a third above it."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        each * power for each in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if each * power >= value
    )


def throughput_chart(ends: Sequence[float], span: float, factor: float, unit: str) -> Html:
    """Return how many jobs ended over time, `factor` times those of a second, and their mean.

    `ends` are seconds from the start of the run, which took `span`.
    """
    count = min(MAX_WINDOWS, max(6, len(ends) // 4))
    window = span / count
    rates = [0.0] * count
    for end in ends:
        rates[min(count - 1, int(end / window))] += factor / window
    top = round_top(max(rates))
    mean = len(ends) / span * factor
    heights = [rate / top * 112 for rate in rates]
    chart = svg(
        f"Throughput over time in windows of {seconds(window)} s: at most {seconds(max(rates))} "
        f"and in the mean {seconds(mean)} {unit}",
        120,
        grid(ticks(span), span, 120),
        path(f"M0 8h{WIDTH}", "grid"),
        path(columns(heights, base=120), "area"),
        path(steps(heights, base=120), "curve"),
        path(f"M0 {number(120 - mean / top * 112)}h{WIDTH}", "mean"),
        class_="chart tall",
    )
    scale = tag("span", f"{top:.10g}", class_="scale", aria_hidden="true")
    return join((tag("div", scale, chart, class_="plot"), time_axis(span)))
