"""Run every model file beside the reference over the same images: the parity table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import Scores, score
from benchmarks.accuracy_images import ImageScores, PerImage, score_images
from benchmarks.definitions import PER_IMAGE
from benchmarks.entries import Entry
from benchmarks.parity import ParityReport, compare
from deploy.errors import InputError
from deploy.interface import Interface, interface_of
from deploy.runtimes.base import Execution, Runtime, infer_each
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
    execution: Execution,
    progress: Progress[NDArray[Any]],
    pixels: NDArray[np.uint8] | None = None,
    fields: NDArray[np.bool_] | None = None,
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
        execution: how each entry runs.
        progress: for a progress bar over the images.
        pixels: the same images as models of ``Interface.IMAGE`` take them, uint8 (N, H, W, 3);
            needed where there is such a model.
        fields: bool (N, H, W), the fields of view; pixels outside count nowhere. ``None`` where
            every pixel counts.

    Returns:
        The ``parity`` section of ``report.json``, the reference's row first.

    Raises:
        InputError: a runtime does not accept a file, a model takes pixels and there are none, or
            an image has no pixel inside its field.
        RunError: a runtime failed.
    """
    inputs = {Interface.TENSOR: images, Interface.IMAGE: pixels}
    expected = _foreground(reference, reference_name, inputs, progress)
    rows = [_reference_row(reference, reference_name, expected, truths, fields)]
    for entry in entries:
        if entry.skipped:
            rows.append(_row(entry, executed=None, report=None))
            continue
        with open_runtime(entry.runtime, entry.artifact, execution=execution) as runtime:
            found = _foreground(runtime, entry.name, inputs, progress)
            report = compare(
                reference_name,
                entry.name,
                expected,
                found,
                truths,
                max_drop=max_drop,
                image_names=names,
                field=fields,
                seed=seed,
            )
            row = _row(entry, executed=runtime.executed.words, report=report)
            images_alone = score_images(found, truths, fields)
            rows.append(row | _scores(runtime, report.candidate_scores, images_alone))
    return {
        "reference": reference_name,
        "max_drop_percentage_points": max_drop,
        "images": len(images),
        "field_of_view_percent": None if fields is None else 100.0 * float(fields.mean()),
        "rows": rows,
    }


def gate_passed(section: dict[str, Any]) -> bool:
    """Whether every row that ran stayed within the budget, and at least one ran."""
    judged = [row["passed"] for row in section["rows"] if row["passed"] is not None]
    return bool(judged) and all(judged)


def _foreground(
    runtime: Runtime,
    name: str,
    inputs: Mapping[Interface, NDArray[Any] | None],
    progress: Progress[NDArray[Any]],
) -> NDArray[np.float32]:
    """What a model says of every image, fed with what it takes."""
    interface = interface_of(runtime.inputs, runtime.outputs)
    images = inputs[interface]
    if images is None:
        raise InputError(
            f"{name} takes 8-bit pixels and this comparison holds normalised images only; give "
            "the file it was made from"
        )
    return infer_each(runtime, progress(images, name))


def _scores(runtime: Runtime, scores: Scores, images: ImageScores) -> dict[str, Any]:
    """Scores as columns; a mask does not rank its pixels, so it has no area under the curve."""
    ranks = interface_of(runtime.inputs, runtime.outputs) is not Interface.IMAGE
    return {
        "scores": asdict(scores if ranks else replace(scores, auc=None)),
        "image_scores": {
            name: _image_score(getattr(images, name)) if ranks or name != "auc_per_image" else None
            for name in PER_IMAGE
        },
    }


def _image_score(score: PerImage) -> dict[str, Any]:
    return {"mean": score.mean, "left_out": score.left_out, "values": list(score.values)}


def _reference_row(
    reference: Runtime,
    name: str,
    probability: NDArray[np.float32],
    truths: NDArray[np.bool_],
    fields: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    images = score_images(probability, truths, fields)
    return {
        "name": name,
        "file": None,
        "target": None,
        "runtime": reference.name,
        "precision_requested": reference.executed.words,
        "precision_executed": reference.executed.words,
        **_scores(reference, score(probability, truths, fields), images),
        "delta_iou_percentage_points": None,
        "ci95_percentage_points": None,
        "disagreement_percent": None,
        "passed": None,
        "skipped": None,
        "worst_images": [],
        "iou_per_image_percent": list(images.iou.values),
    }


def _row(entry: Entry, *, executed: str | None, report: ParityReport | None) -> dict[str, Any]:
    """A row without its scores, which a model that ran adds."""
    return entry.identity() | {
        "precision_executed": executed,
        "scores": None,
        "image_scores": None,
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
