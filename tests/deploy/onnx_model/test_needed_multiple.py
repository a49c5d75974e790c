"""Which sizes a graph takes is told by the graph, not by a number of the published networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import write_small_onnx

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Preprocess
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model, save_model
from segdeploy.deploy.onnx_model.needed_multiple import needed_multiple
from segdeploy.deploy.prediction.fitting import plan_of
from segdeploy.deploy.prediction.model import onnx_model
from segdeploy.deploy.prediction.settings import Fit, Settings
from segdeploy.deploy.rewrites.any_size import any_size
from segdeploy.deploy.rewrites.image_interface import image_interface


def pooled(times: int) -> onnx.ModelProto:
    """Poolings by two, and back by a transposed convolution each, beside what was pooled."""
    nodes, stored, names = [], [], ["image"]
    for index in range(times):
        nodes.append(
            helper.make_node(
                "MaxPool", [names[-1]], [f"down{index}"], kernel_shape=[2, 2], strides=[2, 2]
            )
        )
        names.append(f"down{index}")
    found = names.pop()
    for index in range(times):
        stored.append(numpy_helper.from_array(np.ones((3, 3, 2, 2), np.float32), f"w{index}"))
        nodes.append(
            helper.make_node("ConvTranspose", [found, f"w{index}"], [f"up{index}"], strides=[2, 2])
        )
        nodes.append(helper.make_node("Add", [f"up{index}", names.pop()], [f"sum{index}"]))
        found = f"sum{index}"
    nodes.append(helper.make_node("Sigmoid", [found], ["probability"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, "h", "w"])
        for name in ("image", "probability")
    ]
    graph = helper.make_graph(nodes, "pooled", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.parametrize("times", [0, 1, 3, 5])
def test_each_pooling_by_two_doubles_it(times: int) -> None:
    assert needed_multiple(pooled(times)) == 2**times


def test_a_size_written_into_the_graph_has_none() -> None:
    model = pooled(1)
    model.graph.node[1].attribute.append(helper.make_attribute("output_shape", [32, 32]))
    assert needed_multiple(model) is None


@pytest.mark.parametrize(
    "change", [lambda model, _: model, lambda m, c: image_interface(m, c).model]
)
def test_any_size_pads_images_to_what_the_model_needs(
    change: Callable[[onnx.ModelProto, Preprocess], onnx.ModelProto], tmp_path: Path
) -> None:
    contract = Preprocess(size=(32, 32))
    brought = write_small_onnx(tmp_path / "net.onnx", contract, output=OutputContract())
    model = change(load_model(brought), contract)
    save_model(any_size(model).model, tmp_path / "any.onnx")
    found = onnx_model(tmp_path / "any.onnx", None)
    assert found.multiple == 2
    plan = plan_of((30, 21), Settings(fit=Fit.PAD), contract, multiple=found.multiple)
    assert plan.piece == (30, 22)
    write_small_onnx(tmp_path / "ours.onnx", contract)
    assert onnx_model(tmp_path / "ours.onnx", None).multiple == SIZE_MULTIPLE


def test_a_file_of_100_carries_a_contract_of_100(tmp_path: Path) -> None:
    contract = Preprocess(size=(100, 100))
    assert contract_of(describe(write_small_onnx(tmp_path / "net.onnx", contract))) == contract
