"""Accuracy against latency as a chart; matplotlib is imported when one is drawn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.benchmarks.literature.file import PUBLISHED
from segdeploy.benchmarks.peers.contenders import Group
from segdeploy.benchmarks.report.label_places import Box, facing_side, free_place
from segdeploy.benchmarks.report.tables import figure
from segdeploy.calibration.files import atomic_writer

if TYPE_CHECKING:  # an optional package
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase

STYLES = {
    Group.PYTORCH.value: ("#000000", "s"),
    Group.ONNXRUNTIME.value: ("#0072B2", "o"),
    Group.OPENVINO.value: ("#009E73", "^"),
    Group.NNCF.value: ("#E69F00", "D"),
    Group.OURS.value: ("#D55E00", "*"),
}
"""Colour and marker of each group: Okabe and Ito's palette, and a shape where colour is lost."""

SIZE_INCHES = (11.0, 5.2)
RESOLUTION = 150
MARKER_AREA, STAR_AREA, MARKER_HALF = 60.0, 190.0, 6.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """One contender in the chart; ``number`` counts from the fastest."""

    number: int
    name: str
    group: str
    latency_ms: float
    iou: float

    @property
    def key(self) -> str:
        """Its line in the key."""
        latency, iou = figure(self.latency_ms, "rate"), figure(self.iou, "percent")
        return f"{self.number}  {self.name}: {latency} ms, {iou} %"


def missing() -> str | None:
    """Why no chart can be drawn here."""
    if importlib.util.find_spec("matplotlib") is None:
        return "matplotlib is not installed; pip install matplotlib"
    return None


def points_of(result: dict[str, Any]) -> list[Point]:
    """Every contender with an accuracy and a latency, the fastest first."""
    rows = [
        (row["settings"]["latency"]["p50_ms"], row)
        for row in result["rows"]
        if row["iou"] is not None and row["settings"]["latency"] is not None
    ]
    return [
        Point(
            number=number,
            name=row["name"],
            group=row["group"],
            latency_ms=latency_ms,
            iou=row["iou"],
        )
        for number, (latency_ms, row) in enumerate(
            sorted(rows, key=lambda found: float(found[0])), start=1
        )
    ]


def write_chart(result: dict[str, Any], path: Path) -> None:
    """Draw ``peers_speed.json`` and write it with the suffixes ``.svg`` and ``.png``.

    Raises:
        OSError: the folder cannot be written.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "segdeploy", "font.size": 10}):
        chart, _ = draw(result)
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with atomic_writer(path.with_name(f"{path.name}.{kind}")) as stream:
                chart.savefig(stream, format=kind, dpi=RESOLUTION, metadata=metadata)


def draw(result: dict[str, Any]) -> tuple[Figure, list[Annotation]]:
    """The chart and the numbers beside its points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = points_of(result)
    chart = Figure(figsize=SIZE_INCHES, dpi=RESOLUTION, layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.add_subplot()
    for point in points:
        colour, marker = STYLES[point.group]
        axes.scatter(
            point.latency_ms,
            point.iou,
            s=STAR_AREA if point.group == Group.OURS.value else MARKER_AREA,
            color=colour,
            marker=marker,
            alpha=0.8,
            linewidths=0,
            label=point.key,
            zorder=3,
        )
    _frame(axes, points)
    chart.suptitle(_title(result), x=0.01, horizontalalignment="left", fontsize=11)
    key = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    for point, text in zip(points, key.get_texts(), strict=True):
        if point.group == Group.OURS.value:
            text.set_fontweight("bold")
    chart.draw_without_rendering()
    chart.set_layout_engine("none")  # the numbers are placed in the layout that was just made
    return chart, _place(axes, points)


def _frame(axes: Axes, points: Sequence[Point]) -> None:
    """Logarithmic time, room for numbers around the points, ticks in plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    times = [point.latency_ms for point in points]
    ious = [point.iou for point in points]
    axes.set_xscale("log")
    axes.set_xlim(min(times) / 1.25, max(times) * 1.25)
    room = max(0.2 * (max(ious) - min(ious)), 0.05)
    axes.set_ylim(min(ious) - room, max(ious) + room)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency of one image, median, ms (left is faster)")
    axes.set_ylabel("IoU, % (up is better)")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _title(result: dict[str, Any]) -> str:
    machine = result["environment"]
    arch = result["model"]["arch"]
    network = PUBLISHED[arch].network if arch in PUBLISHED else arch
    size = "x".join(map(str, result["model"]["size"]))
    isa = ", ".join(machine["isa"]) or "instruction sets unknown"
    return (
        f"{network} {size}, batch 1: accuracy against latency\n"
        f"{machine['cpu']}, {result['threads']} threads ({isa})"
    )


def _place(axes: Axes, points: Sequence[Point]) -> list[Annotation]:
    """Put each number as near to its point as the others allow."""
    from matplotlib.text import Text

    pixels = RESOLUTION / 72
    inside = _box_of(axes.bbox)
    centres = {point: _pixel(axes, point) for point in points}
    half = MARKER_HALF * pixels
    taken = [(x - half, y - half, x + half, y + half) for x, y in centres.values()]
    labels = []
    for point in points:
        label = axes.annotate(
            str(point.number),
            (point.latency_ms, point.iou),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=9,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkB": 4},
            zorder=2,
        )
        # An annotation's own extent would include its line.
        left, low, right, high = _box_of(Text.get_window_extent(label))
        size = (right - left, high - low)
        offset, box = free_place(centres[point], size, taken, inside, unit=pixels)
        label.set_position(offset)
        label.set_horizontalalignment(facing_side(offset[0]))
        taken.append(box)
        labels.append(label)
    return labels


def _pixel(axes: Axes, point: Point) -> tuple[float, float]:
    x, y = axes.transData.transform((point.latency_ms, point.iou))
    return float(x), float(y)


def _box_of(found: BboxBase) -> Box:
    return float(found.x0), float(found.y0), float(found.x1), float(found.y1)
