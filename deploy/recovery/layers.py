"""The layers of a float file that its int8 file computes on integers, in the order they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.calibration.learnt_rounding import Activation
from segdeploy.deploy.onnx_model.graph import attributes
from segdeploy.deploy.quantize.operators import LayerWeight, is_layer, layer_weight
from segdeploy.deploy.recovery.receptive import Reading, reading
from segdeploy.deploy.sensitivity.pairs import rounding_of, shift_of
from segdeploy.deploy.sensitivity.parts import GraphView


@dataclass(frozen=True, kw_only=True)
class IntegerLayer:
    """One layer in both files.

    Attributes:
        name: of its node in both.
        weight: name of its weight in the float file.
        layer: where that stands.
        reading: how it reads its input; ``None`` where that is not followed.
        output: its output in both, in front of what comes behind.
        twin: its node in the int8 file.
        takes_bias: it can be given one.
    """

    name: str
    weight: str
    layer: LayerWeight
    reading: Reading | None
    output: str
    twin: onnx.NodeProto
    takes_bias: bool


def integer_layers(reference: GraphView, candidate: GraphView) -> tuple[IntegerLayer, ...]:
    """Every layer whose input and weight are integers in the int8 file, in graph order."""
    twins = {node.name: node for node in candidate.nodes}
    found = []
    for node in reference.nodes:
        layer, twin = layer_weight(node), twins.get(node.name)
        if layer is None or twin is None or node.input[layer.place] not in reference.constants:
            continue
        weight = candidate.made_by(twin.input[layer.place], "DequantizeLinear")
        if weight is None or rounding_of(candidate, twin.input[0]) is None:
            continue
        name = node.input[layer.place]
        found.append(
            IntegerLayer(
                name=node.name,
                weight=name,
                layer=layer,
                reading=reading(node, layer, tuple(reference.constants[name].dims)),
                output=node.output[0],
                twin=twin,
                takes_bias=is_layer(node) and node.op_type != "MatMul",
            )
        )
    return tuple(found)


def by_weight(layers: tuple[IntegerLayer, ...]) -> Mapping[str, tuple[IntegerLayer, ...]]:
    """The layers of each weight: a recurrent convolution's is read several times."""
    found: dict[str, tuple[IntegerLayer, ...]] = {}
    for layer in layers:
        found[layer.weight] = (*found.get(layer.weight, ()), layer)
    return found


def read_alike(uses: tuple[IntegerLayer, ...]) -> bool:
    """Whether layers take a weight's integers for the same: by the same scales, in the same order.

    A Conv and a ConvTranspose, or a Gemm that transposes and one that does not, differ.
    """
    forms = {
        (use.layer.axis, use.layer.groups, use.reading.groups, use.reading.mirrored)
        if use.reading
        else None
        for use in uses
    }
    return len(forms) == 1 and None not in forms


def integers_of(view: GraphView, layer: IntegerLayer) -> NDArray[np.int8]:
    """A layer's integers in the int8 file."""
    return np.asarray(view.value(_dequantizer(view, layer).input[0]), np.int8)


def scale_of(view: GraphView, layer: IntegerLayer) -> NDArray[np.float64]:
    """The scale of each output channel."""
    scale = view.value(_dequantizer(view, layer).input[1]).astype(np.float64)
    return layer.layer.of_rows(np.atleast_1d(scale))


def input_step(view: GraphView, layer: IntegerLayer) -> tuple[float, float]:
    """Scale of a layer's input, and what was added to it before it was rounded."""
    node = view.made_by(layer.twin.input[0], "DequantizeLinear")
    assert node is not None, layer.name
    return float(view.value(node.input[1])), shift_of(view, layer.twin.input[0])


def bias_of(view: GraphView, node: onnx.NodeProto, channels: int) -> NDArray[np.float32]:
    """The bias that a node adds in the float file; zeros where it adds none."""
    if len(node.input) > 2 and node.input[2]:
        return np.asarray(view.value(node.input[2]), np.float32)
    return np.zeros(channels, np.float32)


def activation_behind(view: GraphView, name: str, steps: NDArray[np.float64]) -> Activation:
    """What alone reads a layer's output, as far as it is piecewise linear.

    Args:
        view: the float file.
        name: of the output.
        steps: what one step of the layer's sums is, for each output channel.
    """
    node = view.only_reader(name)
    if node is None:
        return Activation()
    if node.op_type == "Relu":
        return Activation(slope=0.0)
    if node.op_type == "LeakyRelu":
        slope = float(attributes(node).get("alpha", 0.01))
        return Activation(slope=slope) if 0 <= slope <= 1 else Activation()
    if node.op_type == "Clip" and len(node.input) > 2:
        low, high = (view.constant(each) for each in node.input[1:3])
        if low is not None and high is not None and float(low) == 0 < float(high):
            return Activation(slope=0.0, cap=np.rint(float(high) / steps))
    return Activation()


def _dequantizer(view: GraphView, layer: IntegerLayer) -> onnx.NodeProto:
    node = view.made_by(layer.twin.input[layer.layer.place], "DequantizeLinear")
    assert node is not None, layer.name
    return node
