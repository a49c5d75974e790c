"""One index over a graph: what it says of any graph follows from the nodes alone."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes, layer_name
from segdeploy.deploy.quantize.activations import unfused_outputs


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


@st.composite
def graphs(draw: st.DrawFn) -> onnx.GraphProto:
    """Sums and products of two inputs, two weights and a Constant, in topological order."""
    choose = random.Random(draw(st.integers(0, 2**32)))
    known = ["x", "y", "w0", "w1", "held"]
    array = numpy_helper.from_array(np.array([3, -1], np.float32))
    nodes = [helper.make_node("Constant", [], ["held"], value=array)]
    for number in range(draw(st.integers(1, 12))):
        inputs = [choose.choice(known), choose.choice(known)]
        nodes.append(helper.make_node(choose.choice(["Add", "Mul"]), inputs, [f"t{number}"]))
        known.append(f"t{number}")
    weights = [
        numpy_helper.from_array(np.array([1, number], np.float32), f"w{number}")
        for number in range(2)
    ]
    inputs = [value("x"), value("y"), *([value("w0")] if draw(st.booleans()) else [])]
    return helper.make_graph(nodes, "sums", inputs, [value(known[-1])], weights)


@given(graph=graphs())
def test_makers_and_readers_are_those_of_the_nodes(graph: onnx.GraphProto) -> None:
    index = GraphIndex(graph)
    for node in graph.node:
        assert index.producer[node.output[0]] is node
        assert index.made_by(node.output[0], node.op_type) is node
        assert index.made_by(node.output[0], "Conv") is None
        for name in node.input:
            times = sum(reader is node for reader in index.readers[name])
            assert times == list(node.input).count(name)
    read = sum(len(readers) for readers in index.readers.values())
    assert read == sum(len(node.input) for node in graph.node)
    (output,) = index.outputs
    assert index.only_reader(output) is None


@given(graph=graphs())
def test_a_stored_value_is_no_input_whatever_the_file_lists(graph: onnx.GraphProto) -> None:
    index = GraphIndex(graph)
    assert index.inputs == ("x", "y")
    assert index.tensors == ("x", "y", *(node.output[0] for node in graph.node))
    assert set(index.stored) == {"w0", "w1", "held"}
    np.testing.assert_array_equal(index.value("w1"), [1, 1])
    for name in (*index.tensors, ""):
        assert index.constant(name) is None


@given(graph=graphs(), factor=st.floats(2, 9))
def test_what_does_not_change_does_not_depend_on_the_inputs(
    graph: onnx.GraphProto, factor: float
) -> None:
    """Every tensor that other inputs change is named, and its node is among ``nodes``."""
    index = GraphIndex(graph)
    names = [node.output[0] for node in graph.node]
    one, other = (run(graph, names, x=scale * np.ones(2)) for scale in (1, factor))
    moved = {name for name in names if not np.array_equal(one[name], other[name])}
    assert moved <= index.changing
    assert [n.output[0] for n in index.nodes] == [n for n in names if n in index.changing]


@given(graph=graphs(), data=st.data())
def test_a_part_computes_what_the_whole_does(graph: onnx.GraphProto, data: st.DataObject) -> None:
    index = GraphIndex(graph)
    names = [node.output[0] for node in graph.node]
    given_names = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3))
    wanted = data.draw(st.sampled_from(names))
    whole = run(graph, names, x=np.array([0.5, -2]))
    part = helper.make_graph(
        [n for n in index.between(given_names, [wanted]) if n.output[0] not in given_names],
        "part",
        [value("x"), value("y"), *map(value, given_names)],
        [value(wanted)],
        list(graph.initializer),
    )
    if wanted in given_names:
        assert index.between(given_names, [wanted]) == []
        return
    found = run(part, [wanted], x=np.array([0.5, -2]), **{n: whole[n] for n in given_names})
    np.testing.assert_array_equal(found[wanted], whole[wanted])


def run(
    graph: onnx.GraphProto, names: list[str], **inputs: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """All named tensors for the inputs, ``y`` fixed."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    del copy.output[:], copy.input[:]
    feeds = {"y": np.array([1.5, 0.25])} | inputs
    copy.input.extend(map(value, feeds))
    copy.output.extend(map(value, names))
    model = helper.make_model(copy, opset_imports=[helper.make_opsetid("", 18)])
    values = ReferenceEvaluator(model).run(
        None, {name: array.astype(np.float32) for name, array in feeds.items()}
    )
    return dict(zip(names, values, strict=True))


@pytest.mark.parametrize("relu_first", [True, False])
def test_a_sum_needs_the_range_of_a_convolution_whoever_else_reads_it(relu_first: bool) -> None:
    relu = helper.make_node("Relu", ["c"], ["r"])
    add = helper.make_node("Add", ["c", "c"], ["s"])
    conv = helper.make_node("Conv", ["x", "w"], ["c"])
    readers = [relu, add] if relu_first else [add, relu]
    graph = helper.make_graph([conv, *readers], "net", [value("x")], [value("r"), value("s")])
    assert unfused_outputs(graph) == ("c",)
    only = helper.make_graph([conv, relu], "net", [value("x")], [value("r")])
    assert unfused_outputs(only) == ()


def test_a_layer_goes_by_its_name_else_by_what_it_makes() -> None:
    assert layer_name(helper.make_node("Relu", ["a"], ["b"], name="act")) == "act"
    assert layer_name(helper.make_node("Relu", ["a"], ["b"])) == "b"


def test_attributes_of_any_bytes_are_read() -> None:
    node = helper.make_node("Resize", ["a"], ["b"], mode=b"near\xff", axes=[1], ratio=0.5)
    assert attributes(node) == {"mode": "near\ufffd", "axes": [1], "ratio": 0.5}
