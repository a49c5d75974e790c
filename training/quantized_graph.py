"""An int8 QDQ graph as a differentiable network: trained with the integers the device will use.

Where Q and DQ stand and with which scales is read from the int8 file that ``to_int8`` writes;
nothing here decides it again. Rounding passes gradients through, inside the range of the integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.quantize.operators import layer_weight
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.torch_operators import OPERATIONS

LAST_ACTIVATIONS = ("Sigmoid", "Softmax")
SMALLEST = float(np.finfo(np.float32).tiny)

Requantize = Callable[[Mapping[str, np.ndarray[Any, Any]]], onnx.ModelProto]
"""New float weights by initialiser name to the int8 graph that the writer makes of them."""


class _Layer:
    """How the weight and bias of one layer of the int8 graph follow from trained values."""

    def __init__(
        self, node: onnx.NodeProto, plain: onnx.NodeProto, floats: GraphIndex, index: GraphIndex
    ) -> None:
        stored = layer_weight(plain)
        assert stored is not None
        self.axis = stored.axis
        self.weight = plain.input[stored.place]
        self.bias = plain.input[stored.bias] if stored.bias is not None else None
        self.weight_name = node.input[stored.place]
        has_bias = len(node.input) > 2 and bool(node.input[2])
        self.bias_name = node.input[2] if has_bias else None
        self.of_weight = index.made_by(self.weight_name, "DequantizeLinear")
        self.quantized = self.of_weight is not None
        made = index.producer.get(self.bias_name or "")
        pair = index.made_by(node.input[0], "DequantizeLinear")
        self.rounded_bias = made is not None and self.quantized and pair is not None
        self.step = float(index.value(pair.input[1])) if pair is not None else 1.0
        self.shift = 0.0
        if pair is not None and self.quantized:
            source = index.producer.get(index.producer[pair.input[0]].input[0])
            if source is not None and source.name not in {n.name for n in floats.graph.node}:
                self.shift = float(index.value(source.input[1]))


class QuantizedGraph(nn.Module):
    """The network that an int8 file computes, up to its logits, with float weights to train.

    In training mode weights and biases are rounded as they are now, each to the nearest step; in
    evaluation mode they are the integers of the file that ``requantize`` writes of them.

    Args:
        floats: the float graph that was quantized; its layers' constants become parameters.
        requantize: writes the int8 graph of new weights.
        largest: magnitude of a weight's integers: 127, or 64 of 7 bits.

    Raises:
        UsageError: an operator that this form lacks; the message names it.
    """

    def __init__(
        self, floats: onnx.ModelProto, requantize: Requantize, *, largest: int = 127
    ) -> None:
        super().__init__()
        self._requantize = requantize
        self._largest = largest
        plain = {node.name: node for node in floats.graph.node}
        float_index = GraphIndex(floats.graph)
        model = requantize({})
        index = GraphIndex(model.graph)
        known = {*OPERATIONS, "QuantizeLinear", "DequantizeLinear"}
        lacking = sorted({node.op_type for node in model.graph.node} - known)
        if lacking:
            raise UsageError(
                f"operators {', '.join(lacking)} cannot be trained quantized yet; "
                "quantize the network after training instead"
            )
        self._nodes = list(model.graph.node)
        self._said = [attributes(node) for node in self._nodes]
        self._input, self._output = index.inputs[0], model.graph.output[0].name
        last = index.producer[self._output]
        if last.op_type in LAST_ACTIVATIONS:
            self._output = last.input[0]
            self._said = [s for n, s in zip(self._nodes, self._said, strict=True) if n is not last]
            self._nodes = [node for node in self._nodes if node is not last]
        self._layers = [
            _Layer(node, plain[node.name], float_index, index)
            for node in self._nodes
            if node.name in plain
            and (weight := layer_weight(plain[node.name])) is not None
            and plain[node.name].input[weight.place] in float_index.constants
        ]
        self._parameter: dict[str, str] = {}
        for layer in self._layers:
            for name in filter(None, (layer.weight, layer.bias)):
                if name in float_index.constants and name not in self._parameter:
                    own = f"p{len(self._parameter)}"
                    self._parameter[name] = own
                    value = torch.from_numpy(float_index.value(name).copy())
                    self.register_parameter(own, nn.Parameter(value))
        self._constants: dict[str, Tensor] = {}
        self._pairs: dict[str, tuple[Tensor, Tensor, int, int]] = {}
        self._taken: tuple[int, ...] | None = None
        self._take(model)

    def _take(self, model: onnx.ModelProto) -> None:
        """Take the constants of an int8 graph of these very nodes."""
        values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        made: dict[str, Tensor] = {}
        for node, said in zip(self._nodes, self._said, strict=True):
            if node.op_type == "QuantizeLinear":
                zero = values[node.input[2]]
                limits = np.iinfo(zero.dtype)
                self._pairs[node.output[0]] = (
                    torch.tensor(values[node.input[1]]),
                    torch.tensor(zero.astype(np.float32)),
                    int(limits.min),
                    int(limits.max),
                )
            elif node.op_type == "DequantizeLinear" and node.input[0] in values:
                integers, scale = values[node.input[0]], values[node.input[1]]
                zero = (
                    values[node.input[2]]
                    if len(node.input) > 2
                    else np.zeros_like(integers, shape=())
                )
                shape = [1] * integers.ndim
                if scale.ndim:
                    shape[said.get("axis", 1)] = -1
                    scale = scale.reshape(shape)
                steps = integers.astype(np.int64) - zero.astype(np.int64).reshape(
                    shape if zero.ndim else ()
                )
                made[node.output[0]] = torch.from_numpy(
                    np.asarray(steps.astype(np.float32) * scale, np.float32)
                )
        floats = {
            n: torch.tensor(v) for n, v in values.items() if v.dtype in (np.float32, np.int64)
        }
        self._constants = {**floats, **made}

    def _versions(self) -> tuple[int, ...]:
        return tuple(p._version for p in self.parameters())

    def values(self) -> dict[str, np.ndarray[Any, Any]]:
        """Trained weights and biases by initialiser name of the float graph."""
        return {
            name: self.get_parameter(own).detach().cpu().numpy()
            for name, own in self._parameter.items()
        }

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits as a list of one, for the loop that trains networks of several heads."""
        return [self(x)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image to logits (N, K, H, W)."""
        if self.training:
            known = {**self._constants, **self._trained()}
        else:
            if self._taken != self._versions():
                self._take(self._requantize(self.values()))
                self._taken = self._versions()
            known = dict(self._constants)
        known[self._input] = x
        for node, said in zip(self._nodes, self._said, strict=True):
            name = node.output[0]
            if name in known:
                continue
            if node.op_type == "QuantizeLinear":
                known[name] = self._rounded(known[node.input[0]], *self._pairs[name])
            elif node.op_type == "DequantizeLinear":
                known[name] = known[node.input[0]]
            else:
                inputs = [known[n] if n else None for n in node.input]
                known[name] = OPERATIONS[node.op_type](inputs, said)
        return known[self._output]

    def _rounded(self, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        """An activation on the steps of its integers."""
        if self.training:
            return torch.fake_quantize_per_tensor_affine(x, float(scale), int(zero), low, high)
        steps = ((x / scale).round() + zero).clamp(low, high)
        return (steps - zero) * scale

    def _trained(self) -> dict[str, Tensor]:
        """Weights and biases as integers of their present scales, with gradients."""
        made: dict[str, Tensor] = {}
        for layer in self._layers:
            weight = self.get_parameter(self._parameter[layer.weight])
            scale = None
            if layer.quantized:
                shared = made.get(layer.weight_name)
                dims = [d for d in range(weight.ndim) if d != layer.axis]
                peak = weight.detach().abs().amax(dims)
                scale = (peak / self._largest).clamp_min(SMALLEST)
                shape = [1] * weight.ndim
                shape[layer.axis] = -1
                steps = (weight / scale.view(shape)).round().clamp(-self._largest, self._largest)
                rounded = steps * scale.view(shape)
                made[layer.weight_name] = (
                    shared if shared is not None else weight + (rounded - weight).detach()
                )
            else:
                made[layer.weight_name] = weight
            if layer.bias_name is None:
                continue
            used = made[layer.weight_name]
            bias: Tensor | float = 0.0
            if layer.bias is not None and layer.bias in self._parameter:
                bias = self.get_parameter(self._parameter[layer.bias])
            if layer.shift:
                bias = bias - layer.shift * used.sum(
                    [d for d in range(used.ndim) if d != layer.axis]
                )
            if isinstance(bias, Tensor):
                if layer.rounded_bias and scale is not None and bias.numel() == scale.numel():
                    step = scale * layer.step
                    bias = bias + ((bias / step).round() * step - bias).detach()
                made[layer.bias_name] = bias
        return made
