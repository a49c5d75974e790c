"""Write an int8 model: QuantizeLinear and DequantizeLinear around every quantized tensor (QDQ).

Weights are stored as int8 with one scale for each output channel, biases as int32 with the product
of input and weight scale. A weight used several times (R2U-Net's recurrent convolutions) is
quantized once and shared. Every ReLU of the source stays in the graph.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from calibration.qparams import QuantParams, from_range, quantize
from calibration.table import CalibrationTable
from calibration.weights import bias_params, per_channel_weight, smallest_weight_scale
from deploy.activations import followed_ranges, quantized_activations
from deploy.artifact import Artifact, Precision
from deploy.errors import InputError, UsageError
from deploy.onnx_file import (
    describe,
    load_model,
    metadata,
    require_fp32,
    save_model,
    set_metadata,
)
from deploy.shared_scales import Span, share_spans
from deploy.targets.profiles import TargetProfile

OUTPUT_CHANNEL_AXIS = 0


def to_int8(
    source: Artifact,
    output: Path,
    *,
    table: CalibrationTable,
    table_sha256: str,
    profile: TargetProfile,
    exclude: Collection[str] = (),
) -> Artifact:
    """Quantize a float32 model for a target.

    Args:
        source: the float32 ONNX file that was calibrated.
        output: where to write.
        table: ranges of its activations.
        table_sha256: digest of the table's file, for the model's metadata.
        profile: what the target wants.
        exclude: names of nodes to keep in float.

    Raises:
        InputError: the source is not float32, or the table belongs to another model or lacks a
            tensor.
        UsageError: ``exclude`` names a node that does not exist.
        OSError: the output cannot be written.
    """
    require_fp32(source, "int8 is made")
    if table.model_sha256 not in (None, source.sha256):
        raise InputError(
            f"the calibration table was made for another model than {source.path} "
            f"(sha256 {table.model_sha256[:12]}..., found {source.sha256[:12]}...); "
            "calibrate this model"
        )
    model = load_model(source.path)
    unknown = sorted(set(exclude) - {node.name for node in model.graph.node})
    if unknown:
        raise UsageError(f"--exclude names no layer of {source.path}: {', '.join(unknown)}")
    writer = _QdqWriter(model.graph, profile, exclude)
    activations = activation_params(model.graph, table, profile, exclude)
    writer.quantize_weights(activations)
    writer.quantize_activations(activations)
    writer.finish()
    own = {
        "parent_sha256": source.sha256,
        "precision": Precision.INT8.value,
        "target": profile.name,
        "calibration_sha256": table_sha256,
        "calibration_method": table.method.value,
        "float_layers": ",".join(sorted(exclude)),
    }
    set_metadata(model, metadata(model) | own)
    onnx.checker.check_model(model, full_check=True)
    save_model(model, output)
    return describe(output, model=model)


def activation_params(
    graph: onnx.GraphProto,
    table: CalibrationTable,
    profile: TargetProfile,
    exclude: Collection[str] = (),
) -> dict[str, QuantParams]:
    """Scale and zero point of every quantized activation, in graph order.

    Outputs of DepthToSpace, MaxPool and Resize take their input's. A Concat's inputs and output
    share one as far as the profile allows.

    Raises:
        InputError: the table lacks a tensor.
    """
    follows = followed_ranges(graph)
    names = quantized_activations(graph, operators=profile.operators, exclude=exclude)
    spans: dict[str, Span] = {}
    for name in names:
        source = follows.get(name, name)
        if source not in table.ranges:
            raise InputError(f"the calibration table has no range for tensor {source!r}")
        spans[source] = Span(low=table.ranges[source].min, high=table.ranges[source].max)
    if profile.shared_scale_cost_db is not None:
        edges = [
            (follows.get(name, name), node.output[0])
            for node in graph.node
            if node.op_type == "Concat" and node.output[0] in spans
            for name in node.input
            if follows.get(name, name) in spans
        ]
        spans = share_spans(spans, edges, limit_db=profile.shared_scale_cost_db)
    return {
        name: from_range(
            spans[follows.get(name, name)].low,
            spans[follows.get(name, name)].high,
            dtype=profile.activation_type,
            symmetric=profile.activation_symmetric,
        )
        for name in names
    }


class _QdqWriter:
    """Rewrites one graph in place, collecting the new nodes and initialisers."""

    def __init__(
        self, graph: onnx.GraphProto, profile: TargetProfile, exclude: Collection[str]
    ) -> None:
        self.graph = graph
        self.profile = profile
        self.exclude = exclude
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.added: dict[str, onnx.TensorProto] = {}
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
            own = [self._dequantized(stored, f"{node.name}/weight", self._value(stored), params)]
            node.input[1] = own[0].output[0]
            if len(node.input) > 2 and self.profile.quantize_bias:
                bias = self._value(node.input[2])
                scales = bias_params(
                    bias,
                    input_scale=activations[node.input[0]].scale,
                    weight_scale=params.scale,
                )
                own.append(
                    self._dequantized(f"{node.name}.bias", f"{node.name}/bias", bias, scales)
                )
                node.input[2] = own[1].output[0]
            self.before[node.name] = own
        for node in self.graph.node:
            kept = node.op_type == "Conv" and node.name in self.exclude
            if kept and activations and len(node.input) > 2 and self.profile.quantize_bias:
                self._keep_in_float(node)

    def quantize_activations(self, activations: dict[str, QuantParams]) -> None:
        """Put a Q-DQ pair behind every quantized activation and point its consumers at it."""
        for name, params in activations.items():
            scale = self._constant(f"{name}/scale", params.scale)
            zero = self._constant(f"{name}/zero_point", params.zero_point)
            pair = [
                helper.make_node(
                    "QuantizeLinear", [name, scale, zero], [f"{name}/q"], name=f"{name}/Q"
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

    def finish(self) -> None:
        """Write nodes and initialisers back in topological order."""
        nodes: list[onnx.NodeProto] = []
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
        """Parameters of each weight, coarse enough that the bias of every use fits in int32."""
        smallest: dict[str, NDArray[np.float64]] = {}
        for node in convolutions:
            weight = node.input[1]
            floor = smallest.get(weight, np.zeros(len(self._value(weight))))
            if len(node.input) > 2 and self.profile.quantize_bias:
                needed = smallest_weight_scale(
                    self._value(node.input[2]), input_scale=activations[node.input[0]].scale
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

    def _keep_in_float(self, node: onnx.NodeProto) -> None:
        """Store the bias of an excluded convolution as int32, exact to float32's last bits.

        ONNX Runtime quantizes the weights of a float convolution between two Q-DQ pairs by itself,
        with one scale; it leaves alone one whose bias is not a float constant.
        """
        bias = self._value(node.input[2])
        one = np.float32(1)
        step = smallest_weight_scale(bias, input_scale=one).astype(np.float32)
        params = bias_params(bias, input_scale=one, weight_scale=step)
        own = self._dequantized(f"{node.name}.bias", f"{node.name}/bias", bias, params)
        node.input[2] = own.output[0]
        self.before[node.name] = [own]

    def _value(self, name: str) -> NDArray[np.float32]:
        return numpy_helper.to_array(self.weights[name])

    def _dequantized(
        self, stored: str, result: str, values: NDArray[np.float32], params: QuantParams
    ) -> onnx.NodeProto:
        """A DequantizeLinear over a quantized constant; a constant stored before is shared."""
        integers = self._constant(f"{stored}/q", quantize(values, params))
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
