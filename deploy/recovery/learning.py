"""Weights and biases learnt layer by layer, each from what the layers before it were left with.

Bias correction (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", ICCV 2019, in its empirical form): what a channel of a layer's output is off by on
average over the calibration images goes into its bias. Learnt rounding: see
``calibration.learnt_rounding``; its target is the float layer's output behind its activation.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.learnt_rounding import Rounded, learnt_rounding
from segdeploy.calibration.weights import largest_weight
from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.layers import (
    IntegerLayer,
    activation_behind,
    bias_of,
    by_weight,
    input_step,
    integer_layers,
    integers_of,
    read_alike,
    scale_of,
)
from segdeploy.deploy.recovery.learning_state import LearningState
from segdeploy.deploy.recovery.receptive import Reading
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView, Values

log = logging.getLogger(__name__)

MOST_VALUES = 12_000_000
"""Inputs a layer's weights are learnt from at once: 96 MB of float64."""

MOST_PLACES = 16_384
"""Positions of a layer's output, over all images."""

HALVES = 2.0
"""An input that was shifted by half a level lies between two integers; twice it does not."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """One use of a weight on one image: what some outputs read, and what they are in float."""

    inputs: NDArray[np.float32]
    target: NDArray[np.float32]


def learnt(candidate: Candidate, workshop: Workshop, *, rounding: bool, biases: bool) -> Candidate:
    """A candidate whose layers were learnt one after another, in the order they run.

    Args:
        candidate: what to start from.
        workshop: images and target.
        rounding: learn the integers of the weights.
        biases: then correct the biases.

    Raises:
        InputError: ONNX Runtime does not accept a part of the model, or an image cannot be read.
        RunError: ONNX Runtime failed.
    """
    what = "".join(name for name, asked in (("w", rounding), ("b", biases)) if asked)
    state = LearningState.open(
        workshop.folder / f"learning-{what}.npz", fingerprint=workshop.fingerprint(candidate) + what
    )
    reference = GraphView(load_model(candidate.source.path))
    view = GraphView(workshop.model(candidate))
    layers = integer_layers(reference, view)
    uses = by_weight(layers)
    weights = {n: integers_of(view, each[0]) for n, each in uses.items() if read_alike(each)}
    current = replace(candidate, learnt=replace(candidate.learnt, weights=weights))
    current = _with(current, state.weights, state.biases)
    for layer in workshop.progress(layers, "learn layers"):
        if layer.name in state.done:
            continue
        before = time.monotonic()
        first = uses[layer.weight][0].name == layer.name
        if rounding and first and read_alike(uses[layer.weight]):
            found = _rounded(reference, current, uses[layer.weight], workshop)
            state.weights[layer.weight] = found
            current = _with(current, state.weights, state.biases)
        if biases and layer.takes_bias:
            state.biases[layer.name] = _corrected(reference, current, layer, workshop)
            current = _with(current, state.weights, state.biases)
        state.done.append(layer.name)
        state.write()
        log.debug("%s learnt, %.1f s", layer.name, time.monotonic() - before)
    return replace(
        candidate,
        learnt=LearntParameters(
            weights={**candidate.learnt.weights, **state.weights},
            biases={**candidate.learnt.biases, **state.biases},
        ),
    )


def forget(folder: Path) -> None:
    """Remove what an interrupted ``learnt`` would go on from."""
    for path in folder.glob("learning-*.npz"):
        path.unlink()


def _with(
    candidate: Candidate,
    weights: dict[str, NDArray[np.int8]],
    biases: dict[str, NDArray[np.float32]],
) -> Candidate:
    held = candidate.learnt
    return replace(
        candidate,
        learnt=LearntParameters(
            weights={**held.weights, **weights}, biases={**held.biases, **biases}
        ),
    )


def _corrected(
    reference: GraphView, candidate: Candidate, layer: IntegerLayer, workshop: Workshop
) -> NDArray[np.float32]:
    """The bias with which a layer is right on average, channel by channel."""
    view = GraphView(workshop.model(candidate))
    right = GraphPart(reference, [reference.input], [layer.output], literal=False)
    ours = GraphPart(view, [view.input], [layer.output], literal=True)

    def off(sample: Sample) -> F64:
        image = workshop.input(sample)
        error = right(image)[0].astype(np.float64) - ours(image)[0]
        axes = tuple(range(2, error.ndim)) if _by_maps(layer) else tuple(range(error.ndim - 1))
        return np.asarray((error[0] if _by_maps(layer) else error).mean(axis=_less(axes, layer)))

    errors = workshop.each(off, workshop.samples)
    (node,) = (node for node in reference.nodes if node.name == layer.name)
    held = candidate.learnt.biases.get(layer.name)
    mean = np.sum(errors, axis=0) / len(errors)
    bias = bias_of(reference, node, len(mean)) if held is None else held
    return np.asarray(bias + mean, np.float32)


def _by_maps(layer: IntegerLayer) -> bool:
    """Whether channels lie on axis 1; otherwise on the last."""
    return layer.twin.op_type in ("Conv", "ConvTranspose")


def _less(axes: tuple[int, ...], layer: IntegerLayer) -> tuple[int, ...]:
    """Axes of one image of a batch."""
    return tuple(axis - 1 for axis in axes) if _by_maps(layer) else axes


def _rounded(
    reference: GraphView,
    candidate: Candidate,
    uses: Sequence[IntegerLayer],
    workshop: Workshop,
) -> NDArray[np.int8]:
    """The integers of a weight, learnt from all layers that read it."""
    view = GraphView(workshop.model(candidate))
    current = {layer.name: layer for layer in integer_layers(reference, view)}
    uses = [current[layer.name] for layer in uses]
    first = uses[0]
    layer, reads = first.layer, first.reading
    assert reads is not None
    stored = integers_of(view, first)
    scale = scale_of(view, first)
    rows = layer.rows(reference.value(first.weight)).astype(np.float64)
    exact = reads.columns(rows) / scale[:, None]
    start = reads.columns(layer.rows(stored).astype(np.float64)).astype(np.int8)
    limit = largest_weight(reduce_range=workshop.profile.reduce_range)
    drawn = [_drawn(reference, view, use, exact.shape[1], len(uses), workshop) for use in uses]
    steps = np.stack([scale * input_step(view, use)[0] / HALVES for use in uses])
    activation = activation_behind(reference, first.output, steps[0])
    biases: list[F64] = []
    targets: list[F64] = []
    for use, step, pieces in zip(uses, steps, drawn, strict=True):
        (node,) = (node for node in reference.nodes if node.name == use.name)
        held = candidate.learnt.biases.get(use.name)
        bias = bias_of(reference, node, len(scale)) if held is None else held
        target = np.concatenate([piece.target for piece in pieces]).astype(np.float64)
        targets.append(np.rint(target / step))
        biases.append(np.broadcast_to(np.rint(bias.astype(np.float64) / step), target.shape))
    inputs = np.concatenate([piece.inputs for pieces in drawn for piece in pieces], axis=1)
    offsets, wanted = np.concatenate(biases), np.concatenate(targets)
    size = len(exact) // reads.groups
    found = start.copy()
    for group in range(reads.groups):
        part = slice(group * size, (group + 1) * size)
        cap = activation.cap
        try:
            learnt_part: Rounded = learnt_rounding(
                exact[part],
                start[part],
                inputs[group],
                bias=offsets[:, part],
                target=wanted[:, part],
                activation=replace(
                    activation, cap=cap[part] if isinstance(cap, np.ndarray) else cap
                ),
                limit=limit,
            )
        except CalibrationError as error:
            log.info("%s keeps its rounding: %s", first.name, error)
            return stored
        found[part] = learnt_part.integers
    return layer.stored(reads.rows(found, rows.shape))


def _drawn(
    reference: GraphView,
    view: GraphView,
    use: IntegerLayer,
    width: int,
    shares: int,
    workshop: Workshop,
) -> list[_Drawn]:
    """Some positions of every image, drawn by its name and the layer's."""
    reads = use.reading
    assert isinstance(reads, Reading)
    right = GraphPart(reference, [reference.input], [use.output], literal=False)
    ours = GraphPart(view, [view.input], [use.twin.input[0]], literal=True)
    step, shift = input_step(view, use)
    samples = workshop.samples
    most = min(MOST_PLACES, MOST_VALUES // (width * reads.groups)) // (shares * len(samples))

    def draw(sample: Sample) -> _Drawn:
        image = workshop.input(sample)
        target: Values = right(image)[0]
        values: Values = ours(image)[0]
        name = f"{workshop.seed}/{sample.name}/{use.name}".encode()
        dice = np.random.default_rng(list(hashlib.sha256(name).digest()))
        places = reads.places(target.shape)
        chosen = dice.choice(places, size=min(places, max(1, most)), replace=False)
        read = reads.inputs(values, chosen, target.shape)
        levels = np.rint((read.astype(np.float64) - shift) / step * HALVES)
        return _Drawn(inputs=levels.astype(np.float32), target=reads.outputs(target, chosen))

    return workshop.each(draw, samples)
