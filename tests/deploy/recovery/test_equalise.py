"""Equalisation changes no bit of the float network, and evens what int8 rounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import TINY, write_small_onnx

from segdeploy.api.debug import debug
from segdeploy.calibration.equalised import channel_powers
from segdeploy.calibration.table import imported_table
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.quantize import calibrate as calibrating
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.equalise import POWERS, equalise, equalised, links_of, scaled_like
from segdeploy.deploy.recovery.methods import Recovery, applied
from segdeploy.deploy.recovery.ranges import ranges_by_output
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView
from segdeploy.deploy.system.errors import InputError

MakeWorkshop = Callable[..., Workshop]


def outputs(candidate: Candidate, workshop: Workshop, *, int8: bool) -> np.ndarray:
    loaded = workshop.model(candidate) if int8 else load_model(candidate.source.path)
    view = GraphView(loaded)
    part = GraphPart(view, [view.input], ["head"], literal=True)
    return np.concatenate([part(workshop.input(sample))[0] for sample in workshop.samples])


def test_float_outputs_keep_their_bits_and_int8_comes_closer(
    plain: Candidate, make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    workshop = make_workshop()
    found = applied(Recovery.EQUALISE, plain, workshop)
    assert found.steps == ("equalise",)
    right = outputs(plain, workshop, int8=False)
    assert np.array_equal(outputs(found, workshop, int8=False), right)
    before, after = (
        np.square(outputs(c, workshop, int8=True) - right).sum() for c in (plain, found)
    )
    assert after < before / 2
    written = load_model(workshop.write(found, tmp_path / "net.onnx").path)
    assert metadata(written)["parent_sha256"] == plain.source.sha256


def test_an_even_network_is_left_alone(tmp_path: Path, make_workshop: MakeWorkshop) -> None:
    source = describe(write_small_onnx(tmp_path / "net.onnx"))
    model = load_model(source.path)
    links = links_of(model)
    assert [
        (link.maker.name, [(r.node.name, r.first) for r in link.readers]) for link in links
    ] == [
        ("high", [("low", 0), ("merge", 8)]),
        ("low", [("merge", 0)]),
        ("merge", [("head", 0)]),
    ]
    even = {link.observed: np.zeros(8 if link.maker.name == "low" else 4) for link in links}
    assert equalise(model, links, even) == {}


def chain(second: list[object], weights: dict[str, np.ndarray]) -> object:
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["t"], name="first", pads=[1, 1, 1, 1]),
        *second,
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 8, 8]) for n in "x"]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "chain", ends, [out], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("nodes", "linked"),
    [
        ([("Relu", "t", "r"), ("Conv", "r b", "y")], True),
        ([("LeakyRelu", "t", "r"), ("MaxPool", "r", "p"), ("Conv", "p b", "y")], True),
        ([("Sigmoid", "t", "r"), ("Conv", "r b", "y")], False),
        ([("Conv", "t b", "s"), ("Conv", "s b", "y")], False),  # a recurrence: one weight, two uses
        ([("Add", "t x", "r"), ("Conv", "r b", "y")], False),
        ([("Conv", "t g", "y")], True),  # depthwise
        ([("ConvTranspose", "t h", "y")], True),
        ([("Relu", "t", "y")], False),
    ],
)
def test_only_what_passes_a_factor_on_is_scaled(
    nodes: list[tuple[str, str, str]], linked: bool
) -> None:
    made = []
    for operator, inputs, output in nodes:
        more = {"kernel_shape": [2, 2]} if operator == "MaxPool" else {}
        more |= {"group": 3} if inputs.endswith(" g") else {}
        made.append(helper.make_node(operator, inputs.split(), [output], name=f"n{output}", **more))
    weights = {"a": drawn(3, 3, 3, 3), "b": drawn(3, 3, 1, 1), "g": drawn(3, 1, 3, 3)}
    model = chain(made, weights | {"h": drawn(3, 4, 2, 2)})
    links = [link for link in links_of(model) if link.maker.name == "first"]
    assert bool(links) is linked
    image = drawn(1, 3, 8, 8)
    before = GraphPart(GraphView(model), ["x"], ["y"], literal=True)(image)[0]
    sizes = {link.observed: np.array([64.0, 1.0, 0.01]) for link in links}
    assert bool(equalise(model, tuple(links), sizes)) is linked
    after = GraphPart(GraphView(model), ["x"], ["y"], literal=True)(image)[0]
    assert np.array_equal(before, after)


def test_powers_even_what_they_scale_and_leave_dead_channels() -> None:
    dice = np.random.default_rng(2)
    sizes, weights = 10 ** dice.uniform(-2, 2, 64), 10 ** dice.uniform(-2, 0, 64)
    sizes[3], weights[9] = 0, 0
    powers = channel_powers(sizes, weights)
    assert powers[3] == powers[9] == 0
    assert powers.dtype == np.int64
    alive = (sizes > 0) & (weights > 0)
    scaled = sizes / 2.0**powers
    assert np.log2(scaled[alive]).std() < np.log2(sizes[alive]).std()


def test_ranges_lower_the_error_at_the_output_or_stay(
    plain: Candidate, make_workshop: MakeWorkshop
) -> None:
    workshop = make_workshop()
    found = ranges_by_output(plain, workshop)
    sigmoid = [1 / (1 + np.exp(-outputs(c, workshop, int8=True))) for c in (plain, found)]
    right = 1 / (1 + np.exp(-outputs(plain, workshop, int8=False).astype(float)))
    errors = [np.square(each - right).sum() for each in sigmoid]
    assert found is plain or errors[1] < errors[0]
    again = ranges_by_output(plain, make_workshop(name="again", threads=2, reverse=True))
    assert again.table == found.table


def test_what_was_learnt_is_not_equalised_away(
    plain: Candidate, make_workshop: MakeWorkshop
) -> None:
    learnt = applied(Recovery.BIASES, plain, make_workshop())
    with pytest.raises(AssertionError, match="equalise first"):
        equalised(learnt, make_workshop())


def test_ranges_of_another_tool_are_not_looked_for_again(
    plain: Candidate, make_workshop: MakeWorkshop, caplog: pytest.LogCaptureFixture
) -> None:
    imported = replace(plain, table=imported_table(plain.table.ranges))
    assert applied(Recovery.EQUALISE, imported, make_workshop()) is imported
    assert "another tool's table" in caplog.text


def test_counts_of_other_images_that_an_interrupted_run_left_do_not_stop_ranges(
    plain: Candidate, make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrating, "SAVE_EVERY_S", -1.0)
    workshop = make_workshop()
    few = replace(workshop, images=workshop.images.take(2, seed=1))
    for each in (few, workshop):
        ranges_by_output(plain, each)
    assert len(list(workshop.folder.iterdir())) == 2


def test_debug_measures_an_equalised_file_beside_the_float_file_equalised_alike(
    plain: Candidate, make_workshop: MakeWorkshop, image_folder: Path, tmp_path: Path
) -> None:
    workshop = make_workshop()
    found = applied(Recovery.EQUALISE, plain, workshop)
    written = workshop.write(found, tmp_path / "int8.onnx")
    beside = scaled_like(plain.source, written, tmp_path / "float.onnx")
    stored = [load_model(each.path).graph.initializer for each in (beside, found.source)]
    assert [t.SerializeToString() for t in stored[0]] == [t.SerializeToString() for t in stored[1]]
    errors = [
        debug(written, reference=each, data=image_folder, threads=1)
        for each in (plain.source, found.source)
    ]
    assert errors[0].layers == errors[1].layers
    damaged = load_model(written.path)
    set_metadata(damaged, metadata(damaged) | {POWERS: '{"low": [1, "x"]}'})
    save_model(damaged, tmp_path / "damaged.onnx")
    with pytest.raises(InputError, match="metadata is damaged"):
        scaled_like(plain.source, describe(tmp_path / "damaged.onnx"), tmp_path / "none.onnx")
    even = describe(write_small_onnx(tmp_path / "even.onnx"))
    plain_int8 = workshop.write(plain, tmp_path / "plain.onnx")
    assert scaled_like(even, plain_int8, tmp_path / "none.onnx") is even


def test_lines_are_scaled_as_maps_are(
    plain: Candidate, make_workshop: MakeWorkshop, tmp_path: Path
) -> None:
    model = load_model(plain.source.path)
    (head,) = (node for node in model.graph.node if node.name == "head")
    weights = {
        "l": drawn(4, 4, 3) * np.float32([[[50]], [[1]], [[1]], [[0.1]]]),
        "k": drawn(4, 4, 1),
    }
    sizes = {"rows": np.int64([0, 4, -1]), "back": np.int64([0, 4, *TINY.size])}
    model.graph.initializer.extend(
        numpy_helper.from_array(v, n) for n, v in (weights | sizes).items()
    )
    steps = [
        ("Reshape", [head.input[0], "rows"], "line"),
        ("Conv", ["line", "l"], "first"),
        ("Conv", ["first", "k"], "second"),
        ("Reshape", ["second", "back"], "maps"),
    ]
    for operator, inputs, output in steps:
        more = {"pads": [1, 1]} if output == "first" else {}
        place = list(model.graph.node).index(head)
        made = helper.make_node(operator, inputs, [output], name=output, **more)
        model.graph.node.insert(place, made)
    head.input[0] = "maps"
    save_model(model, tmp_path / "lines.onnx")
    workshop = make_workshop()
    source = describe(tmp_path / "lines.onnx")
    table = calibrate(source, workshop.images, preprocess=TINY, threads=1)
    lines = Candidate(source=source, table=table)
    found = applied(Recovery.EQUALISE, lines, workshop)
    assert "first" in json.loads(metadata(load_model(found.source.path))[POWERS])
    right = outputs(lines, workshop, int8=False)
    assert np.array_equal(outputs(found, workshop, int8=False), right)
