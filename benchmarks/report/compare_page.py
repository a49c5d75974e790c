"""``compare.md`` and ``compare.html``: two runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.benchmarks.report.compare import Comparison, ParityChange, RunIdentity, Side
from segdeploy.benchmarks.report.tables import Column, Columns, interval
from segdeploy.benchmarks.report.templates import render
from segdeploy.calibration.files import write_atomic

PARITY: Columns = (
    Column("Candidate", "change.name"),
    Column("IoU A %", "change.iou_a_percent", "percent"),
    Column("IoU B %", "change.iou_b_percent", "percent"),
    Column("Change, points", "change.change_percentage_points", "points"),
    Column("95 % interval", "interval"),
    Column("Pixels changed A %", "change.disagreement_a_percent", "share"),
    Column("Pixels changed B %", "change.disagreement_b_percent", "share"),
    Column("Verdict A", "change.verdict_a"),
    Column("Verdict B", "change.verdict_b"),
)
SPEED: Columns = (
    Column("Candidate", "name"),
    Column("Batch", "batch", "count"),
    Column("Threads", "threads", "count"),
    Column("p50 A ms", "p50_a_ms", "fixed"),
    Column("p50 B ms", "p50_b_ms", "fixed"),
    Column("B / A", "p50_ratio", "fixed"),
    Column("Images/s A", "images_per_s_a", "rate"),
    Column("Images/s B", "images_per_s_b", "rate"),
    Column("B / A", "images_per_s_ratio", "fixed"),
    Column("Noise %", "noise_percent", "rate"),
    Column("Size A MB", "file_a_bytes", "mega"),
    Column("Size B MB", "file_b_bytes", "mega"),
)
AROUND: Columns = (Column("What", "what"), Column("A", "a"), Column("B", "b"))
ONLY: Columns = (Column("Only in", "side"), Column("Where", "where"), Column("What", "name"))
RUNS: Columns = (
    Column("Run", "side"),
    Column("Model", "run.name"),
    Column("Made", "run.created_utc"),
    Column("Verdict", "word"),
    Column("Recommended", "run.recommendation.file"),
    Column("Command", "run.command"),
)

MACHINES = (
    "The runs were made on different machines: their times say nothing about each other's models."
)
HTML = "page/compare.html.j2"
NOISE = "Times come from two runs: a ratio within the noise means nothing."


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One of the runs, with its verdict in capitals."""

    side: Side
    run: RunIdentity

    @property
    def word(self) -> str:
        """The verdict."""
        return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[self.run.passed]


@dataclass(frozen=True, kw_only=True)
class ChangeRow:
    """A candidate that both scored, with the interval of its change in words."""

    change: ParityChange

    @property
    def interval(self) -> str:
        """In percentage points."""
        return interval(self.change.ci95_percentage_points)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A table of the page, and a note below it where it has rows."""

    heading: str
    columns: Columns
    rows: Sequence[object]
    note: str = ""


def write_comparison(found: Comparison, output: Path) -> None:
    """Write both pages; each appears whole or not at all.

    Args:
        found: what ``compare_reports`` returns.
        output: the folder, made if missing.
    """
    output.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys((found.a.name, found.b.name))
    for name, template in (("compare.md", "compare.md.j2"), ("compare.html", HTML)):
        page = render(
            template,
            title=f"{' and '.join(names)}: two runs",
            generator="segdeploy report --compare",
            warnings=warnings(found),
            sections=_sections(found),
        )
        write_atomic(output / name, page.encode("utf-8", "backslashreplace"))


def warnings(found: Comparison) -> list[str]:
    """What a reader must know before any figure."""
    machines = MACHINES if found.other_machine else None
    return [note for note in (found.models_differ, found.images_differ, machines) if note]


def _sections(found: Comparison) -> list[Section]:
    runs = [RunRow(side="A", run=found.a), RunRow(side="B", run=found.b)]
    parity = [ChangeRow(change=change) for change in found.parity]
    return [
        Section(heading="Runs", columns=RUNS, rows=runs),
        Section(
            heading="Accuracy",
            columns=PARITY,
            rows=parity,
            note="Change: B minus A over the same images, paired.",
        ),
        Section(heading="Speed and size", columns=SPEED, rows=found.speed, note=NOISE),
        Section(heading="What changed around them", columns=AROUND, rows=found.around),
        Section(heading="In one run only", columns=ONLY, rows=found.only),
    ]
