"""Ranges of activations chosen by what they do to the network's output, not to the tensor alone."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from segdeploy.calibration.estimate import SEARCH_METHODS, Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.sensitivity.layer_errors import compare_layers
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView, Values

log = logging.getLogger(__name__)

WORST = 8
"""Tensors whose range is looked for: the inputs of the layers that int8 costs most."""

IMAGES = 8
"""Calibration images on which the output is compared."""


def ranges_by_output(candidate: Candidate, workshop: Workshop) -> Candidate:
    """A candidate with those ranges of its worst tensors that leave the output closest to float.

    Every estimator's range is tried for one tensor after another, on a few calibration images; one
    that lowers the squared error of the output stays.

    Raises:
        InputError: an image cannot be read, or ONNX Runtime does not accept the model.
        RunError: ONNX Runtime failed.
        OSError: a file cannot be written.
    """
    chosen = workshop.images.take(min(IMAGES, len(workshop.images)), seed=workshop.seed)
    samples = tuple(sorted(chosen.samples, key=lambda sample: sample.name))
    tables = _tables(candidate, workshop)
    view = GraphView(load_model(candidate.source.path))
    right = GraphPart(view, [view.input], [view.output], literal=False)
    expected = workshop.each(lambda sample: right(workshop.input(sample))[0], samples)
    best = _error(candidate, workshop, samples, expected)
    for tensor in workshop.progress(_worst(candidate, workshop, samples), "ranges"):
        for method in SEARCH_METHODS:
            other = tables[method].ranges[tensor]
            held = candidate.table.ranges[tensor]
            if (other.min, other.max) == (held.min, held.max):
                continue
            ranges = {**candidate.table.ranges, tensor: other}
            tried = replace(candidate, table=replace(candidate.table, ranges=ranges))
            error = _error(tried, workshop, samples, expected)
            if error < best:
                log.info(
                    "%s: %s range, output %+.2f dB", tensor, method.value, _gain_db(best, error)
                )
                candidate, best = tried, error
    return candidate


def _gain_db(before: float, after: float) -> float:
    return float(10 * np.log10(before / after)) if after > 0 else float("inf")


def _tables(candidate: Candidate, workshop: Workshop) -> dict[Method, CalibrationTable]:
    """Every estimator's ranges, from one count of the values."""
    whose = f"{candidate.source.sha256}/{workshop.images.sha256()}/{workshop.preprocess.to_json()}"
    state = workshop.folder / f"counts-{hashlib.sha256(whose.encode()).hexdigest()[:16]}.npz"
    return {
        method: calibrate(
            candidate.source,
            workshop.images,
            preprocess=workshop.preprocess,
            method=method,
            state=state,
            threads=workshop.threads,
            progress=lambda samples: workshop.progress(samples, "count"),
        )
        for method in SEARCH_METHODS
    }


def _worst(
    candidate: Candidate, workshop: Workshop, samples: tuple[Sample, ...]
) -> tuple[str, ...]:
    """Tensors that are rounded in front of the layers that int8 costs most, worst first."""
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        layers = compare_layers(
            candidate.source,
            workshop.write(candidate, Path(folder) / "int8.onnx"),
            [workshop.input(sample)[0] for sample in samples[:2]],
            threads=workshop.threads,
            progress=lambda work: workshop.progress(work, "rank layers"),
        )
    named = [rounding.tensor for layer in layers for rounding in layer.roundings]
    known = [name for name in dict.fromkeys(named) if name in candidate.table.ranges]
    return tuple(known[:WORST])


def _error(
    candidate: Candidate,
    workshop: Workshop,
    samples: tuple[Sample, ...],
    expected: list[Values],
) -> float:
    """Squared error of the network's output over some images."""
    view = GraphView(workshop.model(candidate))
    ours = GraphPart(view, [view.input], [view.output], literal=True)
    found = workshop.each(lambda sample: ours(workshop.input(sample))[0], samples)
    errors = [np.square(a.astype(np.float64) - b) for a, b in zip(found, expected, strict=True)]
    return float(np.sum([error.sum() for error in errors]))
