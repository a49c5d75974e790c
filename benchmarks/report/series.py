"""Candidates as numbered series: the same number, colour and marker in each chart."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.chart_svg import ONNXRUNTIME, OPENVINO, OTHER, PYTORCH
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import compared_rows, is_recommended, timed_rows
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.deploy.onnx_model.artifact import Precision

MARKERS = {Precision.FP32: "o", Precision.FP16: "s", Precision.BF16: "D", Precision.INT8: "^"}
SIGNS = {"o": "\u25cf", "s": "\u25a0", "D": "\u25c6", "^": "\u25b2"}
"""The markers as characters, for a key in words."""

CLASSES = {PYTORCH: "s0", ONNXRUNTIME: "s1", OPENVINO: "s2", OTHER: "s3"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One candidate.

    Attributes:
        number: from the fastest, from 1.
        name: of its rows.
        colour: of its runtime.
        marker: of the precision of its file.
        chosen: whether it is the recommended one.
    """

    number: int
    name: str
    colour: str
    marker: str
    chosen: bool

    @property
    def sign(self) -> str:
        """The marker as a character."""
        return SIGNS[self.marker]

    @property
    def css(self) -> str:
        """Class of its colour on the page."""
        return CLASSES[self.colour]


def series_of(report: Report) -> list[Series]:
    """Every candidate that was timed, the fastest first."""
    rows = timed_rows(report.benchmark)
    first: dict[str, BenchmarkRow] = {}
    for row in sorted(rows, key=lambda row: (row.batch, -row.rate)):
        first.setdefault(row.name, row)
    return [
        Series(
            number=number,
            name=name,
            colour=_colour(row.runtime),
            marker=MARKERS[row.precision_requested],
            chosen=is_recommended(row, report),
        )
        for number, (name, row) in enumerate(first.items(), start=1)
    ]


def scored(report: Report) -> dict[str, ParityRow]:
    """The measured rows of parity by name."""
    return {shown.row.name: shown.row for shown in compared_rows(report.parity)}


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Every sample of a candidate, in seconds, and what they say, in milliseconds."""

    latencies_s: tuple[float, ...]
    p50_ms: float
    p99_ms: float


def latency_rows(report: Report) -> dict[str, Latencies]:
    """By name, the latencies at the smallest batch that has some."""
    found: dict[str, Latencies] = {}
    for row in sorted(timed_rows(report.benchmark), key=lambda row: row.batch):
        if row.latencies_s and row.p50_ms is not None and row.p99_ms is not None:
            times = Latencies(latencies_s=row.latencies_s, p50_ms=row.p50_ms, p99_ms=row.p99_ms)
            found.setdefault(row.name, times)
    return found


def _colour(runtime: str) -> str:
    if runtime.startswith("onnxruntime"):
        return ONNXRUNTIME
    return {"pytorch": PYTORCH, "openvino": OPENVINO}.get(runtime, OTHER)
