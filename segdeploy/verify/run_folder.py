"""A finished run: its bytes, how its files belong together, and what its report says of itself."""

from __future__ import annotations

import math
from collections.abc import Set
from pathlib import Path
from typing import Any

from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.report.files import PAGES, pages_of, read_report
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.file import load_model, metadata
from segdeploy.deploy.system.checksums import differences, sha256_of
from segdeploy.deploy.system.errors import InputError
from segdeploy.pipeline.workspace import MANIFEST, Entry, read_manifest
from segdeploy.verify.found import Findings

MARK = MANIFEST
POINTS = 1e-9
"""Rounding, in percentage points."""


def verify_run(folder: Path, found: Findings) -> None:
    """Hash a run's files again, and check what they say of each other.

    Raises:
        InputError: the run was not finished, or its list of files is damaged.
    """
    found.take(differences(folder))
    with found.reading(MANIFEST):
        inputs, entries = read_manifest(folder / MANIFEST)
        _check_manifest(folder, entries, found, brought=str(inputs.get("model_sha256")))
        _note_versions(inputs, found)
    with found.reading("report.json"):
        _check_report(folder, read_report(folder), found)


def _check_manifest(
    folder: Path, entries: dict[str, Entry], found: Findings, *, brought: str
) -> None:
    """Hash the files of the stages, and follow what each says it was made from.

    The ONNX file that a run was brought, ``brought`` its digest, lies elsewhere; what lies here is
    made from it, or is it.
    """
    digests = {entry.sha256: entry.file for entry in entries.values()}
    for entry in entries.values():
        path = folder / entry.file
        if not path.is_file():
            found.add(entry.file, "missing")
        elif sha256_of(path) != entry.sha256:
            found.add(entry.file, f"changed: {MANIFEST} states other bytes")
        elif path.suffix == ".onnx":
            with found.reading(entry.file):
                stated = metadata(load_model(path))
                if entry.sha256 != brought:
                    _check_model(entry.file, stated, {*digests, brought}, found)
        else:
            with found.reading(entry.file):
                _check_table(entry.file, CalibrationTable.read(path), digests, found)


def _check_model(file: str, stated: dict[str, str], digests: Set[str], found: Findings) -> None:
    for key, what in (("parent_sha256", "model"), ("calibration_sha256", "table")):
        if key in stated and stated[key] not in digests:
            found.add(file, f"made from a {what} that is not in this folder ({key})")


def _check_table(
    file: str, table: CalibrationTable, digests: dict[str, str], found: Findings
) -> None:
    if table.model_sha256 not in digests:
        found.add(file, "calibrated on a model that is not in this folder (model_sha256)")


def _check_report(folder: Path, report: Report, found: Findings) -> None:
    """The verdict follows from the figures of each image, and the pages from the report."""
    if report.parity is None or not report.parity.rows:
        raise InputError("holds no row of parity; the report of a run has one for its reference")
    _check_figures(report, report.parity, found)
    _check_sizes(folder, report, found)
    for name, content in pages_of(report).items():
        path = folder / name
        if path.is_file() and path.read_bytes() != content:
            found.add(name, "not what report.json gives; `segdeploy report` writes it again")


def _check_figures(report: Report, parity: ParitySection, found: Findings) -> None:
    reference, *candidates = parity.rows
    before = _mean_iou(reference)
    for row in candidates:
        if row.delta_iou_percentage_points is None:
            continue
        delta = _mean_iou(row) - before
        if abs(delta - row.delta_iou_percentage_points) > POINTS:
            found.add("report.json", f"{row.name}: its change of IoU is not that of its images")
    if report.passed != parity.passed:
        found.add("report.json", "its verdict does not follow from its rows")


def _check_sizes(folder: Path, report: Report, found: Findings) -> None:
    for artifact in (stage.artifact for stage in report.stages if stage.artifact):
        path = folder / artifact.file
        if path.resolve().parent != folder.resolve():
            found.add("report.json", f"names {artifact.file}, which lies outside the folder")
        elif path.is_file() and sha256_of(path) != artifact.sha256:
            found.add("report.json", f"describes another {artifact.file} than lies beside it")


def _note_versions(inputs: dict[str, Any], found: Findings) -> None:
    here = describe_environment().versions
    made = inputs.get("versions")
    if not isinstance(made, dict):
        raise InputError(f"{MANIFEST} states no versions")
    other = [
        f"{name} {made[name]} (here {here.get(name, 'none')})"
        for name in sorted(made)
        if made[name] != here.get(name)
    ]
    if other:
        found.notes.append(f"made with {', '.join(other)}: a new run may give other bytes")


def _mean_iou(row: ParityRow) -> float:
    """Of the images of a row, percent; of several classes the mean of theirs over all pixels.

    Raises:
        InputError: the row states none.
    """
    if row.classes:
        shares = [
            sum(found.shared_per_image) / sum(found.either_per_image)
            for found in row.classes
            if found.iou is not None and any(found.either_per_image)
        ]
        if shares:
            return 100.0 * math.fsum(shares) / len(shares)
    values = row.iou_per_image_percent
    if not values:
        raise InputError(f"{row.name} has no IoU of its images, of which its figures are made")
    return math.fsum(values) / len(values)


FILES = (MANIFEST, *PAGES)
"""Of a run, beside those of its stages."""
