"""A finished run: its verdict, what it recommends, its files, and how a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segdeploy.api.outputs import AnyPath
from segdeploy.api.recommended import Recommended
from segdeploy.api.table import kept_figures, table_of
from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.notebook import notebook
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import is_recommended, timed_rows
from segdeploy.benchmarks.report.verdict import verdict_text, word_of
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.pipeline.finished import FinishedRun, Role


@dataclass(frozen=True)
class Run:
    """What ``segdeploy.deploy`` and ``segdeploy run`` leave in a folder, read back.

    Its files are not hashed again; ``segdeploy.verify`` does that.

    Attributes:
        finished: which of the folder's files is what.
    """

    finished: FinishedRun

    @classmethod
    def open(cls, folder: AnyPath) -> Run:
        """Read a finished run.

        Raises:
            InputError: no such folder, no run's, one that was not finished, or a damaged one.
        """
        return cls(FinishedRun.open(Path(folder)))

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.finished.folder

    @property
    def report(self) -> Report:
        """Everything that was measured."""
        return self.finished.report

    @property
    def passed(self) -> bool:
        """Whether every candidate that was compared is proven to keep the budget."""
        return bool(self.report.passed)

    @property
    def failed(self) -> tuple[BenchmarkRow, ...]:
        """What could not be timed, because its runtime crashed, hung or failed."""
        rows = self.report.benchmark.rows if self.report.benchmark else ()
        return tuple(row for row in rows if row.failed)

    @property
    def verdict(self) -> str:
        """Passed or not and by how much, and what to deploy, in words."""
        return verdict_text(self.report)

    @property
    def recommended(self) -> Recommended:
        """The fastest file that kept the budget, and what runs it.

        Raises:
            InputError: none did.
        """
        found = self.report.recommendation
        return Recommended(
            artifact=describe(self.finished.recommended),
            runtime=self.finished.recommended_runtime,
            reason=found.reason if found else "",
        )

    def model(self, role: Role | str) -> Artifact:
        """A model by what was done to it.

        Args:
            role: exported, simplified, fp16, rewritten (which the table is of), or the target of
                an int8 model.

        Raises:
            InputError: the run has none of that name.
        """
        return describe(self.finished.model(role))

    @cached_property
    def calibration(self) -> CalibrationTable:
        """The ranges, of ``model("rewritten")``.

        Raises:
            InputError: the run lists no table.
        """
        return CalibrationTable.read(self.finished.table)

    def table(self) -> Any:
        """What each candidate keeps and gains: a DataFrame where pandas is there, else dicts.

        Latency and speedup are those of the smallest batch, throughput that of the largest.
        """
        rows = self.report.parity.rows if self.report.parity else ()
        return table_of([self._row(row) for row in rows])

    def _row(self, row: ParityRow) -> dict[str, Any]:
        """One candidate in figures; ``None`` is not measured."""
        timed = [each for each in timed_rows(self.report.benchmark) if each.name == row.name]
        first = min(timed, key=lambda each: each.batch, default=None)
        last = max(timed, key=lambda each: each.batch, default=None)
        return kept_figures(row) | {
            "p50_ms": first.p50_ms if first else None,
            "speedup": first.speedup if first else None,
            "images_per_s": last.images_per_s if last else None,
            "file_bytes": first.file_bytes if first else None,
            "recommended": is_recommended(row, self.report),
        }

    def __repr__(self) -> str:
        found = self.report.recommendation
        advice = f"deploy {found.file} with {found.runtime}" if found else "nothing to recommend"
        return f"<Run {self.folder}: {word_of(self.report)}, {advice}>"

    def _repr_html_(self) -> str:
        return notebook(self.report)
