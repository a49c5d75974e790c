"""QuantizeLinear and DequantizeLinear pairs for a float graph, and integers for its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from segdeploy.deploy.targets.profiles import TargetProfile

OUTPUT_CHANNEL_AXIS = 0


class QdqWriter:
    """Rewrites one graph in place, collecting the new nodes and initialisers.

    ``shifts`` are added to activations before they are rounded, and taken off again in the biases
    of the convolutions that read them.
    """

    def __init__(
        self,
        graph: onnx.GraphProto,
        profile: TargetProfile,
        exclude: Collection[str],
        shifts: Mapping[str, np.float32],
    ) -> None:
        self.graph = graph
        self.profile = profile
        self.exclude = exclude
        self.shifts = shifts
        self.weights = dict(GraphIndex(graph).constants)
        self.stored = frozenset(self.weights)
        self.first: list[onnx.NodeProto] = []
        self.added: dict[str, onnx.TensorProto] = {}
        self.integers: dict[str, NDArray[np.int8]] = {}
        self.before: dict[str, list[onnx.NodeProto]] = {}
        self.after: dict[str, list[onnx.NodeProto]] = {}

    def quantize_weights(self, activations: dict[str, QuantParams]) -> None:
        """Replace weight and bias of every quantized convolution by int8 and int32."""
        convolutions = [
            node
            for node in self.graph.node
            if node.op_type == "Conv"
            and node.op_type in self.profile.operators
            and node.name not in self.exclude
        ]
        weight_params = self._weight_params(convolutions, activations)
        for node in convolutions:
            stored, params = node.input[1], weight_params[node.input[1]]
            if node.input[0] in self.shifts:
                self._take_off_shift(node, params)
            integers = self._integer_weight(stored, params)
            own = [self._dequantized(stored, f"{node.name}/weight", integers, params)]
            node.input[1] = own[0].output[0]
            if _has_bias(node) and self.profile.quantize_bias:
                bias = self._value(node.input[2])
                scales = bias_params(
                    bias,
                    input_scale=activations[node.input[0]].scale,
                    weight_scale=params.scale,
                    integers=integers,
                )
                own.append(
                    self._dequantized(
                        f"{node.name}.bias", f"{node.name}/bias", quantize(bias, scales), scales
                    )
                )
                node.input[2] = own[1].output[0]
            self.before[node.name] = own
        for node in self.graph.node:
            kept = node.op_type == "Conv" and node.name in self.exclude
            constant = _has_bias(node) and node.input[2] in self.stored
            if kept and activations and constant and self.profile.quantize_bias:
                self._keep_in_float(node)

    def quantize_activations(self, activations: dict[str, QuantParams]) -> None:
        """Put a Q-DQ pair behind every quantized activation and point its consumers at it.

        A constant becomes integers, for the quantized Add and Concat that read it alone.
        """
        joined = {name: params for name, params in activations.items() if name in self.stored}
        self._store_integers(joined)
        activations = {n: params for n, params in activations.items() if n not in joined}
        for name, params in activations.items():
            scale = self._constant(f"{name}/scale", params.scale)
            zero = self._constant(f"{name}/zero_point", params.zero_point)
            shifted = self._shifted(name)
            rounded = shifted[0].output[0] if shifted else name
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
            self.after[name] = pair
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
            quantized = node.op_type in self.profile.operators and node.name not in self.exclude
            if quantized and node.op_type in ("Add", "Concat"):
                node.input[:] = [f"{n}/joined/dq" if n in constants else n for n in node.input]

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
        self, convolutions: list[onnx.NodeProto], activations: dict[str, QuantParams]
    ) -> dict[str, QuantParams]:
        """Parameters of each weight, coarse enough that every use's sums fit in int32.

        Of a bias that stays float, too: ONNX Runtime rounds it to these steps by itself.
        """
        smallest: dict[str, NDArray[np.float64]] = {}
        for node in convolutions:
            weight = node.input[1]
            floor = smallest.get(weight, np.zeros(len(self._value(weight))))
            if _has_bias(node):
                needed = smallest_weight_scale(
                    self._value(node.input[2]),
                    input_scale=activations[node.input[0]].scale,
                    weight=self._value(weight),
                )
                floor = np.maximum(floor, needed)
            smallest[weight] = floor
        return {
            weight: per_channel_weight(
                self._value(weight),
                axis=OUTPUT_CHANNEL_AXIS,
                reduce_range=self.profile.reduce_range,
                min_scale=floor,
            )
            for weight, floor in smallest.items()
        }

    def _shifted(self, name: str) -> list[onnx.NodeProto]:
        """The node that adds an activation's shift; none where there is nothing to add."""
        shift = self.shifts.get(name, np.float32(0))
        if shift == 0:
            return []
        amount = self._constant(f"{name}/shift", shift)
        return [helper.make_node("Add", [name, amount], [f"{name}/shifted"], name=f"{name}/Shift")]

    def _take_off_shift(self, node: onnx.NodeProto, params: QuantParams) -> None:
        """Give a convolution the bias with which it computes as if its input were not shifted."""
        weight = dequantize(self._integer_weight(node.input[1], params), params)
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

    def _value(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self.weights[name])

    def _integer_weight(self, name: str, params: QuantParams) -> NDArray[np.int8]:
        """A weight's integers, found once however many convolutions share it."""
        if name not in self.integers:
            self.integers[name] = quantize_weight(self._value(name), params)
        return self.integers[name]

    def _dequantized(
        self, stored: str, result: str, values: NDArray[Any], params: QuantParams
    ) -> onnx.NodeProto:
        """A DequantizeLinear over an integer constant; a constant stored before is shared."""
        integers = self._constant(f"{stored}/q", values)
        scale = self._constant(f"{stored}/scale", params.scale)
        return helper.make_node(
            "DequantizeLinear",
            [integers, scale],
            [f"{result}/dq"],
            name=f"{result}/DQ",
            axis=OUTPUT_CHANNEL_AXIS,
        )

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(np.asarray(value), name)
        return name


def _has_bias(node: onnx.NodeProto) -> bool:
    return len(node.input) > 2 and bool(node.input[2])
