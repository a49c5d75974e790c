"""QuantizeLinear and DequantizeLinear pairs for a float graph, and integers for its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from segdeploy.calibration.qparams import QuantParams, dequantize, quantize
from segdeploy.calibration.weights import (
    bias_params,
    per_channel_weight,
    quantize_weight,
    smallest_weight_scale,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.quantize.activations import weight_of
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.quantize.operators import activation_inputs, is_layer, operator_of
from segdeploy.deploy.targets.profiles import TargetProfile


class QdqWriter:
    """Rewrites one graph in place, collecting the new nodes and initialisers.

    ``quantized`` names the nodes that run on integers. ``shifts`` are added to activations before
    they are rounded, and taken off again in the biases of the convolutions that read them.
    ``learnt`` stands in for the integers and biases that the graph's constants give.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        profile: TargetProfile,
        quantized: Collection[str],
        shifts: Mapping[str, np.float32],
        second: Mapping[str, str],
        learnt: LearntParameters,
    ) -> None:
        self.graph = graph
        self.profile = profile
        self.quantized = quantized
        self.shifts = shifts
        self.second = second
        self.learnt = learnt
        index = GraphIndex(graph)
        self.weights = dict(index.constants)
        self.layers = {
            node.name: weight
            for node in graph.node
            if is_layer(node) and (weight := weight_of(node, index)) is not None
        }
        self.stored = frozenset(self.weights)
        self.first: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        self.integers: dict[tuple[str, int], NDArray[np.int8]] = {}
        self.before: dict[str, list[onnx.NodeProto]] = {}
        self.after: dict[str, list[onnx.NodeProto]] = {}

    def quantize_weights(self, activations: Mapping[str, QuantParams]) -> None:
        """Replace weight and bias of every quantized layer by int8 and int32."""
        layers = [n for n in self.graph.node if n.name in self.layers and n.name in self.quantized]
        for node in layers:
            self._take_learnt_bias(node)
        weight_params = self._weight_params(layers, activations)
        for node in layers:
            layer = self.layers[node.name]
            params = weight_params[self._key(node)]
            if node.input[0] in self.shifts:
                self._take_off_shift(node, params)
            integers = self._integer_weight(node, params)
            name = self._weight_name(node)
            own = [self._dequantized(name, f"{node.name}/weight", integers, params, layer.axis)]
            node.input[layer.place] = own[0].output[0]
            if _has_bias(node) and self.profile.quantize_bias:
                bias = self._value(node.input[2])
                scales = bias_params(
                    bias,
                    input_scale=activations[node.input[0]].scale,
                    weight_scale=layer.of_rows(params.scale),
                    integers=layer.rows(integers),
                )
                own.append(
                    self._dequantized(
                        f"{node.name}.bias", f"{node.name}/bias", quantize(bias, scales), scales
                    )
                )
                node.input[2] = own[1].output[0]
            self.before[node.name] = own
        for node in self.graph.node:
            kept = node.name in self.layers and node.name not in self.quantized
            if not kept or not activations or not self.profile.quantize_bias:
                continue
            if self.profile.kernels.rounds_outputs and operator_of(node).bias is not None:
                self._give_zero_bias(node)
            if _has_bias(node):
                self._keep_in_float(node)

    def quantize_activations(self, activations: Mapping[str, QuantParams]) -> None:
        """Put a Q-DQ pair behind every quantized activation and point its consumers at it.

        A constant becomes integers, for the quantized Add, Concat and Mul that read it alone.
        """
        joined = {name: params for name, params in activations.items() if name in self.stored}
        self._store_integers(joined)
        activations = {n: params for n, params in activations.items() if n not in joined}
        for name, params in activations.items():
            scale = self._constant(f"{name}/scale", params.scale)
            zero = self._constant(f"{name}/zero_point", params.zero_point)
            source = self.second.get(name, name)
            shifted = self._shifted(source)
            rounded = shifted[0].output[0] if shifted else source
            pair = [
                *shifted,
                helper.make_node(
                    "QuantizeLinear", [rounded, scale, zero], [f"{name}/q"], name=f"{name}/Q"
                ),
                helper.make_node(
                    "DequantizeLinear",
                    [f"{name}/q", scale, zero],
                    [f"{name}/dq"],
                    name=f"{name}/DQ",
                ),
            ]
            self.after.setdefault(source, []).extend(pair)
        for node in self.graph.node:
            node.input[:] = [f"{n}/dq" if n in activations else n for n in node.input]

    def _store_integers(self, constants: Mapping[str, QuantParams]) -> None:
        """Integers for constants, and a DequantizeLinear over each."""
        for name, params in constants.items():
            made = f"{name}/joined"
            integers = self._constant(f"{made}/q", quantize(self._value(name), params))
            scale = self._constant(f"{made}/scale", params.scale)
            zero = self._constant(f"{made}/zero_point", params.zero_point)
            self.first.append(
                helper.make_node(
                    "DequantizeLinear", [integers, scale, zero], [f"{made}/dq"], name=f"{made}/DQ"
                )
            )
        for node in self.graph.node:
            if node.name in self.quantized and not is_layer(node):
                data = constants.keys() & activation_inputs(node)
                node.input[:] = [f"{n}/joined/dq" if n in data else n for n in node.input]

    def finish(self) -> None:
        """Write nodes and initialisers back in topological order."""
        nodes = list(self.first)
        for value in self.graph.input:
            nodes += self.after.get(value.name, [])
        for node in self.graph.node:
            nodes += [*self.before.get(node.name, []), node]
            for name in node.output:
                nodes += self.after.get(name, [])
        used = {name for node in nodes for name in node.input}
        kept = [tensor for name, tensor in self.weights.items() if name in used]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend([*kept, *self.added.values()])

    def _weight_params(
        self, layers: list[onnx.NodeProto], activations: Mapping[str, QuantParams]
    ) -> dict[tuple[str, int], QuantParams]:
        """Parameters of each weight, coarse enough that every use's sums fit in int32.

        Of a bias that stays float, too: ONNX Runtime rounds it to these steps by itself.
        """
        smallest: dict[tuple[str, int], NDArray[np.float64]] = {}
        for node in layers:
            layer, key = self.layers[node.name], self._key(node)
            weight = self._value(node.input[layer.place])
            floor = smallest.get(key, np.zeros(weight.shape[layer.axis]))
            if _has_bias(node):
                needed = smallest_weight_scale(
                    self._value(node.input[2]),
                    input_scale=activations[node.input[0]].scale,
                    weight=layer.rows(weight),
                )
                floor = np.maximum(floor, layer.along_axis(needed))
            smallest[key] = floor
        return {
            (name, axis): per_channel_weight(
                self._value(name),
                axis=axis,
                reduce_range=self.profile.reduce_range,
                min_scale=floor,
            )
            for (name, axis), floor in smallest.items()
        }

    def _key(self, node: onnx.NodeProto) -> tuple[str, int]:
        """What layers have in common that share integers: the weight, and how it is read."""
        layer = self.layers[node.name]
        return node.input[layer.place], layer.axis

    def _weight_name(self, node: onnx.NodeProto) -> str:
        """The name of a weight's integers: another where a layer of another kind was first."""
        name, axis = self._key(node)
        first = next(other for named, other in self.integers if named == name)
        return name if axis == first else f"{name}@{axis}"

    def _take_learnt_bias(self, node: onnx.NodeProto) -> None:
        """Give a layer the bias that was learnt, where one was."""
        if node.name in self.learnt.biases:
            name = f"{node.name}/bias/learnt"
            self.weights[name] = numpy_helper.from_array(self.learnt.biases[node.name], name)
            node.input[:] = [*node.input[:2], name]

    def _shifted(self, name: str) -> list[onnx.NodeProto]:
        """The node that adds an activation's shift; none where there is nothing to add."""
        shift = self.shifts.get(name, np.float32(0))
        if shift == 0:
            return []
        amount = self._constant(f"{name}/shift", shift)
        return [helper.make_node("Add", [name, amount], [f"{name}/shifted"], name=f"{name}/Shift")]

    def _take_off_shift(self, node: onnx.NodeProto, params: QuantParams) -> None:
        """Give a convolution the bias with which it computes as if its input were not shifted."""
        weight = dequantize(self._integer_weight(node, params), params)
        sums = weight.sum(axis=tuple(range(1, weight.ndim)), dtype=np.float64)
        bias = self._value(node.input[2]) if _has_bias(node) else np.float32(0)
        name = f"{node.name}/bias/unshifted"
        changed = (bias - self.shifts[node.input[0]] * sums).astype(np.float32)
        self.weights[name] = numpy_helper.from_array(changed, name)
        node.input[:] = [*node.input[:2], name]

    def _keep_in_float(self, node: onnx.NodeProto) -> None:
        """Store the bias of an excluded convolution as int32, exact to float32's last bits.

        ONNX Runtime quantizes the weights of a float convolution between two Q-DQ pairs by itself,
        with one scale; it leaves alone one whose bias is not a float constant.
        """
        bias = self._value(node.input[2])
        one = np.float32(1)
        step = smallest_weight_scale(bias, input_scale=one).astype(np.float32)
        params = bias_params(bias, input_scale=one, weight_scale=step)
        integers = quantize(bias, params)
        own = self._dequantized(f"{node.name}.bias", f"{node.name}/bias", integers, params)
        node.input[2] = own.output[0]
        self.before[node.name] = [own]

    def _give_zero_bias(self, node: onnx.NodeProto) -> None:
        """Let ``_keep_in_float`` hold a layer without bias, too."""
        if _has_bias(node):
            return
        layer = self.layers[node.name]
        outputs = len(layer.rows(self._value(node.input[layer.place])))
        name = f"{node.name}/bias/zero"
        self.weights[name] = numpy_helper.from_array(np.zeros(outputs, np.float32), name)
        node.input[:] = [*node.input[:2], name]

    def _value(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self.weights[name])

    def _integer_weight(self, node: onnx.NodeProto, params: QuantParams) -> NDArray[np.int8]:
        """A weight's integers, found once however many layers share it."""
        key, layer = self._key(node), self.layers[node.name]
        if key[0] in self.learnt.weights:
            self.integers[key] = self.learnt.weights[key[0]]
        if key not in self.integers:
            scale = layer.of_rows(params.scale)
            by_row = replace(params, scale=scale, zero_point=np.zeros_like(scale, np.int8), axis=0)
            rows = quantize_weight(layer.rows(self._value(key[0])), by_row)
            self.integers[key] = layer.stored(rows)
        return self.integers[key]

    def _dequantized(
        self, stored: str, result: str, values: NDArray[Any], params: QuantParams, axis: int = 0
    ) -> onnx.NodeProto:
        """A DequantizeLinear over an integer constant; a constant stored before is shared."""
        integers = self._constant(f"{stored}/q", values)
        scale = self._constant(f"{stored}/scale", params.scale)
        return helper.make_node(
            "DequantizeLinear", [integers, scale], [f"{result}/dq"], name=f"{result}/DQ", axis=axis
        )

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _has_bias(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])
