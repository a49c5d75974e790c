"""What half-precision arithmetic does to a file, beside ONNX's own reference implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, save_model, set_metadata
from segdeploy.deploy.runtimes.fp16_range import FP16_MAX, Fp16Range, fp16_range
from segdeploy.deploy.stages.to_fp16 import to_fp16

Pixels = NDArray[np.float32]
SHAPE = [1, 2, 4, 4]


def half(folder: Path, nodes: list[onnx.NodeProto], **constants: float) -> Artifact:
    """The fp16 form of a graph from x to y, float32 (1, 2, 4, 4), with named constants."""
    held = [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    set_metadata(model, {"precision": "fp32"})
    save_model(model, folder / "net.onnx")
    return to_fp16(describe(folder / "net.onnx"), folder / "net.fp16.onnx")


def mean_by_sum(folder: Path) -> Artifact:
    """x * factor minus its mean, which is a sum first."""
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["large"], name="mul"),
        helper.make_node("ReduceSum", ["large"], ["sum"], name="total", keepdims=1),
        helper.make_node("Div", ["sum", "count"], ["mean"], name="mean"),
        helper.make_node("Sub", ["large", "mean"], ["centred"], name="centre"),
        helper.make_node("Div", ["centred", "factor"], ["y"], name="back"),
    ]
    return half(folder, nodes, factor=3000.0, count=32.0)


def square_in_a_divisor(folder: Path) -> Artifact:
    """x / x**2, whose divisor vanishes for a small x."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"], name="square"),
        helper.make_node("Div", ["x", "square"], ["y"], name="ratio"),
    ]
    return half(folder, nodes)


def images(value: float, count: int = 2) -> list[Pixels]:
    return [np.full(SHAPE[1:], value, np.float32) for _ in range(count)]


def in_fp16(artifact: Artifact, image: Pixels) -> Pixels:
    """By ONNX's reference implementation, which computes fp16 in fp16."""
    with np.errstate(all="ignore"):
        (found,) = ReferenceEvaluator(onnx.load(artifact.path)).run(None, {"x": image[None]})
    return np.asarray(found)


def test_a_sum_beyond_the_range_is_named_and_its_outputs_are_lost(tmp_path: Path) -> None:
    artifact = mean_by_sum(tmp_path)
    found = fp16_range(artifact, images(1.0), threads=1)
    assert (found.node, found.largest, found.images) == ("total (ReduceSum)", 96000.0, 2)
    assert not found.kept
    assert found.lost == found.outputs == 2 * 32
    assert not np.isfinite(in_fp16(artifact, images(1.0)[0])).any()
    assert "total (ReduceSum) reaches 96,000 on 2 images, beyond fp16's 65,504" in str(found.words)


def test_a_divisor_that_vanishes_is_seen(tmp_path: Path) -> None:
    artifact = square_in_a_divisor(tmp_path)
    found = fp16_range(artifact, images(1e-4), threads=1)
    assert not found.kept
    assert found.largest <= FP16_MAX or found.node == "ratio (Div)"
    assert np.isinf(in_fp16(artifact, images(1e-4)[0])).all()


def test_what_holds_is_kept_and_nearly_too_much_is_told(tmp_path: Path) -> None:
    artifact = mean_by_sum(tmp_path)
    room = fp16_range(artifact, images(0.1), threads=1)
    assert room.kept
    assert room.words is None
    near = fp16_range(artifact, images(0.5), threads=1)
    assert near.kept
    assert "total (ReduceSum) reaches 48,000 on 2 images, 73 % of fp16's 65,504" in str(near.words)


def test_one_image_of_many_is_enough(tmp_path: Path) -> None:
    artifact = mean_by_sum(tmp_path)
    found = fp16_range(artifact, [*images(0.1, 3), *images(1.0, 1)], threads=1)
    assert not found.kept
    assert found.lost == found.outputs // 4


@pytest.mark.parametrize(("largest", "lost"), [(np.inf, 0), (65505.0, 0), (1.0, 3)])
def test_nothing_lost_and_nothing_beyond_is_what_is_kept(largest: float, lost: int) -> None:
    found = Fp16Range(images=1, largest=largest, node="n (Add)", lost=lost, outputs=9)
    assert not found.kept
    assert found.words
