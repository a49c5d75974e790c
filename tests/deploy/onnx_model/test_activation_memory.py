"""What activations take, told from the graph: against sums made by hand."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from segdeploy.deploy.onnx_model.activation_memory import activation_memory
from segdeploy.deploy.system.errors import InputError


def _model(*sides: int | str) -> onnx.ModelProto:
    """A branch and a Concat: x (1 channel) is read at the start and at the end."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Concat", ["x", "b"], ["y"], axis=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["batch", 1, *sides])],
        [value("y", TensorProto.FLOAT, ["batch", 2, *sides])],
    )
    return helper.make_model(graph)


def test_a_tensor_is_held_until_its_last_reader_ran() -> None:
    found = activation_memory(_model(4, 4))
    assert found.largest == 64 * 4  # x, b and the two channels of y; a is gone
    assert found.all == 64 * 5


def test_it_grows_with_the_pixels_alone() -> None:
    small, large = (activation_memory(_model("h", "w"), size=s) for s in ((4, 4), (8, 16)))
    assert large.largest == 8 * small.largest
    assert large.all == 8 * small.all


def test_an_open_size_must_be_given() -> None:
    with pytest.raises(InputError, match="dynamic"):
        activation_memory(_model("h", "w"))
