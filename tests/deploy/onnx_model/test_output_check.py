"""The one output check: the graph, the values, and every verb that opens a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny import SPLIT_OF_TWELVE, TINY, write_image_set

from segdeploy.cli.main import main
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.onnx_model.file import (
    contract_of,
    opened,
    output_entries,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.packaging.base import PackagedModel
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError, RunError

BINARY = OutputContract()
LABELS = OutputContract(classes=("cell", "border"))
SOFTMAX = OutputContract(activation=Activation.SOFTMAX, classes=("background", "cell"))

SIDE = TINY.size[0]
Steps = list[tuple[str, dict[str, object]]]


def write(
    path: Path,
    steps: Steps,
    *,
    contract: OutputContract = BINARY,
    channels: int | None = None,
    gives: tuple[int | str, ...] | None = None,
    opset: int = 18,
    stride: int = 1,
    **entries: str,
) -> Path:
    """A convolution, then one operator after the other; ``{"with": array}`` is a second input."""
    channels = contract.channels if channels is None else channels
    weight = np.linspace(-1, 1, channels * 3, dtype=np.float32).reshape(channels, 3, 1, 1)
    stored = [numpy_helper.from_array(weight, "w")]
    nodes = [helper.make_node("Conv", ["image", "w"], ["t0"], name="last", strides=[stride] * 2)]
    for number, (operator, given) in enumerate(steps):
        inputs, attributes = [f"t{number}"], dict(given)
        beside = attributes.pop("with", [])
        for one in beside if isinstance(beside, list) else [beside]:
            inputs.append(f"c{len(stored)}")
            stored.append(numpy_helper.from_array(np.asarray(one), inputs[-1]))
        nodes.append(
            helper.make_node(operator, inputs, [f"t{number + 1}"], name=f"n{number}", **attributes)
        )
    nodes[-1].output[0] = "probability"
    shape = gives or (1, channels, SIDE // stride, SIDE // stride)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    stated = output_entries(contract) | {"preprocess": TINY.to_json()} | entries
    set_metadata(model, {key: value for key, value in stated.items() if value})
    save_model(model, path)
    return path


SIGMOID: Steps = [("Sigmoid", {})]
QUANTIZED: Steps = [
    ("QuantizeLinear", {"with": [np.float32(1 / 255), np.uint8(0)]}),
    ("DequantizeLinear", {"with": [np.float32(1 / 255), np.uint8(0)]}),
]
TO_LAST, TO_FIRST = ("Transpose", {"perm": [0, 2, 3, 1]}), ("Transpose", {"perm": [0, 3, 1, 2]})

UNDERSTOOD: dict[str, tuple[OutputContract, Steps]] = {
    "sigmoid": (BINARY, SIGMOID),
    "hard sigmoid": (BINARY, [("HardSigmoid", {})]),
    "sigmoid behind casts": (
        BINARY,
        [("Cast", {"to": TensorProto.FLOAT16}), *SIGMOID, ("Cast", {"to": TensorProto.FLOAT})],
    ),
    "sigmoid in int8": (BINARY, SIGMOID + QUANTIZED),
    "sigmoid, resized and turned there and back": (BINARY, [*SIGMOID, TO_LAST, TO_FIRST]),
    "several labels": (LABELS, SIGMOID),
    "softmax": (SOFTMAX, [("Softmax", {"axis": 1})]),
    "softmax over an axis from the end": (SOFTMAX, [("Softmax", {"axis": -3})]),
    "softmax of channels last": (SOFTMAX, [TO_LAST, ("Softmax", {"axis": -1}), TO_FIRST]),
    "softmax in int8": (SOFTMAX, [("Softmax", {"axis": 1}), *QUANTIZED]),
    "what the graph does not tell": (BINARY, [("Clip", {"with": [np.float32(0), np.float32(1)]})]),
    "a Sigmoid by hand": (
        BINARY,
        [
            ("Neg", {}),
            ("Exp", {}),
            ("Add", {"with": np.float32(1)}),
            ("Reciprocal", {}),
        ],
    ),
}

REFUSED: dict[str, tuple[OutputContract, Steps, str]] = {
    "logits": (BINARY, [], r"ends in node 'last' \(Conv\).* expected a sigmoid.*segdeploy adopt"),
    "logits cast": (BINARY, [("Identity", {})], r"node 'last' \(Conv\)"),
    "logits plus a bias": (BINARY, [("Add", {"with": np.float32(1)})], r"node 'last' \(Conv\)"),
    "logits in int8": (BINARY, QUANTIZED, r"node 'last' \(Conv\)"),
    "logits of labels": (LABELS, [], "expected a sigmoid"),
    "logits of classes": (SOFTMAX, [], "expected a softmax"),
    "logarithms": (SOFTMAX, [("LogSoftmax", {"axis": 1})], r"node 'n0' \(LogSoftmax\)"),
    "softmax over columns": (SOFTMAX, [("Softmax", {"axis": 3})], r"node 'n0' \(Softmax\)"),
    "softmax turned": (SOFTMAX, [TO_LAST, ("Softmax", {"axis": 1}), TO_FIRST], r"\(Softmax\)"),
    "labels said to exclude each other": (SOFTMAX, SIGMOID, "labels of their own.* says softmax"),
    "classes said to overlap": (LABELS, [("Softmax", {"axis": 1})], "exclude.* says sigmoid"),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_graph_that_ends_in_what_its_contract_says_is_taken(tmp_path: Path, name: str) -> None:
    contract, steps = UNDERSTOOD[name]
    assert contract_of(opened(write(tmp_path / "net.onnx", steps, contract=contract))) == TINY


@pytest.mark.parametrize("name", REFUSED)
def test_a_graph_that_ends_in_something_else_is_refused(tmp_path: Path, name: str) -> None:
    contract, steps, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        opened(write(tmp_path / "net.onnx", steps, contract=contract))


def test_before_opset_13_a_softmax_over_channels_is_over_all_that_follows(tmp_path: Path) -> None:
    steps: Steps = [("Softmax", {"axis": 1})]
    with pytest.raises(InputError, match=r"node 'n0' \(Softmax\)"):
        opened(write(tmp_path / "net.onnx", steps, contract=SOFTMAX, opset=12))


def test_one_channel_of_a_softmax_is_a_label(tmp_path: Path) -> None:
    steps: Steps = [("Softmax", {"axis": 1}), ("Gather", {"with": np.array([1]), "axis": 1})]
    path = write(tmp_path / "net.onnx", steps, channels=2, gives=(1, 1, SIDE, SIDE))
    assert opened(path).outputs[0].shape[1] == 1


def test_a_size_that_the_file_does_not_state_is_inferred(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", SIGMOID, stride=2, gives=(1, 1, "h", "w"))
    with pytest.raises(InputError, match="gives 16x16 for images of 32x32"):
        opened(path)


def test_a_file_without_contracts_may_end_in_anything(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "net.onnx", [], preprocess="")).outputs


FAULTY: dict[str, Callable[[Path], Path]] = {
    "2 channels": lambda path: write(path, [("Softmax", {"axis": 1})], channels=2),
    "no probabilities": lambda path: write(path, []),
    "16x16 for images of 32x32": lambda path: write(path, SIGMOID, stride=2),
}

VERBS: dict[str, str] = {
    "parity": "-m {m} --reference {m} --data {d}",
    "parity, reference": "-m {good} --reference {m} --data {d}",
    "benchmark": "-m {m} --data {d} --duration 0.1",
    "calibrate": "-m {m} --data {d} -o table.json",
    "quantize": "-m {m} --calibration {t} -o int8.onnx",
    "rewrite": "-m {m} --data {d} -o opt.onnx",
    "rewrite, image interface": "-m {m} --rewrites image-interface -o opt.onnx",
    "convert": "-m {m} -o half.onnx",
    "simplify": "-m {m} -o sim.onnx",
    "debug": "-m {m} --calibration {t} --data {d}",
    "predict": "{m} {d}/images -o masks",
    "package": "--target tensorrt -m {m} --data {d} -o package",
    "package, onnx": "--target onnx -m {m} -o package",
    "align": "layers -m {m} --reference {good} --data {d}",
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    (folder / "table.json").write_text("{}")
    good = write(folder / "good.onnx", SIGMOID)
    data = write_image_set(folder / "set", SPLIT_OF_TWELVE)
    return {"good": good, "t": folder / "table.json", "d": data}


@pytest.mark.parametrize("fault", FAULTY)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_in_one_line(
    given: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    model = FAULTY[fault](tmp_path / "net.onnx")
    words = [word.format(m=model, **given) for word in VERBS[verb].split()]
    assert main([verb.split(",")[0], *words]) == InputError.exit_code
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"segdeploy: error: {model} ")
    assert fault in told
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("fault", "flags"),
    [("2 channels", ""), ("no probabilities", "--output-kind logits")],
)
def test_adopt_does_what_the_message_says(
    given: dict[str, Path], tmp_path: Path, fault: str, flags: str
) -> None:
    model, mended = FAULTY[fault](tmp_path / "net.onnx"), tmp_path / "mended.onnx"
    words = f"{model} --preprocess minus-one-one {flags} --data {given['d']} -o {mended}"
    assert main(["adopt", *words.split()]) == 0
    assert opened(mended).outputs[0].name == "probability"


def test_a_package_refuses_what_its_contract_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no probabilities"):
        PackagedModel.open(write(tmp_path / "net.onnx", []))


class TestValues:
    def test_channels_that_add_up_to_something_else_are_refused(self) -> None:
        half = np.full((1, 2, 4, 4), 0.5, np.float32)
        require_probabilities(half, SOFTMAX)
        require_probabilities(half + np.float32(1 / 255), SOFTMAX)
        with pytest.raises(InputError, match=r"add up to 1\.2; expected 1"):
            require_probabilities(half + np.float32(0.1), SOFTMAX)
        require_probabilities(half + np.float32(0.1), LABELS)

    def test_other_channels_than_the_contract_s_are_refused(self) -> None:
        with pytest.raises(InputError, match="2 channels; expected 1: nucleus"):
            require_probabilities(np.zeros((1, 2, 4, 4), np.float32), BINARY)

    def test_values_that_are_not_finite_stop(self) -> None:
        values = np.zeros((1, 1, 4, 4), np.float32)
        values[0, 0, 0, 0] = np.nan
        with pytest.raises(RunError, match="1 of 16 predicted values are NaN"):
            require_probabilities(values, BINARY)

    def test_a_mask_of_classes_is_their_probability(self) -> None:
        mask = np.array([[[0, 1]]], np.uint8)
        found = Interface.IMAGE.probability(mask, SOFTMAX)
        assert found.tolist() == [[[[1.0, 0.0]], [[0.0, 1.0]]]]

    def test_a_mask_of_other_classes_is_refused(self) -> None:
        with pytest.raises(InputError, match="add up to 0"):
            Interface.IMAGE.probability(np.array([[[7]]], np.uint8), SOFTMAX)

    def test_every_class_comes_out_of_a_runtime(self, tmp_path: Path) -> None:
        path = write(tmp_path / "net.onnx", [("Softmax", {"axis": 1})], contract=SOFTMAX)
        images = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
        with open_runtime(
            RuntimeName.ONNXRUNTIME, opened(path), execution=Execution(threads=1)
        ) as r:
            found = infer_each(r, images, SOFTMAX)
        assert found.shape == (3, 2, SIDE, SIDE)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)

    def test_what_only_the_values_tell_is_refused_when_it_runs(self, tmp_path: Path) -> None:
        path = write(tmp_path / "net.onnx", [("Relu", {})])
        images = np.full((1, 3, SIDE, SIDE), 9.0, np.float32) * np.float32([[[-1]], [[0]], [[1]]])
        with (
            open_runtime(
                RuntimeName.ONNXRUNTIME, opened(path), execution=Execution(threads=1)
            ) as r,
            pytest.raises(InputError, match="expected probabilities in 0 to 1"),
        ):
            infer_each(r, images)
