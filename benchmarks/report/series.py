"""Candidates as numbered series: the same number, colour and marker in each chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segdeploy.benchmarks.report.chart_svg import ONNXRUNTIME, OPENVINO, OTHER, PYTORCH
from segdeploy.benchmarks.report.rows import section_rows, timed_rows

MARKERS = {"fp32": "o", "fp16": "s", "bf16": "D", "int8": "^"}
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


def series_of(report: dict[str, Any]) -> list[Series]:
    """Every candidate that was timed, the fastest first."""
    rows = timed_rows(report)
    first: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["batch"], -row["images_per_s"])):
        first.setdefault(row["name"], row)
    chosen = report["recommendation"]
    return [
        Series(
            number=number,
            name=name,
            colour=_colour(row["runtime"]),
            marker=MARKERS.get(row["precision_requested"], "o"),
            chosen=bool(chosen)
            and (row["file"], row["runtime"]) == (chosen["file"], chosen["runtime"]),
        )
        for number, (name, row) in enumerate(first.items(), start=1)
    ]


def scored(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The measured rows of parity by name."""
    rows = section_rows(report, "parity")
    return {row["name"]: row for row in rows if row["skipped"] is None}


def latency_rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, the row with latencies at the smallest batch."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(timed_rows(report), key=lambda row: int(row["batch"])):
        if row["latencies_s"]:
            found.setdefault(row["name"], row)
    return found


def _colour(runtime: str) -> str:
    if runtime.startswith("onnxruntime"):
        return ONNXRUNTIME
    return {"pytorch": PYTORCH, "openvino": OPENVINO}.get(runtime, OTHER)
