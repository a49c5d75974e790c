"""What each layer's activation has become when everything before it is quantized, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorCounter, TensorHistogram
from segdeploy.calibration.noise import Noise
from segdeploy.deploy.sensitivity.pairs import LayerPair, Rounding, shift_of
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView, Values
from segdeploy.deploy.system.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Accumulated:
    """What one image shows, or several added up.

    Attributes:
        layers: noise of each layer's output in the whole int8 model, by name; a layer whose output
            the int8 model does not hold as a float tensor is missing.
        roundings: noise that each rounding of an activation makes on the float values.
        inputs: histograms of what the layers read and what is rounded, in the float model, by
            tensor.
        largest_bytes: of one of these tensors, for one image.
    """

    layers: dict[str, Noise]
    roundings: dict[Rounding, Noise]
    inputs: dict[str, TensorHistogram]
    largest_bytes: int

    def __add__(self, other: Accumulated) -> Accumulated:
        return Accumulated(
            layers={name: noise + other.layers[name] for name, noise in self.layers.items()},
            roundings={
                each: noise + other.roundings[each] for each, noise in self.roundings.items()
            },
            inputs={name: found + other.inputs[name] for name, found in self.inputs.items()},
            largest_bytes=max(self.largest_bytes, other.largest_bytes),
        )


class SideBySide:
    """The float model and the whole int8 model side by side, every layer returned.

    Both run on ONNX Runtime; the int8 model literally, in float32 between the roundings.

    Args:
        reference: the float model.
        candidate: its int8 model.
        pairs: the layers.
        roundings: of the int8 model, by ``rounding_parts``.

    Raises:
        InputError: ONNX Runtime does not accept a model.
    """

    def __init__(
        self,
        reference: GraphView,
        candidate: GraphView,
        pairs: Sequence[LayerPair],
        *,
        roundings: Mapping[str, GraphPart],
    ) -> None:
        seen = {pair.name: _counterpart(candidate, pair) for pair in pairs}
        self._seen = {name: tensor for name, tensor in seen.items() if tensor is not None}
        self._outputs = {pair.name: pair.output for pair in pairs}
        self._input = reference.input
        sites = dict.fromkeys(site for pair in pairs for site in pair.roundings)
        self._roundings = {site: roundings[site.rounded] for site in sites}
        self._shifts = {site: shift_of(candidate, site.rounded) for site in sites}
        read = [pair.node.input[0] for pair in pairs] + [site.tensor for site in sites]
        self._read = tuple(dict.fromkeys(read))
        fetched = dict.fromkeys((*self._outputs.values(), *self._read))
        self._wanted = tuple(name for name in fetched if name != reference.input)
        self._found = tuple(dict.fromkeys(self._seen.values()))
        self._float = GraphPart(reference, [reference.input], self._wanted, literal=False)
        self._int8 = GraphPart(candidate, [candidate.input], self._found, literal=True)

    def run(self, image: Values) -> Accumulated:
        """One image (1, C, H, W).

        Raises:
            RunError: a model failed, or an activation is not finite.
        """
        wanted = dict(zip(self._wanted, self._float(image), strict=True)) | {self._input: image}
        found = dict(zip(self._found, self._int8(image), strict=True))
        layers: dict[str, Noise] = {}
        for name, tensor in self._seen.items():
            try:
                layers[name] = Noise.between(wanted[self._outputs[name]], found[tensor])
            except CalibrationError as error:
                raise RunError(f"the output of layer {name} cannot be compared: {error}") from error
        inputs = {}
        for name in self._read:
            counter = TensorCounter()
            counter.add(wanted[name])
            inputs[name] = counter.histogram()
        return Accumulated(
            layers=layers,
            roundings={
                site: Noise.between(
                    wanted[site.tensor],
                    part(wanted[site.tensor])[0] - np.float32(self._shifts[site]),
                )
                for site, part in self._roundings.items()
            },
            inputs=inputs,
            largest_bytes=max(values.nbytes for values in wanted.values()),
        )


def _counterpart(candidate: GraphView, pair: LayerPair) -> str | None:
    """The tensor of the int8 model that stands for a layer's output.

    A tool may drop a ReLU whose output is quantized, because the rounding clips at zero: there it
    is what is dequantized.
    """
    if not pair.rectified:
        return str(pair.twin.output[0])
    if candidate.made_by(pair.output, "Relu") is not None:
        return pair.output
    name = str(pair.twin.output[0])
    for reader in candidate.readers.get(name, []):
        if reader.op_type == "Relu":
            return str(reader.output[0])
        if reader.op_type == "QuantizeLinear":
            for back in candidate.readers.get(reader.output[0], []):
                if back.op_type == "DequantizeLinear":
                    return str(back.output[0])
    return None
