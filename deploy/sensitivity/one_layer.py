"""What each layer costs alone: the network in float, one convolution at a time in int8.

One pass through the graph serves many layers. Behind a convolution that is quantized alone the
activations are a variant of the float ones; all variants go on side by side as one batch, so a
layer costs what lies behind it, not a whole network and not a session of its own.

A layer in int8 is its weight and bias as the int8 file holds them, and every rounding that the file
makes between the convolutions before it and itself (a Concat may round twice).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.graph import layer_name
from segdeploy.deploy.quantize.activations import weight_of
from segdeploy.deploy.sensitivity.pairs import LayerPair, shift_of
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView, Values
from segdeploy.deploy.sensitivity.steps import Step, behind_the_last_convolution, steps_of
from segdeploy.deploy.system.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One tensor of one image in its variants.

    Attributes:
        values: (1 + variants, ...), a tensor each as one image makes it: in float, then for each
            layer with that layer alone in int8.
        layers: index of the layer of each variant, ascending.
        rounded: (1, ...): in float up to the last convolution, rounded as in int8 since.
    """

    values: Values
    layers: tuple[int, ...]
    rounded: Values

    def for_layers(self, layers: Sequence[int]) -> Values:
        """``values`` with a row for each of ``layers``, the float one where one has no effect."""
        if tuple(layers) == self.layers:
            return self.values
        place = {layer: row for row, layer in enumerate(self.layers, start=1)}
        return self.values[[0, *(place.get(layer, 0) for layer in layers)]]


@dataclass(frozen=True, kw_only=True)
class OneLayerOutputs:
    """What one image shows.

    Attributes:
        output: of the network in float, (1, ...).
        outputs: with one layer in int8, by its index.
        inputs: noise of each layer's own input, rounded alone.
    """

    output: Values
    outputs: dict[int, Values]
    inputs: dict[int, Noise]


class OneLayerNetwork:
    """A float network whose convolutions can each be put in int8 alone.

    Args:
        reference: the float model.
        candidate: its int8 model.
        pairs: the layers.
        roundings: of the int8 model, by ``rounding_parts``.
        batched: whether the float model takes more than one image a call.

    Raises:
        InputError: ONNX Runtime does not accept a part of a model.
    """

    def __init__(
        self,
        reference: GraphView,
        candidate: GraphView,
        pairs: Sequence[LayerPair],
        *,
        roundings: Mapping[str, GraphPart],
        batched: bool,
    ) -> None:
        self._view, self._int8, self._batched = reference, candidate, batched
        self._twins = {layer_name(node): node for node in candidate.nodes}
        self._pairs = {pair.name: (index, pair) for index, pair in enumerate(pairs)}
        self._steps = steps_of(reference)
        self._ends = behind_the_last_convolution(reference)
        self._last = frozenset(i for i, pair in self._pairs.values() if pair.output in self._ends)
        self._parts: dict[str, GraphPart] = {}
        self._roundings = roundings
        self._prepare()

    def run(self, image: Values, layers: Iterable[int]) -> OneLayerOutputs:
        """One image (1, C, H, W) with each of ``layers`` alone in int8.

        Raises:
            RunError: ONNX Runtime failed.
        """
        wanted = frozenset(layers)
        waiting = Counter(name for step in self._steps for name in step.inputs)
        waiting[self._view.output] += 1
        fed = image[None]
        known = {self._view.input: Rows(values=fed, layers=(), rounded=fed)}
        noise: dict[int, Noise] = {}
        for step in self._steps:
            if len(step.inputs) == 1 and weight_of(step.node, self._view) is not None:
                known[step.output] = self._convolve(step, known[step.inputs[0]], wanted, noise)
            else:
                known[step.output] = self._apply(step, [known[name] for name in step.inputs])
            for name in step.inputs:
                waiting[name] -= 1
                if not waiting[name]:
                    del known[name]
        rows = known[self._view.output]
        values = self._last_rounded(self._int8.output, rows.values, rows.layers)
        found = dict(zip(rows.layers, values[1:], strict=True))
        return OneLayerOutputs(
            output=values[0],
            outputs={layer: found.get(layer, values[0]) for layer in wanted},
            inputs=noise,
        )

    def _convolve(
        self, step: Step, rows: Rows, wanted: frozenset[int], noise: dict[int, Noise]
    ) -> Rows:
        """All variants through a convolution in float, and a new one that it makes in int8."""
        values = self._call(self._parts[step.output], rows.values)
        layers = rows.layers
        index, pair = self._pairs.get(layer_name(step.node), (None, None))
        if index in wanted and index is not None and pair is not None:
            rounded = self._rounded(pair.twin.input[0], rows.rounded)
            shift = shift_of(self._int8, pair.twin.input[0])
            noise[index] = Noise.between(rows.values[:1], rounded - np.float32(shift))
            own = np.stack(self._parts[f"{step.output} in int8"](rounded[0]))
            own = np.maximum(own, 0) if pair.rectified else own
            values, layers = np.concatenate([values, own]), (*layers, index)
        return Rows(values=values, layers=layers, rounded=values[:1])

    def _apply(self, step: Step, sources: Sequence[Rows]) -> Rows:
        """All variants through any other operator, and what is rounded since the convolution."""
        layers = tuple(sorted({layer for rows in sources for layer in rows.layers}))
        feeds = [rows.for_layers(layers) for rows in sources]
        rounded = [rows.rounded for rows in sources]
        twin = self._twins.get(layer_name(step.node))
        if twin is not None:
            names = ["" if place is None else twin.input[place] for place in step.places]
            rounded = [self._rounded(*each) for each in zip(names, rounded, strict=True)]
            if step.output in self._ends:
                feeds = [
                    self._last_rounded(name, values, layers)
                    for name, values in zip(names, feeds, strict=True)
                ]
        part = self._parts[step.output]
        return Rows(
            values=self._call(part, *feeds), layers=layers, rounded=self._call(part, *rounded)
        )

    def _rounded(self, name: str, values: Values) -> Values:
        """What the int8 file makes of ``values`` in front of its tensor ``name``."""
        part = self._roundings.get(name)
        return values if part is None else part(values)[0]

    def _last_rounded(self, name: str, values: Values, layers: Sequence[int]) -> Values:
        """Behind the last convolution: its own variant is rounded there, too."""
        own = [row for row, layer in enumerate(layers, start=1) if layer in self._last]
        if not own or name not in self._roundings:
            return values
        values = values.copy()
        values[own] = self._rounded(name, values[own])
        return values

    def _call(self, part: GraphPart, *feeds: Values) -> Values:
        """One output of a part, for each row of what it takes; together where they can go so."""
        count = len(feeds[0])
        in_front = {feed.shape[1:2] for feed in feeds}
        if self._batched and len(in_front) == 1 and in_front != {()}:
            with suppress(RunError):  # a tensor that has no batch in front
                (made,) = part(*(feed.reshape(-1, *feed.shape[2:]) for feed in feeds))
                if np.ndim(made) and len(made) % count == 0:
                    return np.reshape(made, (count, -1, *made.shape[1:]))
        return np.stack([part(*(np.asarray(feed[i]) for feed in feeds))[0] for i in range(count)])

    def _prepare(self) -> None:
        """A session for each step, one for all convolutions of the same weights."""
        same: dict[bytes, GraphPart] = {}
        for step in self._steps:
            key = step.key()
            if key not in same:
                same[key] = GraphPart(self._view, step.inputs, [step.output], literal=False)
            self._parts[step.output] = same[key]
            _, pair = self._pairs.get(layer_name(step.node), (None, None))
            if pair is not None:
                ends = [pair.twin.input[0]], [pair.twin.output[0]]
                self._parts[f"{step.output} in int8"] = GraphPart(self._int8, *ends, literal=True)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Of one layer alone, over some images: noise at output and input, and pixels that change."""

    output: Noise = SILENCE
    input: Noise = SILENCE
    changed: int = 0
    pixels: int = 0

    def __add__(self, other: Effect) -> Effect:
        return Effect(
            output=self.output + other.output,
            input=self.input + other.input,
            changed=self.changed + other.changed,
            pixels=self.pixels + other.pixels,
        )


def effects_of(found: OneLayerOutputs, contract: OutputContract) -> dict[int, Effect]:
    """What one image shows, reduced to sums; a pixel changes where any of its classes does."""
    members = contract.members(found.output)
    return {
        layer: Effect(
            output=Noise.between(found.output, output),
            input=found.inputs[layer],
            changed=int(np.count_nonzero((members != contract.members(output)).any(axis=1))),
            pixels=output.size // output.shape[1],
        )
        for layer, output in found.outputs.items()
    }
