"""ONNX files that must be refused, each made by a small function; none is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.onnx_model.file import metadata, set_metadata

Build = Callable[[Path, Path], Path]
"""From a good model and a folder to the bad one."""
Change = Callable[[onnx.ModelProto], None]


def edited(change: Change) -> Build:
    """The good model with a change."""

    def build(good: Path, folder: Path) -> Path:
        model = onnx.load(good)
        change(model)
        (folder / "x.onnx").write_bytes(model.SerializeToString())
        return folder / "x.onnx"

    return build


def at(make: Callable[[Path], object], name: str = "x.onnx") -> Build:
    """What a function puts at a path."""

    def build(good: Path, folder: Path) -> Path:
        make(folder / name)
        return folder / name

    return build


def file(content: bytes, name: str = "x.onnx") -> Build:
    """A file of these bytes."""
    return at(lambda path: path.write_bytes(content), name)


def cut(share: float) -> Build:
    """The beginning of the good model."""

    def build(good: Path, folder: Path) -> Path:
        content = good.read_bytes()
        (folder / "x.onnx").write_bytes(content[: int(share * len(content))])
        return folder / "x.onnx"

    return build


def other(name: str, change: Change = lambda model: None) -> Build:
    """A file beside the good model, with a change."""

    def build(good: Path, folder: Path) -> Path:
        return edited(change)(good.with_name(name), folder)

    return build


def nested(depth: int) -> bytes:
    """Nodes with attributes with graphs with nodes, as protobuf writes them."""
    content = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # g of an attribute, attribute of a node, node of a graph
            content = bytes([field << 3 | 2]) + varint(len(content)) + content
    return bytes([7 << 3 | 2]) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def three_gib(path: Path) -> None:
    """A file of 3 GiB that takes no room on the disk."""
    with path.open("wb") as stream:
        stream.truncate(3 << 30)


# --- parts of a model --------------------------------------------------------------------------


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A node by its name."""
    return next(found for found in model.graph.node if found.name == name)


def weight(model: onnx.ModelProto, name: str = "high.weight") -> TensorProto:
    """A stored tensor by its name."""
    return next(found for found in model.graph.initializer if found.name == name)


def shape(model: onnx.ModelProto, axis: int, length: int) -> None:
    """Another length for an axis of the input."""
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length


def attribute(model: onnx.ModelProto, name: str, key: str, value: object) -> None:
    """Another value for an attribute."""
    found = node(model, name)
    kept = [each for each in found.attribute if each.name != key]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(key, value)])


def values(model: onnx.ModelProto, name: str, change: Callable[..., np.ndarray]) -> None:  # type: ignore[type-arg]  # of any type
    """Another content for a stored tensor."""
    tensor = weight(model, name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))


def dims(model: onnx.ModelProto, *lengths: int) -> None:
    """Another shape for the first weight; its bytes stay."""
    weight(model).dims[:] = lengths


def said(model: onnx.ModelProto, **entries: str | None) -> None:
    """Other metadata; ``None`` removes an entry."""
    content = metadata(model) | entries
    set_metadata(model, {key: value for key, value in content.items() if value is not None})


def contract(**fields: object) -> Build:
    """Another input contract."""

    def change(model: onnx.ModelProto) -> None:
        said(model, preprocess=json.dumps(json.loads(metadata(model)["preprocess"]) | fields))

    return edited(change)


# --- changes -----------------------------------------------------------------------------------


def outside(location: str) -> TensorProto:
    """A tensor that is said to be in another file."""
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def weights_outside(location: str) -> Build:
    """Weights in another file."""
    return edited(lambda m: m.graph.initializer.append(outside(location)))


def constant_outside(model: onnx.ModelProto) -> None:
    """A Constant whose value is in another file."""
    made = helper.make_node("Constant", [], ["outside"], value=outside("../../etc/passwd"))
    model.graph.node.insert(0, made)


def branch(inner: onnx.NodeProto, *stored: TensorProto) -> onnx.GraphProto:
    """A graph of one node whose result is ``o``."""
    result = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    return helper.make_graph([inner], "branch", [], [result], stored)


def decides(depth: int, *stored: TensorProto) -> Change:
    """If within If: ``depth`` of them."""

    def change(model: onnx.ModelProto) -> None:
        graph = branch(helper.make_node("Relu", ["high"], ["o"]), *stored)
        for _ in range(depth):
            other = branch(helper.make_node("Relu", ["high"], ["o"]))
            both = {"then_branch": graph, "else_branch": other}
            graph = branch(helper.make_node("If", ["yes"], ["o"], **both))
        model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        found = node(model, "high/Relu")
        found.op_type, found.input[0] = "If", "yes"
        for key in ("then_branch", "else_branch"):
            found.attribute.append(helper.make_attribute(key, graph))

    return change


def endless(model: onnx.ModelProto) -> None:
    """A Loop whose condition stays true and that has no trip count."""
    scalar = {
        name: helper.make_tensor_value_info(name, kind, [])
        for name, kind in (
            ("i", TensorProto.INT64),
            ("c", TensorProto.BOOL),
            ("d", TensorProto.BOOL),
        )
    }
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "vw"]
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])],
        "body",
        [scalar["i"], scalar["c"], carried[0]],
        [scalar["d"], carried[1]],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    found = node(model, "high/Relu")
    found.op_type, found.input[:] = "Loop", ["", "yes", "high"]
    found.attribute.append(helper.make_attribute("body", body))


def functions(count: int, *, itself: bool = False) -> Change:
    """Functions that each call the one before twice; or one that calls itself."""

    def change(model: onnx.ModelProto) -> None:
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        for index in range(count):
            called = f"F{index - 1}" if index else "F0" if itself else "Relu"
            domain = "own" if index or itself else ""
            calls = [
                helper.make_node(called, [source], [result], domain=domain)
                for source, result in (("a", "b"), ("b", "c"))
            ]
            made = helper.make_function("own", f"F{index}", ["a"], ["c"], calls, opsets)
            model.functions.append(made)
        model.opset_import.add(domain="own", version=1)
        found = node(model, "high/Relu")
        found.op_type, found.domain = f"F{count - 1}", "own"

    return change


def sparse(model: onnx.ModelProto) -> None:
    """One stored value that claims 4 EiB."""
    one = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    where = helper.make_tensor("where", TensorProto.INT64, [1], [2**50])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(one, where, [2**40, 2**20]))


def domain(name: str, *, declared: bool) -> Change:
    """A node of another domain."""

    def change(model: onnx.ModelProto) -> None:
        node(model, "high/Relu").domain = name
        if declared:
            model.opset_import.add(domain=name, version=1)

    return change


def joined(count: int) -> Change:
    """Concat of itself, again and again: 2**count tensors."""

    def change(model: onnx.ModelProto) -> None:
        source, made = "high/Relu", []
        for index in range(count):
            name = f"join{index}"
            made.append(helper.make_node("Concat", [source, source], [name], name=name, axis=1))
            source = name
        for index, each in enumerate(made):
            model.graph.node.insert(2 + index, each)

    return change


def filling(elements: int) -> Change:
    """A constant of so many values, made of one number when it is folded."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("n", TensorProto.INT64, [1], [elements]))
        fill = helper.make_node("ConstantOfShape", ["n"], ["many"], name="many")
        total = helper.make_node("ReduceSum", ["many"], ["sum"], name="sum", keepdims=0)
        added = helper.make_node("Add", ["high", "sum"], ["more"], name="more")
        for position, made in ((0, fill), (1, total), (3, added)):
            model.graph.node.insert(position, made)
        node(model, "high/Relu").input[0] = "more"

    return change


def trains(model: onnx.ModelProto) -> None:
    """A BatchNormalization that takes mean and variance of the batch."""
    for name in "gbmv":
        stored = numpy_helper.from_array(np.ones(4, np.float32), name)
        model.graph.initializer.append(stored)
    made = helper.make_node(
        "BatchNormalization", ["high", *"gbmv"], ["n", "nm", "nv"], name="bn", training_mode=1
    )
    model.graph.node.insert(1, made)
    node(model, "high/Relu").input[0] = "n"


def draws(model: onnx.ModelProto) -> None:
    """Random values instead of an activation."""
    found = node(model, "high/Relu")
    found.op_type = "RandomNormalLike"


def half(model: onnx.ModelProto) -> None:
    """Weights of fp16 in a graph of float32."""
    for tensor in [*model.graph.initializer]:
        if tensor.name != "scales":
            values(model, tensor.name, lambda array: array.astype(np.float16))


def second_input(model: onnx.ModelProto) -> None:
    """One more image."""
    model.graph.input.append(model.graph.input[0])
    model.graph.input[1].name = "more"


def second_output(model: onnx.ModelProto) -> None:
    """One more probability."""
    model.graph.node.append(helper.make_node("Identity", ["head"], ["more"], name="more"))
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "more"


def reverse(model: onnx.ModelProto) -> None:
    """Nodes behind what reads them."""
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def kind(model: onnx.ModelProto, element: int) -> None:
    """Another type for the input."""
    model.graph.input[0].type.tensor_type.elem_type = element


def sequence(model: onnx.ModelProto) -> None:
    """An input that is no tensor."""
    made = helper.make_tensor_sequence_value_info("image", TensorProto.FLOAT, None)
    model.graph.input[0].CopyFrom(made)
