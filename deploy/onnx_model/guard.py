"""What a model file must not hold, refused before any library works on it.

Parsing and checking leave much to the runtimes: files beside the model, loops without end,
functions that call each other until nothing ends, tensors that are not as long as they say,
operators whose result depends on the other images of a batch or on chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from segdeploy.deploy.system.errors import InputError, one_line

MOST_BYTES = (1 << 31) - 1
"""Of a file: protobuf, which ONNX is written in, has no larger messages."""

LONGEST_AXIS = 1 << 24
"""Of an input or output."""

BYTES_OF_TYPE: dict[int, int] = {
    **dict.fromkeys((TensorProto.BOOL, TensorProto.INT8, TensorProto.UINT8), 1),
    **dict.fromkeys((TensorProto.INT16, TensorProto.UINT16), 2),
    **dict.fromkeys((TensorProto.FLOAT16, TensorProto.BFLOAT16), 2),
    **dict.fromkeys((TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT32), 4),
    **dict.fromkeys((TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64), 8),
}
"""Of a value of the types that stand in whole bytes."""

_SUBGRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_SPARSE = (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS)
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def require_plain(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what no network here needs and what a library may never be done with.

    Args:
        model: parsed, not yet checked.
        path: its file, for the error message.

    Raises:
        InputError: an opset this release does not know, local functions, control flow, sparse
            tensors, tensors outside the file or of another length than they say, or inputs and
            outputs that are no tensors of a known type and a possible shape.
    """
    known = onnx.defs.onnx_opset_version()
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise InputError(
            f"model {path} is not a valid ONNX file (it states no opset); export it again"
        )
    if len(versions) != 1 or not 1 <= versions[0] <= known:
        raise InputError(
            f"model {path} states the ONNX opset {one_line(versions, limit=60)}; "
            f"expected one from 1 to {known}: export it again with such an opset"
        )
    if model.functions:
        raise InputError(
            f"model {path} has functions of its own ({_shown(model.functions[0].name)}); expected "
            "operators alone: write it with onnx.inliner.inline_local_functions first"
        )
    if model.graph.sparse_initializer or model.training_info:
        raise InputError(
            f"model {path} holds sparse weights or a training graph; expected dense weights for "
            "inference: export it again without"
        )
    for node in model.graph.node:
        require_plain_node(node, path)
    for tensor in stored_tensors(model.graph.initializer, model.graph.node):
        _require_whole(tensor, path)
    if not model.graph.output:
        raise InputError(f"model {path} has no output; export it again with one")
    for value in (*model.graph.input, *model.graph.output):
        _require_tensor(value, path)


def require_inference(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a network that was exported as it trains: one image has more than one result.

    Args:
        model: checked and normalised, so that its constants are initialisers.
        path: its file, for the error message.

    Raises:
        InputError: a BatchNormalization in training mode, a Dropout that is active or may become
            so, or an operator that draws at random, by the node's name.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        found = _training(node, stored) if node.domain in ("", "ai.onnx") else None
        if found is not None:
            raise InputError(
                f"model {path}: node {_shown(node.name)} ({node.op_type}) {found}; expected a "
                "network for inference: export it again after model.eval()"
            )


def _training(node: onnx.NodeProto, stored: Mapping[str, TensorProto]) -> str | None:
    """Why a node's result is not that of its image alone; ``None`` where it is."""
    if node.op_type in _RANDOM:
        return "draws at random, so that no result can be repeated"
    if node.op_type == "BatchNormalization":
        trains = any(a.name == "training_mode" and a.i for a in node.attribute)
        if trains or any(node.output[1:]):
            return "is in training mode, so that results depend on the batch"
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = stored.get(node.input[2])
        if mode is None or numpy_helper.to_array(mode).any():
            return "is active, or may be, so that no result can be repeated"
    return None


def require_plain_node(node: onnx.NodeProto, path: Path) -> None:
    """Refuse a node with a graph of its own, or with a sparse tensor.

    Raises:
        InputError: naming the node.
    """
    kinds = {attribute.type for attribute in node.attribute}
    if kinds.intersection(_SUBGRAPHS) or any(a.HasField("g") or a.graphs for a in node.attribute):
        raise InputError(
            f"model {path}: node {_shown(node.name)} ({_shown(node.op_type)}) decides at run time "
            "what is computed, which may never end; expected a network without If, Loop and Scan: "
            "export it again for a fixed input size"
        )
    if kinds.intersection(_SPARSE):
        raise InputError(
            f"model {path}: node {_shown(node.name)} holds a sparse tensor; expected dense ones"
        )


def stored_tensors(
    initializers: Iterable[TensorProto], nodes: Iterable[onnx.NodeProto]
) -> Iterator[TensorProto]:
    """Every tensor that initialisers and nodes without subgraphs hold."""
    yield from initializers
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _require_whole(tensor: TensorProto, path: Path) -> None:
    """Refuse a tensor whose values are elsewhere, or more or fewer than its shape says."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InputError(
            f"model {path} keeps weights outside the file; save it as one file: "
            f"onnx.save(onnx.load(path), path) (found: {_shown(tensor.name)})"
        )
    if tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
        raise InputError(
            f"model {path}: tensor {_shown(tensor.name)} is of the unknown type "
            f"{tensor.data_type}; is the file damaged? Export it again"
        )
    if not tensor.HasField("raw_data"):
        return
    if tensor.data_type not in BYTES_OF_TYPE:
        return  # text, or packed in parts of bytes
    expected = prod(tensor.dims) * BYTES_OF_TYPE[tensor.data_type]
    if len(tensor.raw_data) != expected:
        raise InputError(
            f"model {path}: tensor {_shown(tensor.name)} of shape {one_line(list(tensor.dims))} "
            f"has {len(tensor.raw_data)} bytes, expected {expected}; is the file damaged? Export "
            "it again"
        )


def _require_tensor(value: onnx.ValueInfoProto, path: Path) -> None:
    """Refuse an input or output that no array can be."""
    found = value.type.tensor_type
    types = set(onnx.helper.get_all_tensor_dtypes()) - {TensorProto.UNDEFINED, TensorProto.STRING}
    if value.type.WhichOneof("value") != "tensor_type" or found.elem_type not in types:
        raise InputError(
            f"model {path}: {_shown(value.name)} is no tensor of numbers; expected float32 or "
            "8-bit inputs and outputs: export it again"
        )
    sides = [axis.dim_value for axis in found.shape.dim if axis.HasField("dim_value")]
    if not all(1 <= side <= LONGEST_AXIS for side in sides):
        raise InputError(
            f"model {path}: {_shown(value.name)} has the shape {one_line(sides, limit=100)}; "
            f"expected sides from 1 to {LONGEST_AXIS}: export it again"
        )


def _shown(name: str) -> str:
    return one_line(repr(name), limit=100)
