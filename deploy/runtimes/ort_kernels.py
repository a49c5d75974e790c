"""What ONNX Runtime runs for a model file: kernels in the graph it makes of it, and their times."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.onnx_model.graph import layer_name
from segdeploy.deploy.runtimes.base import Feeds
from segdeploy.deploy.runtimes.executed import Kernel
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, TimedKernel
from segdeploy.deploy.runtimes.ort_session import OrtSession, execution_options
from segdeploy.deploy.system.errors import RunError

# fmt: off
INT8_OPERATORS = {
    "QLinearConv": "Conv", "ConvInteger": "Conv", "QLinearConvTranspose": "ConvTranspose",
    "QLinearMatMul": "MatMul", "MatMulInteger": "MatMul", "MatMulIntegerToFloat": "MatMul",
    "DynamicQuantizeMatMul": "MatMul", "QGemm": "Gemm",
}
FLOAT_OPERATORS = {
    "Conv": "Conv", "FusedConv": "Conv", "NhwcConv": "Conv", "NhwcFusedConv": "Conv",
    "ConvTranspose": "ConvTranspose", "Gemm": "Gemm", "FusedGemm": "Gemm", "MatMul": "MatMul",
    "FusedMatMul": "MatMul", "TransposeMatMul": "MatMul",
}
# fmt: on
"""What ONNX Runtime runs a layer as, in its own domains or ONNX's: the operator it came from."""

FLOAT_TYPES = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}

FUSED, WIDENED, BLOCKED = "fused ", "InsertedPrecisionFreeCast_", "_nchwc"
"""What ONNX Runtime puts before the name of a node it fused; before the tensor that a node without
a half-precision kernel makes; and behind the tensor that a node in blocked layout makes. In the
last two the tensor's name has become the node's."""

ACTIVATIONS = frozenset(
    {"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Tanh", "Cast"}
)
"""What a convolution may be fused with: its output then goes by the name of theirs."""

SUFFIX = "_kernel_time"
"""Of the events that hold the time of a node, behind the node's name."""


def kernels_of(
    graph: onnx.GraphProto, layers: Collection[str], tensors: Mapping[str, str] | None = None
) -> Iterator[Kernel]:
    """List the convolutions and matrix products of an optimised graph, in the order they run.

    Args:
        graph: what ONNX Runtime executes.
        layers: names of the layers of the model file. ONNX Runtime puts words before or behind a
            node's name when it rewrites it (``fused conv1``, ``conv1_nchwc``,
            ``conv1/Relu_token_7``): a kernel belongs to the longest name it begins with.
        tensors: see ``made_by``.
    """
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        if node.op_type in INT8_OPERATORS:
            operator, precision = INT8_OPERATORS[node.op_type], "int8"
        elif node.op_type in FLOAT_OPERATORS and len(node.input) > 1:
            element = types.get(node.input[1], types.get(node.input[0], onnx.TensorProto.FLOAT))
            operator, precision = FLOAT_OPERATORS[node.op_type], FLOAT_TYPES.get(element, "fp32")
        else:
            continue
        owner = owner_of(node.name, layers, tensors)
        names = (node.name,) if owner is None else (owner,)
        yield Kernel(names=names, operator=operator, precision=precision)


def owner_of(
    node: str, layers: Collection[str], tensors: Mapping[str, str] | None = None
) -> str | None:
    """The layer that a node of the optimised graph came from, by its name.

    Example:
        >>> owner_of("fused conv10_nchwc", ["conv1", "conv10"])
        'conv10'
        >>> owner_of("conv10_nchwc", ["conv1"])
        >>> owner_of("InsertedPrecisionFreeCast_b_nchwc", ["conv1"], {"b": "conv1"})
        'conv1'

    Args:
        node: its name.
        layers: names of the layers of the model file.
        tensors: see ``made_by``.
    """
    made = node.removeprefix(WIDENED).removesuffix(BLOCKED)
    if made != node and made in (tensors or {}):
        return (tensors or {})[made]
    plain = node.removeprefix(FUSED).removeprefix(WIDENED)
    begun = (n for n in layers if plain.startswith(n) and not plain[len(n) :][:1].isalnum())
    return max(begun, key=len, default=None)


def made_by(model: onnx.ModelProto, layers: Collection[str]) -> dict[str, str]:
    """The layer that alone makes each tensor, activations behind it included.

    Args:
        model: of the file.
        layers: names of its layers.
    """
    found: dict[str, str] = {}
    for node in model.graph.node:
        name = layer_name(node)
        if name in layers:
            found |= dict.fromkeys(node.output, name)
        elif node.op_type in ACTIVATIONS and node.input[0] in found:
            found |= dict.fromkeys(node.output, found[node.input[0]])
    return found


def profile(
    artifact: Artifact, execution: Execution, feeds: Feeds, layers: Collection[str]
) -> Iterator[TimedKernel]:
    """Run a few calls in a session that writes a trace.

    Args:
        artifact: the ONNX file.
        execution: how to run it.
        feeds: one batch.
        layers: names in the model file, as for ``kernels_of``.

    Raises:
        InputError: ONNX Runtime does not accept the file.
        RunError: it failed while running.
    """
    options = execution_options(artifact, execution)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = OrtSession(artifact.path, options)
        for _ in range(WARMUP_CALLS + PROFILED_CALLS):
            session.run(feeds)
        trace = json.loads(session.end_profiling().read_text(encoding="utf-8"))
    tensors = made_by(load_model(artifact.path), layers)
    return read_trace(trace, layers, tensors, calls=PROFILED_CALLS)


def read_trace(
    trace: list[dict[str, Any]],
    layers: Collection[str],
    tensors: Mapping[str, str] | None = None,
    *,
    calls: int,
) -> Iterator[TimedKernel]:
    """Every node of a trace with its last ``calls`` times, in the order the nodes ran.

    Args:
        trace: the events as ONNX Runtime writes them; the field ``dur`` is in microseconds.
        layers: names in the model file.
        tensors: see ``made_by``.
        calls: how many to take; the ones before were warm-up.

    Raises:
        RunError: a node that did not run that often.
    """
    found: dict[str, tuple[str, list[float]]] = {}
    for event in trace:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            node = event["name"].removesuffix(SUFFIX)
            operator = event["args"]["op_name"]
            found.setdefault(node, (operator, []))[1].append(float(event["dur"]))
    for node, (operator, times) in found.items():
        if len(times) < calls:
            raise RunError(f"ONNX Runtime's trace shows {len(times)} calls of {node}, not {calls}")
        origin = INT8_OPERATORS.get(operator) or FLOAT_OPERATORS.get(operator)
        owner = owner_of(node, layers, tensors) if origin else None
        yield TimedKernel(
            kernel=Kernel(
                names=(node if owner is None else owner,),
                operator=origin or operator,
                precision="int8" if operator in INT8_OPERATORS else "",
            ),
            is_layer=origin is not None,
            times_us=tuple(times[-calls:]),
        )
