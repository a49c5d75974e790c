"""What both pages of the report show: the rows of its sections, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segdeploy.benchmarks.literature.file import PUBLISHED
from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.tables import ABSENT, figure, interval
from segdeploy.benchmarks.speed.records import BenchmarkRow, BenchmarkSection, LayerTimeRow
from segdeploy.deploy.onnx_model.artifact import Precision

NAMED = 8
"""Layers named on a page; ``report.json`` has them all."""


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """A measured row of parity with its verdict in words.

    Attributes:
        row: what was measured.
        reference: name of the row that the others are compared with.
    """

    row: ParityRow
    reference: str

    @property
    def verdict(self) -> str:
        """In words, in capitals where the row did not pass."""
        row = self.row
        if row.passed is None:
            return "reference" if row.name == self.reference else "not judged"
        word = row.verdict.value if row.verdict else ("pass" if row.passed else "fail")
        return word if row.passed else word.upper()

    @property
    def tone(self) -> str:
        """How the verdict is coloured; empty for a row that was not judged."""
        if self.row.verdict in (Verdict.NOT_PROVEN, Verdict.NOT_PROVEN_FP16):
            return "open"
        return {True: "pass", False: "fail", None: ""}[self.row.passed]

    @property
    def interval(self) -> str:
        """Of the change, in percentage points."""
        return interval(self.row.ci95_percentage_points)

    @property
    def line(self) -> str:
        """The highest of MLPerf's accuracy lines that is reached."""
        return line_reached(self.row.mlperf_lines_reached_percent)


@dataclass(frozen=True, kw_only=True)
class LostImage:
    """An image that lost, with the candidate that lost it; IoU in percent."""

    image: str
    name: str
    reference_iou: float
    candidate_iou: float


@dataclass(frozen=True, kw_only=True)
class Unmeasured:
    """What was not measured, where it would stand, and why it does not."""

    where: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class FloatLayers:
    """The layers of a candidate that were to run in int8 and did not, counted and named."""

    name: str
    count: str
    layers: str


@dataclass(frozen=True, kw_only=True)
class IouRow:
    """A row of the published table, or this run in its columns; figures as they are shown."""

    source: str
    fp32: str
    fp16: str
    int8: str
    gflops: str


def parity_rows(report: Report) -> tuple[ParityRow, ...]:
    """Every row of parity; none where it did not run."""
    return report.parity.rows if report.parity else ()


def compared_rows(section: ParitySection | None) -> tuple[ComparedRow, ...]:
    """The measured rows of parity; none where it did not run."""
    if section is None:
        return ()
    return tuple(
        ComparedRow(row=row, reference=section.reference)
        for row in section.rows
        if row.skipped is None
    )


def failed_candidates(section: ParitySection | None) -> tuple[ParityRow, ...]:
    """The rows of parity whose runtime crashed, hung or failed."""
    return tuple(row for row in section.rows if row.failed) if section else ()


def timed_rows(section: BenchmarkSection | None) -> tuple[BenchmarkRow, ...]:
    """The measured rows of the benchmark; none where it did not run."""
    return tuple(row for row in section.rows if row.skipped is None) if section else ()


def chosen_parity(report: Report) -> ParityRow | None:
    """The measured row of parity of the recommended artefact."""
    rows = (shown.row for shown in compared_rows(report.parity))
    return next((row for row in rows if is_recommended(row, report)), None)


def chosen_timing(report: Report) -> BenchmarkRow | None:
    """The measured row of speed of the recommended artefact, the smallest batch first."""
    rows = [row for row in timed_rows(report.benchmark) if is_recommended(row, report)]
    return min(rows, key=lambda row: row.batch, default=None)


def is_recommended(row: ParityRow | BenchmarkRow, report: Report) -> bool:
    """Whether a row is of the recommended artefact with its runtime."""
    chosen = report.recommendation
    return chosen is not None and (row.file, row.runtime) == (chosen.file, chosen.runtime)


def line_reached(lines: Sequence[float] | None) -> str:
    """The highest of MLPerf's accuracy lines that a candidate reaches.

    Example:
        >>> line_reached([99.0, 99.9]), line_reached([])
        ('99.9 %', 'below 99 %')
    """
    if lines is None:
        return ABSENT
    return f"{max(lines):g} %" if lines else "below 99 %"


def lost_images(report: Report, count: int) -> list[LostImage]:
    """The images that lost most, over all candidates."""
    rows = [
        LostImage(
            image=image.name,
            name=shown.row.name,
            reference_iou=image.reference_iou,
            candidate_iou=image.candidate_iou,
        )
        for shown in compared_rows(report.parity)
        for image in shown.row.worst_images
    ]
    return sorted(rows, key=lambda row: row.candidate_iou - row.reference_iou)[:count]


def unmeasured(report: Report) -> list[Unmeasured]:
    """Every stage and row that was not measured, with its reason."""
    stages = [
        Unmeasured(where="stage", name=stage.name, reason=stage.note or ABSENT)
        for stage in report.stages
        if stage.status == "skipped"
    ]
    timed = report.benchmark.rows if report.benchmark else ()
    return [
        *stages,
        *_skipped("parity", parity_rows(report)),
        *_skipped("benchmark", timed),
        *_skipped("time by layer", report.layer_times or ()),
        *(
            Unmeasured(where="time by layer", name=row.name, reason=fault)
            for row in report.layer_times or ()
            for fault in row.faults
        ),
    ]


def _skipped(
    where: str, rows: Iterable[ParityRow | BenchmarkRow | LayerTimeRow]
) -> list[Unmeasured]:
    return [
        Unmeasured(
            where=where,
            name=row.name,
            reason=f"{'failed: ' if getattr(row, 'failed', False) else ''}{row.skipped}",
        )
        for row in rows
        if row.skipped is not None
    ]


def float_layers(report: Report) -> list[FloatLayers]:
    """For each candidate with layers that were to run in int8 and did not: which they are."""
    timed = timed_rows(report.benchmark)
    found = {row.name: row.float_layers for row in timed if row.float_layers}
    return [
        FloatLayers(
            name=name,
            count=f"{len(layers)} layer{'s' if layers[1:] else ''}",
            layers=", ".join(layers[:NAMED])
            + (f" and {len(layers) - NAMED} more" if layers[NAMED:] else ""),
        )
        for name, layers in found.items()
    ]


def iou_rows(report: Report) -> list[IouRow]:
    """What was published of this network, then this run, one row for each runtime.

    None of a network nothing was published of.
    """
    entry = PUBLISHED.get(report.model.arch)
    if entry is None:
        return []
    published = IouRow(
        source=f"Published, {entry.network} ({entry.source.title})",
        fp32=figure(entry.iou.fp32, "share"),
        fp16=figure(entry.iou.fp16, "share"),
        int8=figure(entry.iou.int8, "share"),
        gflops=figure(entry.gflops, "share"),
    )
    compared = [shown.row for shown in compared_rows(report.parity)]
    counted = report.cost.published_gflops_reproduced if report.cost else None
    own = [
        IouRow(
            source=f"This run, {runtime}",
            fp32=_ious(compared, runtime, Precision.FP32),
            fp16=_ious(compared, runtime, Precision.FP16),
            int8=_ious(compared, runtime, Precision.INT8),
            gflops=figure(counted, "share"),
        )
        for runtime in dict.fromkeys(row.runtime for row in compared)
    ]
    return [published, *own]


def _ious(rows: Iterable[ParityRow], runtime: str, precision: Precision) -> str:
    """Each IoU of the files of a precision once, as it is shown."""
    shown = (
        figure(row.scores.iou, "share")
        for row in rows
        if row.runtime == runtime and row.precision_requested is precision and row.scores
    )
    return ", ".join(dict.fromkeys(shown)) or ABSENT
