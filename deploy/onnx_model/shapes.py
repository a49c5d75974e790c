"""Types and static shapes of every tensor of an ONNX model, for one image of a given size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from segdeploy.deploy.onnx_model.cost_formulas import Shape
from segdeploy.deploy.system.errors import InputError

SHAPE_CONSTANT_ELEMENTS = 1024
"""Constants up to this size keep their values for shape inference; it needs no larger ones."""


class Shapes(dict[str, Shape]):
    """Tensor name to static shape; a missing one is an error that names it."""

    def __missing__(self, name: str) -> Shape:
        raise InputError(
            f"the shape of tensor {name!r} cannot be inferred; expected shapes that follow from "
            "the input size. Simplify the model first; custom operators before it cannot be seen"
        )


def fixed_input(value: onnx.ValueInfoProto, size: tuple[int, int] | None) -> onnx.ValueInfoProto:
    """A copy of a graph input with batch 1 and, for an image, the size asked for.

    An image is (N, C, H, W), or 8-bit (N, H, W, channels).

    Args:
        value: the graph input.
        size: (height, width); ``None`` takes what the input fixes.

    Raises:
        InputError: a size it does not fit or does not fix.
    """
    fixed = one_image(value)
    axes = fixed.type.tensor_type.shape.dim
    if len(axes) != 4:
        return fixed
    pixels = fixed.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sides = axes[1:3] if pixels and _channels_last(axes) else axes[2:]
    for axis, side, wanted in zip(sides, ("height", "width"), size or (None, None), strict=True):
        if not axis.HasField("dim_value") and wanted is None:
            raise InputError(f"input {value.name!r} has a dynamic {side}; state the image size")
        if axis.HasField("dim_value") and wanted not in (None, axis.dim_value):
            raise InputError(
                f"input {value.name!r} has a fixed {side} of {axis.dim_value}, not {wanted}; "
                "export the model again for that size, or count it at its own"
            )
        if wanted is not None:
            axis.dim_value = wanted
    return fixed


def _channels_last(axes: Sequence[onnx.TensorShapeProto.Dimension]) -> bool:
    """Whether the last of four axes holds the channels: it is fixed, and the shorter one."""
    second, last = axes[1].dim_value, axes[3].dim_value
    return bool(last) and (not second or last < second)


def one_image(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A copy of a graph input with batch 1; an open height or width stays open."""
    fixed = onnx.ValueInfoProto()
    fixed.CopyFrom(value)
    if fixed.type.tensor_type.shape.dim:
        fixed.type.tensor_type.shape.dim[0].dim_value = 1
    return fixed


def infer_shapes(
    model: onnx.ModelProto, images: list[onnx.ValueInfoProto], *, strict: bool = False
) -> Shapes:
    """Infer the shape of every tensor.

    Args:
        model: not modified.
        images: its inputs, fixed.
        strict: an operator that its inputs do not fit is an error too, not a shape left open.

    Raises:
        InputError: the model contradicts its own shapes.
    """
    inferred = _inferred(model, images, strict=strict)
    small = [t for t in model.graph.initializer if prod(t.dims) <= SHAPE_CONSTANT_ELEMENTS]
    shapes = Shapes({tensor.name: tuple(tensor.dims) for tensor in small})
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        axes = value.type.tensor_type.shape.dim
        known = value.type.tensor_type.HasField("shape")
        if known and all(axis.HasField("dim_value") for axis in axes):
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    return shapes


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Every tensor of float32, constants among them, as the types of the operators tell.

    Args:
        model: not modified. What an operator of another domain makes has no known type.

    Raises:
        InputError: the model contradicts its own types.
    """
    inferred = _inferred(model, list(model.graph.input))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.elem_type:
            types.setdefault(value.name, value.type.tensor_type.elem_type)
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name not in types:
                types[name] = _type_by_schema(node, position, types, version)
    return frozenset(name for name, found in types.items() if found == onnx.TensorProto.FLOAT)


def _type_by_schema(
    node: onnx.NodeProto, position: int, types: Mapping[str, int], version: int
) -> int:
    """The type of an output whose shape ONNX cannot infer: that of an input it must share.

    Returns:
        ``UNDEFINED`` where the operator does not tell.
    """
    unknown = int(onnx.TensorProto.UNDEFINED)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return unknown
    kind = schema.outputs[min(position, len(schema.outputs) - 1)].type_str
    for place, name in enumerate(node.input):
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        if formal.type_str == kind and types.get(name, unknown) != unknown:
            return types[name]
    return unknown


def _inferred(
    model: onnx.ModelProto, inputs: Sequence[onnx.ValueInfoProto], *, strict: bool = False
) -> onnx.GraphProto:
    """What ONNX infers of a model, large weights standing in as inputs to spare the copy.

    Raises:
        InputError: the model contradicts itself.
    """
    small = [t for t in model.graph.initializer if prod(t.dims) <= SHAPE_CONSTANT_ELEMENTS]
    large = [t for t in model.graph.initializer if prod(t.dims) > SHAPE_CONSTANT_ELEMENTS]
    stand_ins = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large]
    outputs = [
        onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
        for value in model.graph.output
    ]
    graph = onnx.helper.make_graph(
        model.graph.node, "shapes", [*inputs, *stand_ins], outputs, initializer=small
    )
    skeleton = onnx.helper.make_model(
        graph,
        opset_imports=model.opset_import,
        functions=model.functions,
        ir_version=model.ir_version,
    )
    try:
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=True, strict_mode=strict).graph
    except onnx.shape_inference.InferenceError as error:
        raise InputError(f"the model contradicts its own shapes ({error})") from error
