"""Which layer of an int8 file belongs to which of the float file it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.graph import layer_name
from segdeploy.deploy.quantize.activations import weight_of
from segdeploy.deploy.quantize.operators import is_layer, layer_weight
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView, Values
from segdeploy.deploy.system.errors import InputError

T = TypeVar("T", bound=np.generic)

BIAS = 2
"""Place of the bias among a convolution's inputs."""

_LINEAR = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """One pair of QuantizeLinear and DequantizeLinear on an activation.

    Attributes:
        tensor: that is rounded, in the float file.
        rounded: what comes out, in the int8 file.
    """

    tensor: str
    rounded: str


@dataclass(frozen=True, kw_only=True)
class LayerPair:
    """One quantized layer in both files: a convolution, a transposed one or a matrix product.

    Attributes:
        name: of the node in the float file, as ``--exclude`` takes it.
        node: in the float file.
        twin: in the int8 file.
        output: float tensor that is compared: that of the ReLU behind the layer if one alone reads
            it, else the layer's.
        rectified: whether it is a ReLU's.
        origins: what makes the input: layers upstream, or the graph's input.
        roundings: between them and the layer, nearest first.
    """

    name: str
    node: onnx.NodeProto
    twin: onnx.NodeProto
    output: str
    rectified: bool
    origins: tuple[str, ...]
    roundings: tuple[Rounding, ...]


@dataclass(frozen=True, kw_only=True)
class IntegerRange:
    """The numbers that a tensor's integers stand for.

    Attributes:
        low: the smallest.
        high: the largest.
        step: the largest distance of two neighbours.
    """

    low: float
    high: float
    step: float


def pair_layers(reference: GraphView, candidate: GraphView) -> tuple[LayerPair, ...]:
    """Every layer that is quantized in the candidate, in the order of the reference.

    Raises:
        InputError: none of the candidate's is quantized, or none has the name and the shape of
            one of the reference's.
    """
    twins = {layer_name(n): n for n in candidate.nodes if is_layer(n)}
    quantized = {name for name, node in twins.items() if _is_quantized(candidate, node)}
    if not quantized:
        found = sorted({node.op_type for node in candidate.nodes})
        raise InputError(
            "the int8 model holds no layer behind DequantizeLinear (its operators: "
            f"{', '.join(found)}); give one in QDQ form, as `segdeploy quantize` writes it"
        )
    every = {layer_name(node): node for node in candidate.nodes}
    pairs = []
    for node in reference.nodes:
        name = layer_name(node)
        if name in quantized and weight_of(node, reference) is not None:
            rectifier = sole_relu(reference, node)
            origins, roundings = _upstream(reference, every, candidate, node)
            pairs.append(
                LayerPair(
                    name=name,
                    node=node,
                    twin=twins[name],
                    output=(rectifier or node).output[0],
                    rectified=rectifier is not None,
                    origins=origins,
                    roundings=roundings,
                )
            )
    if not pairs:
        raise InputError(
            f"the int8 model's layers ({', '.join(sorted(quantized)[:3])}, ...) are not "
            "those of the float model; give as --reference the file it was quantized from"
        )
    return tuple(pairs)


def sole_relu(view: GraphView, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The ReLU that alone reads a node's output."""
    reader = view.only_reader(node.output[0])
    return reader if reader is not None and reader.op_type == "Relu" else None


def rounding_of(view: GraphView, name: str) -> str | None:
    """The activation that Q and DQ in front of ``name`` round; ``None`` where they do not.

    A constant added just before Q (see ``deploy.quantize.pixel_levels``) belongs to the rounding.
    """
    node, source = view.producer.get(name), name
    if node is None or node.op_type != "DequantizeLinear":
        return None
    while node is not None and node.op_type in _LINEAR:
        source = node.input[0]
        node = view.producer.get(source)
    if node is not None and _is_shift(view, node):
        source = node.input[0]
    return source if source in view.changing else None


def shift_of(view: GraphView, name: str) -> float:
    """What was added to an activation before it was rounded; 0 where nothing was."""
    node = view.producer.get(name)
    while node is not None and node.op_type in _LINEAR:
        node = view.producer.get(node.input[0])
    amount = view.constant(node.input[1]) if node is not None and _is_shift(view, node) else None
    return 0.0 if amount is None else float(amount.item())


def _is_shift(view: GraphView, node: onnx.NodeProto) -> bool:
    """An Add of one constant number whose sum is only rounded."""
    if node.op_type != "Add":
        return False
    amount = view.constant(node.input[1])
    readers = view.readers_of(node)
    rounded = bool(readers) and all(reader.op_type == "QuantizeLinear" for reader in readers)
    return amount is not None and amount.size == 1 and rounded


def rounding_parts(view: GraphView) -> dict[str, GraphPart]:
    """For every dequantized activation, the function that rounds it.

    Raises:
        InputError: ONNX Runtime does not accept one.
    """
    read = [name for node in view.nodes for name in node.input]
    sources = {name: rounding_of(view, name) for name in (*read, view.output)}
    return {
        name: GraphPart(view, [source], [name], literal=True)
        for name, source in sources.items()
        if source is not None
    }


def integer_range(view: GraphView, name: str) -> IntegerRange | None:
    """The numbers that the integers in front of a dequantized tensor stand for.

    ``None`` where the tensor is not dequantized with constants of an integer type.
    """
    node = view.made_by(name, "DequantizeLinear")
    if node is None:
        return None
    scale = view.constant(node.input[1])
    point = view.constant(node.input[2]) if len(node.input) > 2 else np.zeros((), np.uint8)
    if scale is None or point is None or point.dtype.kind not in "iu":
        return None
    limits = np.iinfo(point.dtype)
    shift = shift_of(view, name)
    ends = [
        (limit - point.astype(np.float64)) * scale - shift for limit in (limits.min, limits.max)
    ]
    return IntegerRange(
        low=float(ends[0].min()), high=float(ends[1].max()), step=float(scale.max())
    )


def constants_of(
    reference: GraphView, candidate: GraphView, pair: LayerPair, place: int
) -> tuple[Values, Values]:
    """A layer's weight (``place`` 1) or bias (2): in float, and what the integers stand for.

    A weight comes with its output channels in front, however the layer stores it.
    What a bias takes off again of a shifted input is not counted as noise.

    Raises:
        InputError: it is no constant, or the shapes differ.
    """
    wanted = reference.constant(pair.node.input[place])
    name = pair.twin.input[place] if len(pair.twin.input) > place else ""
    found = candidate.constant(name)
    if found is None and name and name not in candidate.changing:
        found = GraphPart(candidate, [], [name], literal=True)()[0]
    if wanted is None or found is None or wanted.shape != found.shape:
        shapes = [None if values is None else values.shape for values in (wanted, found)]
        raise InputError(
            f"input {place} of {pair.name} has shape {shapes[0]} in the float and {shapes[1]} in "
            "the int8 model; give as --reference the file it was quantized from"
        )
    if place != BIAS:
        return by_output_channel(pair.node, wanted), by_output_channel(pair.node, found)
    shift = shift_of(candidate, pair.twin.input[0])
    if shift:
        _, weight = constants_of(reference, candidate, pair, 1)
        found = found + np.float32(shift) * weight.sum(axis=tuple(range(1, weight.ndim)))
    return wanted, found


def by_output_channel(node: onnx.NodeProto, weight: NDArray[T]) -> NDArray[T]:
    """A layer's stored weight as (O, ...)."""
    layer = layer_weight(node)
    return weight if layer is None else layer.rows(weight)


def _is_quantized(view: GraphView, node: onnx.NodeProto) -> bool:
    """Whether a layer's weight is; one kept in float may still read a rounded input."""
    weight = node.input[1]
    return weight not in view.changing and view.made_by(weight, "DequantizeLinear") is not None


def _upstream(
    reference: GraphView,
    twins: Mapping[str, onnx.NodeProto],
    candidate: GraphView,
    node: onnx.NodeProto,
) -> tuple[tuple[str, ...], tuple[Rounding, ...]]:
    """Where a convolution's input comes from with no other in between, and what rounds it."""
    origins: dict[str, None] = {}
    roundings: dict[Rounding, None] = {}
    wanted = [(node, 0)]
    for reader, place in wanted:  # grows
        name, twin = reader.input[place], twins.get(layer_name(reader))
        if twin is not None and rounding_of(candidate, twin.input[place]) is not None:
            roundings[Rounding(tensor=name, rounded=twin.input[place])] = None
        maker = reference.producer.get(name)
        if maker is None or weight_of(maker, reference) is not None:
            origins[name if maker is None else layer_name(maker)] = None
        else:
            places = [i for i, each in enumerate(maker.input) if each in reference.changing]
            wanted += [(maker, i) for i in places if (maker, i) not in wanted]
    return tuple(origins), tuple(roundings)
