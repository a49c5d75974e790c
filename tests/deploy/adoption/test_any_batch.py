"""Sizes become constants that leave the batch open, and the network computes what it did."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.adoption.any_batch import for_any_batch

SIDE = 12


def network(
    nodes: list[onnx.NodeProto], constants: dict[str, list[int] | list[float]], *, opset: int = 18
) -> onnx.ModelProto:
    """From ``image`` (n, 3, 12, 12) to ``probability`` of four axes."""
    stored = [
        numpy_helper.from_array(
            np.array(values, np.int64 if isinstance(values[0], int) else np.float32), name
        )
        for name, values in constants.items()
    ]
    ends = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, list("nchw")),
    ]
    graph = helper.make_graph(nodes, "sizes", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: onnx.ModelProto, count: int) -> np.ndarray:  # type: ignore[type-arg]  # of float32
    images = np.random.default_rng(0).uniform(size=(count, 3, SIDE, SIDE)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run(None, {"image": images})[0]  # type: ignore[type-arg]
    return found


def resize(mode: str, form: str) -> onnx.NodeProto:
    return helper.make_node(
        "Resize",
        ["image", "", "", "sizes"],
        ["probability"],
        name="up",
        mode=mode,
        coordinate_transformation_mode=form,
    )


@pytest.mark.parametrize("form", ["half_pixel", "asymmetric", "align_corners"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("sides", [(24, 24), (6, 18), (20, 13)])
def test_a_resize_gives_the_same_for_one_and_takes_two(
    sides: tuple[int, int], mode: str, form: str
) -> None:
    before = network([resize(mode, form)], {"sizes": [1, 3, *sides]})
    after = for_any_batch(before)
    np.testing.assert_array_equal(run(after, 1), run(before, 1))
    assert run(after, 2).shape == (2, 3, *sides)


@pytest.mark.parametrize(("sides", "factors"), [((24, 6), True), ((20, 13), False)])
def test_sizes_become_factors_where_these_are_exact(sides: tuple[int, int], factors: bool) -> None:
    after = for_any_batch(network([resize("linear", "half_pixel")], {"sizes": [1, 3, *sides]}))
    (node,) = after.graph.node
    assert bool(node.input[2]) is factors
    older = network([resize("linear", "half_pixel")], {"sizes": [1, 3, *sides]}, opset=13)
    assert bool(for_any_batch(older).graph.node[0].input[2]) is factors


def test_channels_put_in_front_and_back_take_any_batch() -> None:
    forms = {"windows": [9, 16, 3], "whole": [1, 3, 12, 12]}
    nodes = [
        helper.make_node("Reshape", ["image", "windows"], ["rows"]),
        helper.make_node("Softmax", ["rows"], ["seen"], axis=1),
        helper.make_node("Reshape", ["seen", "whole"], ["probability"]),
    ]
    before = network(nodes, forms)
    after = for_any_batch(before)
    both = run(after, 2)
    np.testing.assert_array_equal(run(after, 1), run(before, 1))
    np.testing.assert_array_equal(both[:1], run(before, 1))
    assert both.shape == (2, 3, 12, 12)


def test_a_reshape_that_leaves_the_batch_open_stays() -> None:
    nodes = [helper.make_node("Reshape", ["image", "rows"], ["probability"])]
    model = network(nodes, {"rows": [0, 3, 6, -1]})
    assert for_any_batch(model).graph == model.graph


def test_a_resize_of_channels_stays() -> None:
    model = network([resize("nearest", "asymmetric")], {"sizes": [1, 6, 24, 24]})
    assert for_any_batch(model).graph == model.graph
