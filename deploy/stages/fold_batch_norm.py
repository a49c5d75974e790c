"""Fold every BatchNorm of a graph into the convolution before it; what is shared stays shared."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes, constant, rebuilt

CONVOLUTIONS = ("Conv", "ConvTranspose")
EPSILON = 1e-5
"""Of BatchNormalization where the node states none."""

Folded = tuple[onnx.TensorProto, onnx.TensorProto]


def with_batch_norm_folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without the BatchNorms that follow a convolution.

    A convolution that is used several times, each time with the same BatchNorm, keeps one weight:
    R2U-Net's, for instance, where other tools write one for every use. Computed in float64 and
    rounded once.

    Args:
        model: not changed. Its weights are initialisers.
    """
    index = GraphIndex(model.graph)
    pairs = {
        norm.output[0]: (convolution, norm)
        for norm in model.graph.node
        if (convolution := _before(index, norm)) is not None
    }
    if not pairs:
        return model
    uses: dict[str, set[tuple[str, ...]]] = {}
    for convolution, norm in pairs.values():
        uses.setdefault(convolution.input[1], set()).add(_key(convolution, norm))
    made: dict[tuple[str, ...], Folded] = {}
    behind = {convolution.output[0]: norm for convolution, norm in pairs.values()}
    nodes = []
    for node in model.graph.node:
        if node.output[0] in pairs:
            continue
        folded = behind.get(node.output[0])
        if folded is None:
            nodes.append(node)
            continue
        key = _key(node, folded)
        if key not in made:
            weight = node.input[1]
            alone = len(uses[weight]) == 1 and all(
                reader.output[0] in behind for reader in index.readers[weight]
            )
            base = weight if alone else f"{weight}/{folded.output[0]}"
            made[key] = _folded(index, node, folded, base)
        replaced = onnx.NodeProto()
        replaced.CopyFrom(node)
        replaced.input[:] = [node.input[0], *(tensor.name for tensor in made[key])]
        replaced.output[:] = [folded.output[0]]
        nodes.append(replaced)
    new = {tensor.name: tensor for pair in made.values() for tensor in pair}
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.initializer[:]
    kept.graph.initializer.extend(t for t in model.graph.initializer if t.name not in new)
    return rebuilt(kept, nodes, tuple(new.values()))


def _before(index: GraphIndex, norm: onnx.NodeProto) -> onnx.NodeProto | None:
    """The convolution that a BatchNorm can be folded into: nothing else sees what it gives."""
    if norm.op_type != "BatchNormalization" or attributes(norm).get("training_mode", 0):
        return None
    node = index.producer.get(norm.input[0])
    fits = (
        node is not None
        and node.op_type in CONVOLUTIONS
        and index.only_reader(norm.input[0]) is norm
        and all(name in index.constants for name in (*node.input[1:], *norm.input[1:]) if name)
    )
    return node if fits else None


def _key(convolution: onnx.NodeProto, norm: onnx.NodeProto) -> tuple[str, ...]:
    """What decides the folded weights."""
    stated = attributes(norm).get("epsilon", EPSILON)
    group = attributes(convolution).get("group", 1)
    parts = (convolution.op_type, *convolution.input[1:], *norm.input[1:], str(stated), str(group))
    return tuple(parts)


def _folded(
    index: GraphIndex, convolution: onnx.NodeProto, norm: onnx.NodeProto, name: str
) -> Folded:
    """Weight and bias of a convolution with its BatchNorm in it."""
    weight = index.value(convolution.input[1]).astype(np.float64)
    gain, shift, mean, variance = (index.value(each).astype(np.float64) for each in norm.input[1:])
    factor = gain / np.sqrt(variance + attributes(norm).get("epsilon", EPSILON))
    stated = convolution.input[2] if len(convolution.input) > 2 else ""
    bias = index.value(stated).astype(np.float64) if stated else np.zeros_like(mean)
    scaled = _scaled(weight, factor, convolution)
    bias_name = f"{name.removesuffix('.weight')}.bias"
    if bias_name == name or (bias_name in index.constants and bias_name != stated):
        bias_name = f"{name}/bias"
    return constant(name, scaled), constant(bias_name, (bias - mean) * factor + shift)


def _scaled(
    weight: NDArray[np.float64], factor: NDArray[np.float64], convolution: onnx.NodeProto
) -> NDArray[np.float64]:
    """Each output channel's weights times its factor."""
    if convolution.op_type == "Conv":
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    groups = attributes(convolution).get("group", 1)
    apart = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    each = factor.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
    return (apart * each).reshape(weight.shape)
