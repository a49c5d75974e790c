"""Whether a half-precision file holds in half-precision arithmetic, where no runtime here has it.

A processor without fp16 kernels computes an fp16 file in fp32, in which nothing overflows. Here
every tensor of the file is rounded to fp16 behind the node that makes it, which is what a device
with fp16 arithmetic does, and its largest magnitude before rounding is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.onnx_model.graph import GraphIndex, layer_name
from segdeploy.deploy.onnx_model.shapes import float_tensors
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.system.errors import one_line

FP16_MAX = float(np.finfo(np.float16).max)
"""The largest finite value."""

NEAR = 0.25
"""Share of ``FP16_MAX`` from which other images may well reach it."""


@dataclass(frozen=True, kw_only=True)
class Fp16Range:
    """What a file's tensors reach in half-precision arithmetic, over some images.

    Attributes:
        images: how many.
        largest: magnitude before rounding, infinite where a value was not finite: of the first node
            beyond the range, else of the one that reaches furthest.
        node: its name and operator.
        lost: outputs that are NaN or infinite.
        outputs: how many there were.
    """

    images: int
    largest: float
    node: str
    lost: int
    outputs: int

    @property
    def kept(self) -> bool:
        """Everything stayed within fp16's range, and every output is a number."""
        return self.largest <= FP16_MAX and not self.lost

    @property
    def words(self) -> str | None:
        """What is wrong or nearly so, one sentence; ``None`` where there is room."""
        reach = f"{self.node} reaches {self.largest:,.6g} on {self.images} images"
        if self.largest > FP16_MAX:
            lost = f": {self.lost:,} of {self.outputs:,} outputs are NaN or infinite" * (
                self.lost > 0
            )
            return f"{reach}, beyond fp16's {FP16_MAX:,.0f}{lost}; keep it in fp32 or int8"
        if self.lost:
            return (
                f"rounded to fp16 behind every node, {self.lost:,} of {self.outputs:,} outputs are "
                f"NaN or infinite on {self.images} images: a divisor becomes 0; keep it in fp32 or "
                "int8"
            )
        if self.largest > NEAR * FP16_MAX:
            share = 100 * self.largest / FP16_MAX
            return f"{reach}, {share:.0f} % of fp16's {FP16_MAX:,.0f}; other images may overflow"
        return None


def fp16_range(
    artifact: Artifact, images: Iterable[NDArray[np.generic]], *, threads: int
) -> Fp16Range:
    """Compute a half-precision file as a device with fp16 arithmetic does.

    Sums within one operator stay in fp32, as they do on such devices.

    Args:
        artifact: the fp16 file.
        images: at least one, what its input takes without the batch axis.
        threads: of a call.

    Raises:
        InputError: ONNX Runtime does not accept the file.
        RunError: it failed on an image.
    """
    model, made = _rounded(load_model(artifact.path))
    session = OrtSession(
        model.SerializeToString(), session_options(threads=threads), shown=artifact.path
    )
    largest, lost, outputs, count = np.zeros(len(made)), 0, 0, 0
    for image in images:
        found = session.run({session.input: image[None]})
        split = len(found) - len(made)
        values = np.array([float(value) for value in found[split:]])
        largest = np.maximum(largest, np.where(np.isnan(values), np.inf, values))
        lost += sum(int(np.count_nonzero(~np.isfinite(value))) for value in found[:split])
        outputs += sum(value.size for value in found[:split])
        count += 1
    beyond = np.flatnonzero(largest > FP16_MAX)
    place = int(beyond[0]) if beyond.size else int(np.argmax(largest))
    node = made[place]
    return Fp16Range(
        images=count,
        largest=float(largest[place]),
        node=one_line(f"{layer_name(node)} ({node.op_type})", limit=80),
        lost=lost,
        outputs=outputs,
    )


def _rounded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """The file in float32 with every tensor rounded to fp16, returning its magnitudes, too.

    Returns:
        The model, whose outputs are the file's and the largest magnitude of each of the nodes
        that come second.
    """
    wide = widened(model)
    graph, floats = wide.graph, float_tensors(wide)
    changing = GraphIndex(graph).changing
    nodes: list[onnx.NodeProto] = []
    made: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in floats or name not in changing or not name:
                continue
            exact, half = f"{name}/exact", f"{name}/half"
            node.output[place] = exact
            nodes += [
                helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16),
                helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT),
                helper.make_node("Abs", [exact], [f"{exact}/size"]),
                helper.make_node("ReduceMax", [f"{exact}/size"], [f"{exact}/largest"], keepdims=0),
            ]
            made.append(onnx.NodeProto(name=node.name, op_type=node.op_type, output=[name]))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    graph.output.extend(
        helper.make_tensor_value_info(f"{node.output[0]}/exact/largest", TensorProto.FLOAT, [])
        for node in made
    )
    return wide, made


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a half-precision model that stores and computes the same values in float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        tensor.CopyFrom(_widened(tensor))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = _wide_type(attribute.i)
            if attribute.HasField("t"):
                attribute.t.CopyFrom(_widened(attribute.t))
    for value in (*wide.graph.input, *wide.graph.output):
        kind = value.type.tensor_type
        kind.elem_type = _wide_type(kind.elem_type)
    del wide.graph.value_info[:]
    return wide


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    values = numpy_helper.to_array(tensor).astype(np.float32)
    return numpy_helper.from_array(values, tensor.name)


def _wide_type(kind: int) -> int:
    return TensorProto.FLOAT if kind == TensorProto.FLOAT16 else kind
