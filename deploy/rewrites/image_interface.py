"""Take the 8-bit image and give the mask: normalisation and decision move into the graph.

The network between stays as it is, its precision too. Before it, pixels are brought into the
contract's layout and normalised; behind it, the probability of one label is cut at 0.5, of classes
that exclude each other the largest is taken. Only decoding and resizing are left to the caller.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import metadata, output_in, set_metadata
from segdeploy.deploy.onnx_model.graph import Rewritten, constant, rebuilt
from segdeploy.deploy.onnx_model.interface import METADATA_KEY, Interface
from segdeploy.deploy.system.errors import InputError

INPUT_NAME = "pixels"
OUTPUT_NAME = "mask"

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)

Part = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
"""Nodes in order, and their constants."""


def image_interface(model: onnx.ModelProto, preprocess: Preprocess) -> Rewritten:
    """Make a model take ``pixels`` and give ``mask``.

    ``pixels`` is uint8 (N, h, w, channels), resized, colours as RGB. ``mask`` is uint8 (N, h, w):
    of one label 1 where its probability is at least 0.5, else 0 (also where it is not a number);
    of classes that exclude each other the index of the most probable, of equals the first. N stays
    dynamic.

    A runtime that computes one operator after the other gives the network bit for bit what
    ``Preprocess.normalise`` does. One that fuses them (OpenVINO) differs in the last bit, which in
    an int8 model can move a pixel between two steps to the other one.

    Args:
        model: one normalised image (N, channels, h, w) in, one probability (N, classes, h, w) out;
            of any precision. Its metadata says what the classes are.
        preprocess: the contract that the model carries.

    Returns:
        The model with ``interface`` in its metadata; one site.

    Raises:
        InputError: the model carries no contract or another one, takes pixels already, has other
            inputs or outputs, or labels that may overlap.
    """
    _require_contract(model, preprocess)
    if not preprocess.eight_bit:
        raise InputError(
            f"the input contract takes levels of {preprocess.source_bits} bits in a range, and "
            "image-interface takes 8-bit pixels as they are; deploy the model without it"
        )
    contract = output_in(model, source="the model")
    require_one_class_a_pixel(contract)
    source, result = _ends(model.graph, contract, channels=preprocess.channels)
    before, before_constants = _before(source, preprocess)
    behind, behind_constants = decision(result, contract)
    batch, _, height, width = source.type.tensor_type.shape.dim
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.input[:], changed.graph.output[:]
    changed.graph.input.append(
        _value(INPUT_NAME, [batch, height, width], channels=preprocess.channels)
    )
    changed.graph.output.append(_value(OUTPUT_NAME, [batch, height, width]))
    changed = rebuilt(
        changed, [*before, *model.graph.node, *behind], [*before_constants, *behind_constants]
    )
    set_metadata(changed, metadata(model) | {METADATA_KEY: Interface.IMAGE.value})
    return Rewritten(model=changed, sites=1)


def arithmetic(preprocess: Preprocess) -> list[tuple[str, NDArray[np.float32]]]:
    """What turns the 256 values of a pixel into ``Preprocess.normalise``'s, to the last bit.

    One multiplication and one addition where rounding allows, as with every ``std`` that is a
    power of two; else the three steps of the contract.

    Example:
        (x / 255 - 0.5) / 0.5 is x * 2 / 255 - 1.

        >>> [(step, value.ravel()[0].item()) for step, value in arithmetic(Preprocess())]
        [('Mul', 0.007843137718737125), ('Add', -1.0)]

    Returns:
        Operators and their right operands, float32 (1, channels, 1, 1).
    """
    mean, std = (
        np.asarray(v, np.float32).reshape(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std)
    )
    scale = np.full_like(std, preprocess.scale)
    levels = np.arange(256, dtype=np.uint8)
    exact = preprocess.normalise(np.repeat(levels[None, :, None], preprocess.channels, axis=2))
    gain, offset = scale / std, -mean / std
    if np.array_equal(levels.astype(np.float32) * gain + offset, exact[None]):
        return [("Mul", gain), ("Add", offset)]
    return [("Mul", scale), ("Sub", mean), ("Div", std)]


def _before(source: onnx.ValueInfoProto, preprocess: Preprocess) -> Part:
    """From ``pixels`` to the network's input; bytes are moved before they become floats."""
    name = f"{INPUT_NAME}/channels_first"
    nodes = [helper.make_node("Transpose", [INPUT_NAME], [name], name=name, perm=[0, 3, 1, 2])]
    constants = []
    if preprocess.channel_order == "BGR":
        order, reversed_name = f"{INPUT_NAME}/order", f"{INPUT_NAME}/bgr"
        constants.append(constant(order, np.array([2, 1, 0])))
        nodes.append(
            helper.make_node("Gather", [name, order], [reversed_name], name=reversed_name, axis=1)
        )
        name = reversed_name
    nodes.append(_cast(name, f"{INPUT_NAME}/float", TensorProto.FLOAT))
    for operator, operand in arithmetic(preprocess):
        before, name = nodes[-1].output[0], f"{INPUT_NAME}/{operator.lower()}"
        constants.append(constant(f"{name}/by", operand))
        nodes.append(helper.make_node(operator, [before, f"{name}/by"], [name], name=name))
    if source.type.tensor_type.elem_type == TensorProto.FLOAT:
        nodes[-1].output[0] = source.name
    else:
        nodes.append(_cast(name, source.name, source.type.tensor_type.elem_type))
    return nodes, constants


def require_one_class_a_pixel(contract: OutputContract) -> None:
    """Refuse labels that may overlap, of which no single mask is made.

    Raises:
        InputError: they may.
    """
    if contract.overlapping:
        raise InputError(
            f"the model's {contract.channels} labels may overlap, and a mask holds one class a "
            "pixel; keep the model that gives probabilities"
        )


def decision(result: onnx.ValueInfoProto, contract: OutputContract) -> Part:
    """From the network's output to ``mask``, uint8 (N, h, w).

    Args:
        result: the probability, (N, channels, h, w).
        contract: of one label, or of classes that exclude each other.
    """
    half, axis = f"{OUTPUT_NAME}/threshold", f"{OUTPUT_NAME}/axis"
    foreground, bytes_name = f"{OUTPUT_NAME}/foreground", f"{OUTPUT_NAME}/bytes"
    probability, nodes = result.name, []
    if result.type.tensor_type.elem_type != TensorProto.FLOAT:
        probability = f"{OUTPUT_NAME}/probability"
        nodes.append(_cast(result.name, probability, TensorProto.FLOAT))
    if contract.exclusive:
        index = f"{OUTPUT_NAME}/class"
        largest = helper.make_node("ArgMax", [probability], [index], name=index, axis=1, keepdims=0)
        return [*nodes, largest, _cast(index, OUTPUT_NAME, TensorProto.UINT8)], []
    nodes += [
        helper.make_node("GreaterOrEqual", [probability, half], [foreground], name=foreground),
        _cast(foreground, bytes_name, TensorProto.UINT8),
        helper.make_node("Squeeze", [bytes_name, axis], [OUTPUT_NAME], name=OUTPUT_NAME),
    ]
    threshold = constant(half, np.array(FOREGROUND_PROBABILITY))
    return nodes, [threshold, constant(axis, np.array([1]))]


def _cast(source: str, result: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}/cast", to=element)


def _value(
    name: str, like: list[onnx.TensorShapeProto.Dimension], *, channels: int | None = None
) -> onnx.ValueInfoProto:
    """An 8-bit input or output with the axes of another tensor, channels last."""
    value = onnx.ValueInfoProto(name=name)
    value.type.tensor_type.elem_type = TensorProto.UINT8
    shape = value.type.tensor_type.shape
    shape.dim.extend(like)
    if channels is not None:
        shape.dim.add(dim_value=channels)
    return value


def _ends(
    graph: onnx.GraphProto, contract: OutputContract, *, channels: int
) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """The image and the probability of a network.

    Raises:
        InputError: it has others.
    """
    values = [*graph.input, *graph.output]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    fits = len(graph.output) == 1 and [len(shape) for shape in shapes] == [4, 4]
    if (
        not fits
        or [shape[1].dim_value for shape in shapes] != [channels, contract.channels]
        or any(value.type.tensor_type.elem_type not in FLOATS for value in values)
    ):
        raise InputError(
            f"the model has inputs {[v.name for v in graph.input]} and outputs "
            f"{[v.name for v in graph.output]}; expected one image (batch, {channels}, height, "
            f"width) and one probability (batch, {contract.channels}, height, width), float32 or "
            "float16"
        )
    return values[0], values[1]


def _require_contract(model: onnx.ModelProto, preprocess: Preprocess) -> None:
    """Refuse a model that says nothing of its input, or something else.

    Raises:
        InputError: what it says, and the fix.
    """
    entries = metadata(model)
    if METADATA_KEY in entries:
        raise InputError(
            f"the model's interface is {entries[METADATA_KEY]!r} already; give the file it was "
            "made from"
        )
    if "preprocess" not in entries:
        raise InputError(
            "the model carries no preprocessing contract to build in; export it with "
            "`segdeploy export`"
        )
    carried = Preprocess.from_json(entries["preprocess"], source="the model")
    if carried != preprocess:
        raise InputError(
            f"the model expects {carried.to_json()}; asked to build in {preprocess.to_json()}"
        )
