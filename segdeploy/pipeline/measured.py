"""What a run measured, kept so that the next run need not measure it again.

A finished run's figures lie in its ``report.json``, and its manifest says what decided each of
them. While a run goes on they lie in a file of their own, which goes once the report is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from segdeploy.benchmarks.parity.evidence import StageCheck
from segdeploy.benchmarks.parity.records import ParitySection, PicturedImage
from segdeploy.benchmarks.report.files import PAGES, read_report
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.speed.records import BenchmarkSection, LayerTimeRow
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import json_of, record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.sensitivity.section import DebugSection
from segdeploy.deploy.system.errors import InputError
from segdeploy.pipeline.workspace import Workspace

T = TypeVar("T")

DEBUG, PARITY, BENCHMARK = "debug", "parity", "benchmark"
LAYER_TIMES, WORST_IMAGES = "layer-times", "worst-images"

_KINDS: dict[str, Any] = {
    DEBUG: DebugSection,
    PARITY: ParitySection,
    BENCHMARK: BenchmarkSection,
    LAYER_TIMES: tuple[LayerTimeRow, ...],
    WORST_IMAGES: tuple[PicturedImage, ...],
}

_CHECK = "check "


def check_of(file: str) -> str:
    """The name of a stage's comparison with its parent, by the file the stage made."""
    return _CHECK + file


class Measured:
    """Figures by name, each with the digest of everything that decides it.

    Args:
        workspace: the run's folder.
        partial: where figures lie until the report is written; a damaged one is not believed.
    """

    def __init__(self, workspace: Workspace, partial: Path) -> None:
        self._workspace, self._partial = workspace, partial
        self._found: dict[str, tuple[str, Any]] = {
            name: (workspace.measured[name], section)
            for name, section in _in_report(workspace.folder)
            if name in workspace.measured
        }
        self._kept = dict(_in_partial(partial))
        self._found |= self._kept
        self._used: dict[str, str] = {}

    def take(self, name: str, key: str, kind: type[T]) -> T | None:
        """What was measured under the same key; ``None`` where nothing was."""
        stored, section = self._found.get(name, ("", None))
        if section is None or stored != key:
            return None
        self._used[name] = key
        return cast("T", section)

    def keep(self, name: str, key: str, section: object) -> None:
        """Note what was measured, at once.

        Raises:
            OSError: the folder cannot be written.
        """
        self._found[name] = self._kept[name] = key, section
        self._used[name] = key
        held = {name: {"key": key, "section": json_of(s)} for name, (key, s) in self._kept.items()}
        write_atomic(self._partial, json.dumps(held, allow_nan=False).encode())

    def report_follows(self) -> None:
        """Say, before another report is written, that the manifest's keys are not of it.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._workspace.measured not in ({}, self._used):
            self._workspace.measured = {}
            self._workspace.write()

    def report_is_written(self) -> None:
        """Put the keys into the manifest; from here on the figures are the report's.

        Raises:
            OSError: the folder cannot be written.
        """
        self._workspace.measured = dict(sorted(self._used.items()))
        self._workspace.write()
        self._partial.unlink(missing_ok=True)


def _in_report(folder: Path) -> Iterator[tuple[str, object]]:
    """The figures of a report by name; none where it cannot be read."""
    if not (folder / PAGES[0]).is_file():
        return
    try:
        report: Report = read_report(folder)
    except InputError:
        return
    yield DEBUG, report.debug
    yield PARITY, report.parity
    yield BENCHMARK, report.benchmark
    yield LAYER_TIMES, report.layer_times
    yield WORST_IMAGES, report.worst_images
    for row in report.stages:
        if row.artifact is not None:
            yield check_of(row.artifact.file), row.check


def _in_partial(path: Path) -> Iterator[tuple[str, tuple[str, object]]]:
    """The figures of a run that went on when it was interrupted."""
    try:
        held = parse_json(path.read_text("utf-8"))
        for name, entry in held.items():
            kind = StageCheck if name.startswith(_CHECK) else _KINDS[name]
            yield name, (str(entry["key"]), record_of(entry["section"], kind))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CalibrationError):
        return
