"""Run every model file beside the reference over the same images: the parity table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import score
from benchmarks.entries import Entry
from benchmarks.parity import ParityReport, compare
from deploy.runtimes.base import Runtime, infer_each
from deploy.runtimes.registry import open_runtime

T = TypeVar("T")
Progress = Callable[[Iterable[T], str], Iterable[T]]
"""Wraps an iterable for a progress bar with a label."""


def parity_section(
    reference: Runtime,
    reference_name: str,
    entries: Sequence[Entry],
    *,
    images: NDArray[np.float32],
    truths: NDArray[np.bool_],
    names: Sequence[str],
    max_drop: float,
    seed: int,
    threads: int,
    progress: Progress[NDArray[np.float32]],
) -> dict[str, Any]:
    """Score the reference and every entry.

    Args:
        reference: an open runtime, usually PyTorch in fp32.
        reference_name: its name in the table.
        entries: what to compare.
        images: float32 (N, 3, H, W), normalised.
        truths: bool (N, H, W).
        names: of the images.
        max_drop: largest loss of IoU that passes, percentage points.
        seed: of the bootstrap.
        threads: of each runtime.
        progress: for a progress bar over the images.

    Returns:
        The ``parity`` section of ``report.json``, the reference's row first.

    Raises:
        InputError: a runtime does not accept a file.
        RunError: a runtime failed.
    """
    expected = infer_each(reference, progress(images, reference_name))
    rows = [_reference_row(reference, reference_name, expected, truths)]
    for entry in entries:
        if entry.skipped:
            rows.append(_row(entry, executed=None, report=None))
            continue
        with open_runtime(entry.runtime, entry.artifact, threads=threads) as runtime:
            found = infer_each(runtime, progress(images, entry.name))
            report = compare(
                reference_name,
                entry.name,
                expected,
                found,
                truths,
                max_drop=max_drop,
                image_names=names,
                seed=seed,
            )
            rows.append(_row(entry, executed=runtime.precision_executed, report=report))
    return {
        "reference": reference_name,
        "max_drop_percentage_points": max_drop,
        "images": len(images),
        "rows": rows,
    }


def gate_passed(section: dict[str, Any]) -> bool:
    """Whether every row that ran stayed within the budget, and at least one ran."""
    judged = [row["passed"] for row in section["rows"] if row["passed"] is not None]
    return bool(judged) and all(judged)


def _reference_row(
    reference: Runtime, name: str, probability: NDArray[np.float32], truths: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "name": name,
        "file": None,
        "target": None,
        "runtime": reference.name,
        "precision_requested": reference.precision_executed,
        "precision_executed": reference.precision_executed,
        "scores": asdict(score(probability, truths)),
        "delta_iou_percentage_points": None,
        "ci95_percentage_points": None,
        "disagreement_percent": None,
        "passed": None,
        "skipped": None,
        "worst_images": [],
        "iou_per_image_percent": None,
    }


def _row(entry: Entry, *, executed: str | None, report: ParityReport | None) -> dict[str, Any]:
    return entry.identity() | {
        "precision_executed": executed,
        "scores": asdict(report.candidate_scores) if report else None,
        "delta_iou_percentage_points": report.delta if report else None,
        "ci95_percentage_points": list(report.ci95) if report else None,
        "disagreement_percent": report.disagreement_percent if report else None,
        "passed": report.passed if report else None,
        "skipped": entry.skipped,
        "worst_images": [
            {
                "name": image.name,
                "reference_iou": image.reference_iou,
                "candidate_iou": image.candidate_iou,
            }
            for image in (report.worst_images() if report else ())
        ],
        "iou_per_image_percent": list(report.candidate_iou_per_image) if report else None,
    }
