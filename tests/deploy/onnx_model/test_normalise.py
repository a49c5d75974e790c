"""Graphs of all exporters in one form: what they compute stays, what they say is told alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.onnx_model.normalise import normalise
from segdeploy.deploy.system.errors import InputError

DRAW = np.random.default_rng(3)
IMAGE = DRAW.normal(size=(1, 3, 32, 32)).astype(np.float32)

Change = Callable[[onnx.ModelProto], None]


def constants_in_nodes(model: onnx.ModelProto) -> None:
    """All weights in Constant nodes, as hand-written files have them."""
    stored = [*model.graph.initializer]
    del model.graph.initializer[:]
    for tensor in reversed(stored):
        made = helper.make_node("Constant", [], [tensor.name], name="", value=tensor)
        model.graph.node.insert(0, made)


def constants_of_numbers(model: onnx.ModelProto) -> None:
    """Constants that hold numbers instead of a tensor."""
    plain = {"value_float": 0.5, "value_floats": [0.25], "value_int": 2, "value_ints": [1]}
    reads = model.graph.node[-1].input[0]
    for name, value in plain.items():
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], **{name: value}))
    last = len(model.graph.node) - 1
    for position, (whole, number) in enumerate([("value_int", "i"), ("value_ints", "j")]):
        cast = helper.make_node("Cast", [whole], [number], to=TensorProto.FLOAT)
        model.graph.node.insert(last + position, cast)
    last += 2
    for position, name in enumerate(["value_float", "value_floats", "i", "j"]):
        added = helper.make_node("Add", [reads, name], [f"plus {name}"])
        model.graph.node.insert(last + position, added)
        reads = f"plus {name}"
    model.graph.node[-1].input[0] = reads


def weight_behind_identities(model: onnx.ModelProto) -> None:
    """A weight that is read through two Identity nodes."""
    for source, result in (("second", "third"), ("high.weight", "second")):
        model.graph.node.insert(0, helper.make_node("Identity", [source], [result]))
    next(n for n in model.graph.node if n.name == "high").input[1] = "third"


def weights_among_inputs(model: onnx.ModelProto) -> None:
    """Initialisers that are inputs, too, as IR version 3 wants them."""
    model.ir_version, model.opset_import[0].version = 3, 13
    for node in model.graph.node:
        kept = [
            a for a in node.attribute if a.name not in ("antialias", "keep_aspect_ratio_policy")
        ]
        del node.attribute[:]
        node.attribute.extend(kept)
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)


def nameless(model: onnx.ModelProto) -> None:
    """Nodes without names."""
    for node in model.graph.node:
        node.name = ""


def alike(model: onnx.ModelProto) -> None:
    """Nodes of one name, beside one that has the name a second use would get."""
    for node in model.graph.node:
        node.name = "layer"
    model.graph.node[-1].name = "layer@2"


FORMS: dict[str, Change] = {
    change.__name__: change
    for change in (
        constants_in_nodes,
        constants_of_numbers,
        weight_behind_identities,
        weights_among_inputs,
        nameless,
        alike,
    )
}


@pytest.fixture
def small(tmp_path: Path, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path / "small.onnx")


def outputs_of(model: onnx.ModelProto) -> list[np.ndarray]:  # type: ignore[type-arg]  # of any type
    """What ONNX Runtime computes; it takes no two nodes of one name, so they lose theirs."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    nameless(plain)
    session = onnxruntime.InferenceSession(
        plain.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"image": IMAGE}))


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_computes_the_same_and_is_in_the_one_form(change: Change, small: Path) -> None:
    model = onnx.load(small)
    change(model)
    small.write_bytes(model.SerializeToString())
    found = load_model(small)
    for before, after in zip(outputs_of(model), outputs_of(found), strict=True):
        np.testing.assert_array_equal(before, after)
    graph = found.graph
    assert not [node for node in graph.node if node.op_type in ("Constant", "Identity")]
    assert [value.name for value in graph.input] == ["image"]
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
    onnx.checker.check_model(found, full_check=True)


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_a_second_time_changes_nothing(change: Change, small: Path) -> None:
    model = onnx.load(small)
    change(model)
    normalise(model)
    once = model.SerializeToString(deterministic=True)
    normalise(model)
    assert model.SerializeToString(deterministic=True) == once


def test_a_file_of_ours_keeps_its_bytes(small: Path) -> None:
    assert load_model(small).SerializeToString(deterministic=True) == small.read_bytes()


def test_a_shared_weight_stays_one(small: Path) -> None:
    model = onnx.load(small)
    weight_behind_identities(model)
    normalise(model)
    assert [t.name for t in model.graph.initializer].count("high.weight") == 1
    assert next(n for n in model.graph.node if n.name == "high").input[1] == "high.weight"


def test_nodes_that_share_a_name_are_counted(small: Path) -> None:
    model = onnx.load(small)
    alike(model)
    normalise(model)
    assert [node.name for node in model.graph.node][:3] == ["layer", "layer@3", "layer@4"]
    assert model.graph.node[-1].name == "layer@2"


def test_a_constant_that_is_returned_stays_a_node(small: Path) -> None:
    model = onnx.load(small)
    value = numpy_helper.from_array(np.ones(2, np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["ones"], name="ones", value=value))
    model.graph.output.append(helper.make_tensor_value_info("ones", TensorProto.FLOAT, [2]))
    normalise(model)
    assert model.graph.node[-1].op_type == "Constant"


def norm(training_mode: int, outputs: int) -> Change:
    """A BatchNormalization behind the first convolution."""

    def change(model: onnx.ModelProto) -> None:
        for name in ("g", "b", "m", "v"):
            model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), name))
        made = ["normed", "bn.m", "bn.v"][:outputs]
        node = helper.make_node("BatchNormalization", ["high", *"gbmv"], made, name="bn1")
        node.attribute.append(helper.make_attribute("training_mode", training_mode))
        model.graph.node.insert(1, node)
        model.graph.node[2].input[0] = "normed"

    return change


def dropout(*, active: bool | None) -> Change:
    """A Dropout behind the first convolution; ``None``: a flag decides at run time."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("ratio", TensorProto.FLOAT, [], [0.5]))
        mode = helper.make_tensor("mode", TensorProto.BOOL, [], [bool(active)])
        if active is None:
            model.graph.input.append(helper.make_tensor_value_info("mode", TensorProto.BOOL, []))
        else:
            model.graph.node.insert(0, helper.make_node("Constant", [], ["mode"], value=mode))
        node = helper.make_node("Dropout", ["high", "ratio", "mode"], ["some"], name="drop1")
        place = 1 + next(i for i, n in enumerate(model.graph.node) if n.name == "high")
        model.graph.node.insert(place, node)
        model.graph.node[place + 1].input[0] = "some"

    return change


def noise(model: onnx.ModelProto) -> None:
    """Random values added behind the first convolution."""
    drawn = helper.make_node("RandomNormalLike", ["high"], ["drawn"], name="noise1")
    model.graph.node.insert(1, drawn)
    model.graph.node.insert(2, helper.make_node("Add", ["high", "drawn"], ["noisy"], name="plus"))
    model.graph.node[3].input[0] = "noisy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (norm(1, 3), "node 'bn1' .BatchNormalization. is in training mode"),
        (dropout(active=True), "node 'drop1' .Dropout. is active"),
        (dropout(active=None), "node 'drop1' .Dropout. is active, or may be"),
        (noise, "node 'noise1' .RandomNormalLike. draws at random"),
    ],
    ids=["BatchNormalization", "Dropout", "Dropout by a flag", "RandomNormalLike"],
)
def test_what_trains_is_refused_by_name_with_the_remedy(
    change: Change, message: str, small: Path
) -> None:
    model = onnx.load(small)
    change(model)
    small.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=f"{message}.*after model.eval"):
        load_model(small)


@pytest.mark.parametrize(
    "change", [norm(0, 1), dropout(active=False)], ids=["BatchNormalization", "Dropout"]
)
def test_what_only_could_train_is_read(change: Change, small: Path) -> None:
    model = onnx.load(small)
    change(model)
    small.write_bytes(model.SerializeToString())
    assert load_model(small).graph.output[0].name == "probability"
