"""Charts of speed: accuracy against latency, every sample of a latency, and the batch sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segdeploy.benchmarks.report.chart_svg import (
    ACCENT,
    FAIL,
    FONT_SIZE,
    HALF_INCHES,
    PAPER,
    SOFT,
    both,
)
from segdeploy.benchmarks.report.label_places import Box, facing_side, free_place
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import timed_rows
from segdeploy.benchmarks.report.series import Series, latency_rows, scored, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOGARITHMIC_FROM = 5.0
"""Largest over smallest value from which an axis is logarithmic."""

SAMPLES = 400
"""Samples drawn of a row; of more, as many of their quantiles."""


def accuracy_latency(report: Report) -> str | None:
    """IoU against the median latency, with the interval of its change; ``None`` without both."""
    rows, scores = latency_rows(report), scored(report)
    shown = [one for one in series_of(report) if one.name in rows and one.name in scores]
    if len(shown) < 2:
        return None
    places = [(rows[one.name].p50_ms, scores[one.name].iou) for one in shown]
    parity = report.parity
    reference = scores.get(parity.reference) if parity else None
    base = reference.iou if reference else None
    budget = None if base is None or not parity else base - parity.max_drop_percentage_points

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for one, (latency, iou) in zip(shown, places, strict=True):
            ends = scores[one.name].ci95_percentage_points
            if ends and base is not None:
                axes.plot([latency] * 2, [base + end for end in ends], color=one.colour, lw=1.2)
            if one.chosen:
                axes.plot(latency, iou, "o", ms=13, mfc="none", mec=ACCENT, mew=1.3)
            axes.plot(latency, iou, one.marker, color=one.colour, mec=PAPER, mew=0.8, ms=7.5)
        if budget is not None:
            axes.axhline(budget, color=FAIL, lw=1.1, ls=(0, (4, 3)))
        _time_axis(axes, [latency for latency, _ in places], "median latency, ms")
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.04 * (high - low), high + 0.12 * (high - low))
        axes.set_ylabel(f"{parity.score.shown if parity else 'IoU'}, %")
        axes.grid(axis="both")
        bars = [
            (latency, base + ends[0], base + ends[1])
            for one, (latency, _) in zip(shown, places, strict=True)
            if base is not None and (ends := scores[one.name].ci95_percentage_points)
        ]
        _number(figure, axes, list(zip(shown, places, strict=True)), bars)

    label = "Accuracy against latency of each candidate; the figures stand in the tables."
    return both(draw, key="accuracy-latency", label=label, height=3.1)


def latency_distribution(report: Report) -> str | None:
    """Every sample of the latency at the smallest batch; ``None`` without any."""
    rows = latency_rows(report)
    shown = [one for one in series_of(report) if one.name in rows]
    if not shown:
        return None

    def draw(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        everything: list[float] = []
        for place, one in enumerate(shown):
            row = rows[one.name]
            samples = [1e3 * sample for sample in _thinned(row.latencies_s)]
            everything += samples
            _rug(axes, samples, place, 0.12, color=one.colour, lw=0.8, alpha=0.45)
            _rug(axes, [row.p50_ms], place, 0.21, color=one.colour, lw=2.6)
            _rug(axes, [row.p99_ms], place, 0.21, color=one.colour, lw=1.1)
            axes.text(
                0.0,
                place - 0.42,
                f"{one.number}  {one.name}",
                transform=axes.get_yaxis_transform(),
                verticalalignment="center",
                color=SOFT,
                fontsize=FONT_SIZE - 0.5,
            )
        _time_axis(axes, everything, "milliseconds")
        axes.set_ylim(len(shown) - 0.6, -0.7)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")

    label = "Samples of the latency of each candidate with median and 99th percentile."
    return both(draw, key="latency", label=label, height=0.6 + 0.46 * len(shown), wide=HALF_INCHES)


def batch_sweep(report: Report) -> str | None:
    """Images a second against the batch; ``None`` where one batch was measured."""
    curves: dict[str, dict[int, float]] = {}
    for row in timed_rows(report.benchmark):
        best = curves.setdefault(row.name, {})
        best[row.batch] = max(best.get(row.batch, 0.0), row.rate)
    shown = [one for one in series_of(report) if len(curves[one.name]) > 1]
    batches = sorted({batch for one in shown for batch in curves[one.name]})
    if not shown:
        return None

    def draw(figure: Figure, narrow: bool) -> None:
        from matplotlib.ticker import FixedLocator, NullLocator

        axes = figure.add_subplot()
        for one in shown:
            points = sorted(curves[one.name].items())
            axes.plot(
                [batch for batch, _ in points],
                [rate for _, rate in points],
                marker=one.marker,
                color=one.colour,
                mec=PAPER,
                mew=0.8,
                ms=6.5,
                lw=2.0 if one.chosen else 1.2,
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(batches))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlim(batches[0] / 1.12, batches[-1] * (1.55 if narrow else 1.28))
        axes.set_ylim(0, None)
        axes.set_xlabel("batch, images a call")
        axes.set_ylabel("images a second")
        axes.grid(axis="both")
        _number_ends(figure, axes, [(one, sorted(curves[one.name].items())[-1]) for one in shown])

    label = "Images a second of each candidate against the batch."
    return both(draw, key="sweep", label=label, height=3.0, wide=HALF_INCHES)


def _thinned(samples: Sequence[float]) -> Sequence[float]:
    if len(samples) <= SAMPLES:
        return samples
    found: list[float] = np.quantile(samples, np.linspace(0, 1, SAMPLES)).tolist()
    return found


def _rug(axes: Axes, values: Sequence[float], place: float, half: float, **style: Any) -> None:
    """A vertical tick at each value, as one path."""
    x = [part for value in values for part in (value, value, None)]
    y = [part for _ in values for part in (place - half, place + half, None)]
    axes.plot(
        np.array(x, dtype=np.float64), np.array(y, dtype=np.float64), solid_capstyle="butt", **style
    )


def _time_axis(axes: Axes, times: Sequence[float], label: str) -> None:
    """Logarithmic where it must be, from 0 where it can, ticks in plain numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    low, high = min(times), max(times)
    if high > LOGARITHMIC_FROM * low > 0:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.25, high * 1.25)
        few = high > 20 * low
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 3) if few else (1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, high * 1.08)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(label)


def _number(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[Series, tuple[float, float]]],
    bars: Sequence[tuple[float, float, float]],
) -> None:
    """Put each number as near to its point as the others and the bars (x, low, high) allow."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the numbers are placed in the layout that was just made
    unit = figure.dpi / 72
    inside = _box(axes.bbox)
    centres = [axes.transData.transform(place) for _, place in points]
    taken = [(x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit) for x, y in centres]
    for x, low, high in bars:
        (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
        taken.append((left - unit, bottom, left + unit, top))
    for (one, place), centre in zip(points, centres, strict=True):
        size = (6.0 * unit * len(str(one.number)), 8.0 * unit)
        offset, box = free_place((centre[0], centre[1]), size, taken, inside, unit=unit)
        taken.append(box)
        axes.annotate(
            str(one.number),
            place,
            xytext=offset,
            textcoords="offset points",
            ha=facing_side(offset[0]),
            va="center",
            weight="bold" if one.chosen else "normal",
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkB": 4},
        )


def _number_ends(
    figure: Figure, axes: Axes, ends: Sequence[tuple[Series, tuple[int, float]]]
) -> None:
    """Put the numbers behind the right ends of curves, apart from each other, lowest first."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    step = 1.25 * FONT_SIZE * figure.dpi / 72
    last = -np.inf
    for one, (batch, rate) in sorted(ends, key=lambda end: end[1][1]):
        _, y = axes.transData.transform((batch, rate))
        last = max(y, last + step)
        axes.annotate(
            f"{one.number}",
            (batch, rate),
            xytext=(14, (last - y) * 72 / figure.dpi),
            textcoords="offset points",
            va="center",
            weight="bold" if one.chosen else "normal",
            arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkB": 4},
        )


def _box(found: Any) -> Box:
    return float(found.x0), float(found.y0), float(found.x1), float(found.y1)
