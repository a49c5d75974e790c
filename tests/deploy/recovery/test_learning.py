"""Learnt rounding lowers each layer's error, one step at most; biases are right on average."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import TINY

from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.operators import layer_weight
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.layers import integer_layers
from segdeploy.deploy.recovery.learning import learnt
from segdeploy.deploy.recovery.methods import Recovery, applied, applied_all
from segdeploy.deploy.recovery.receptive import reading
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView
from segdeploy.deploy.targets.profiles import OPENVINO_CPU

MakeWorkshop = Callable[..., Workshop]


def stored(workshop: Workshop, candidate: Candidate) -> dict[str, np.ndarray]:
    model = workshop.model(candidate)
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def views(workshop: Workshop, candidate: Candidate) -> tuple[GraphView, GraphView]:
    return GraphView(load_model(candidate.source.path)), GraphView(workshop.model(candidate))


def mean_errors(workshop: Workshop, candidate: Candidate) -> dict[str, np.ndarray]:
    """For each layer, what each channel is off by on average over the calibration images."""
    reference, view = views(workshop, candidate)
    found = {}
    for layer in integer_layers(reference, view):
        right = GraphPart(reference, [reference.input], [layer.output], literal=True)
        ours = GraphPart(view, [view.input], [layer.output], literal=True)
        images = [workshop.input(sample) for sample in workshop.samples]
        errors = [(ours(i)[0] - right(i)[0]).mean(axis=(0, 2, 3), dtype=float) for i in images]
        found[layer.name] = np.mean(errors, axis=0)
    return found


def output_error(workshop: Workshop, candidate: Candidate) -> float:
    reference, view = views(workshop, candidate)
    right = GraphPart(reference, [reference.input], ["head"], literal=True)
    ours = GraphPart(view, [view.input], ["head"], literal=True)
    images = [workshop.input(sample) for sample in workshop.samples]
    return float(sum(np.square(ours(i)[0] - right(i)[0]).sum() for i in images))


def test_corrected_biases_leave_no_error_on_average(
    plain: Candidate, make_workshop: MakeWorkshop
) -> None:
    workshop = make_workshop()
    before = mean_errors(workshop, plain)
    corrected = learnt(plain, workshop, rounding=False, biases=True)
    after, values = mean_errors(workshop, corrected), stored(workshop, corrected)
    assert max(np.abs(error).max() for error in before.values()) > 1e-3
    for name, error in after.items():
        step = values[f"{name}.bias/scale"]  # a bias is rounded before and after
        assert (np.abs(error) <= step + 1e-6).all(), name


def test_learnt_weights_move_by_less_than_a_step_and_the_output_comes_closer(
    plain: Candidate, make_workshop: MakeWorkshop
) -> None:
    workshop = make_workshop()
    found = learnt(plain, workshop, rounding=True, biases=False)
    assert set(found.learnt.weights) == {f"{n}.weight" for n in ("high", "low", "merge", "head")}
    values, floats = stored(workshop, found), load_model(plain.source.path).graph.initializer
    for tensor in floats:
        if tensor.name in found.learnt.weights:
            scale = values[f"{tensor.name}/scale"].reshape(-1, 1, 1, 1)
            exact = numpy_helper.to_array(tensor) / scale.astype(np.float64)
            assert np.abs(values[f"{tensor.name}/q"] - exact).max() < 1
    assert output_error(workshop, found) < output_error(workshop, plain)


def test_the_same_bytes_whatever_the_order_and_the_threads(
    plain: Candidate, make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    methods = (Recovery.BIASES, Recovery.ROUNDING)
    files = []
    for name, changes in {
        "one": {},
        "two": {"threads": 2},
        "four": {"threads": 4, "reverse": True},
    }.items():
        workshop: Workshop = make_workshop(name=name, **changes)
        found = applied_all(methods, plain, workshop)
        files.append(workshop.write(found, tmp_path / f"{name}.onnx").path.read_bytes())
    assert files[0] == files[1] == files[2]


def test_an_interrupted_walk_goes_on_with_the_next_layer(
    plain: Candidate, make_workshop: MakeWorkshop
) -> None:
    whole = learnt(plain, make_workshop(name="whole"), rounding=True, biases=True)
    begun = make_workshop(name="begun")
    seen: list[int] = []

    def ending(items: Iterable[Any], label: str) -> Iterable[Any]:
        for place, item in enumerate(items):
            if place == 2:
                raise KeyboardInterrupt
            seen.append(place)
            yield item

    with pytest.raises(KeyboardInterrupt):
        learnt(plain, replace(begun, progress=ending), rounding=True, biases=True)
    (state,) = begun.folder.iterdir()
    times = state.stat().st_mtime_ns
    found = learnt(plain, begun, rounding=True, biases=True)
    assert state.stat().st_mtime_ns > times
    for kind in ("weights", "biases"):
        one, other = getattr(found.learnt, kind), getattr(whole.learnt, kind)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
    state.write_bytes(b"damaged")  # is no loss
    assert learnt(plain, begun, rounding=True, biases=True).learnt.weights.keys()


def test_the_file_says_what_was_applied(
    plain: Candidate, make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    workshop = make_workshop()
    found = applied(Recovery.BIASES, plain, workshop)
    assert found.steps == ("biases",)
    model = load_model(workshop.write(found, tmp_path / "net.onnx").path)
    said = {entry.key: entry.value for entry in model.metadata_props}["learnt"]
    assert '"applied": ["biases"]' in said
    assert '"images": 6' in said


@pytest.mark.parametrize(
    ("operator", "shape", "settings"),
    [
        ("Conv", (6, 4, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ("Conv", (6, 2, 3, 2), {"group": 2, "dilations": [2, 1], "pads": [2, 1, 2, 1]}),
        ("Conv", (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
        ("ConvTranspose", (4, 5, 2, 2), {"strides": [2, 2]}),
        (
            "ConvTranspose",
            (4, 3, 3, 3),
            {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1], "output_padding": [1, 0]},
        ),
        ("MatMul", (9, 5), {}),
        ("Gemm", (5, 9), {"transB": 1}),
    ],
)
def test_rows_times_columns_are_the_layer(
    operator: str, shape: tuple[int, ...], settings: dict[str, Any]
) -> None:
    dice = np.random.default_rng(1)
    weight = dice.normal(size=shape).astype(np.float32)
    image = dice.normal(size=(1, 4, 8, 9) if len(shape) == 4 else (7, 9)).astype(np.float32)
    node = helper.make_node(operator, ["x", "w"], ["y"], **settings)
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy"]
    graph = helper.make_graph(
        [node], "one", tensors[:1], tensors[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    expected = GraphPart(GraphView(model), ["x"], ["y"], literal=True)(image)[0]
    layer = layer_weight(node)
    assert layer is not None
    reads = reading(node, layer, shape)
    assert reads is not None
    places = np.arange(reads.places(expected.shape))
    inputs = reads.inputs(image, places, expected.shape)
    rows = layer.rows(weight)
    columns = reads.columns(rows.astype(np.float64))
    size = len(columns) // reads.groups
    found = [
        part @ columns[group * size : (group + 1) * size].T for group, part in enumerate(inputs)
    ]
    given = reads.outputs(expected, places)
    assert np.allclose(np.concatenate(found, axis=1), given, atol=1e-5)
    assert np.array_equal(reads.rows(reads.columns(rows), rows.shape), rows)


def test_a_weight_that_is_read_by_two_axes_keeps_the_integers_of_each(
    plain: Candidate, make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    model = load_model(plain.source.path)
    weight = np.random.default_rng(3).normal(size=(4, 4, 1, 1)).astype(np.float32)
    weight[0] *= 50  # one scale for each output channel: other ones along each axis
    weight[:, 3] *= 0.02
    model.graph.initializer.append(numpy_helper.from_array(weight, "tied"))
    (head,) = (node for node in model.graph.node if node.name == "head")
    place = list(model.graph.node).index(head)
    model.graph.node.insert(
        place, helper.make_node("Conv", [head.input[0], "tied"], ["there"], name="there")
    )
    model.graph.node.insert(
        place + 1, helper.make_node("ConvTranspose", ["there", "tied"], ["back"], name="back")
    )
    head.input[0] = "back"
    save_model(model, tmp_path / "tied.onnx")
    workshop = replace(make_workshop(), profile=OPENVINO_CPU)
    source = describe(tmp_path / "tied.onnx")
    table = calibrate(source, workshop.images, preprocess=TINY, threads=1)
    tied = Candidate(source=source, table=table)
    found = learnt(tied, workshop, rounding=True, biases=True)
    assert set(found.learnt.weights) == {f"{n}.weight" for n in ("high", "low", "merge", "head")}
    assert output_error(workshop, found) < output_error(workshop, tied)
