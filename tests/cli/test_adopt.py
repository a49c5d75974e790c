"""``segdeploy adopt``: what it says, what it writes, and what it is told to refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input import assert_refused, run_command
from foreign_onnx import foreign

import segdeploy as sd
from segdeploy.cli.main import main
from segdeploy.deploy.onnx_model.file import describe, output_of


@pytest.fixture
def folder(
    tmp_path: Path,
    small_onnx: Callable[..., Path],
    make_image_set: Callable[[Path, list[str]], Path],
) -> Path:
    """A network of ours, ``ours.onnx``, and an image set."""
    small_onnx(tmp_path / "ours.onnx")
    make_image_set(tmp_path / "set", ["train"] * 3 + ["val", "test"])
    return tmp_path


def adopted(folder: Path, name: str, *flags: object) -> list[str]:
    """A command that adopts one of ``FOREIGN``."""
    theirs = foreign(name, folder / "ours.onnx", folder / "theirs.onnx")
    words = ("adopt", theirs, "--data", folder / "set", "-o", folder / "new.onnx", *flags)
    return [str(word) for word in words]


def test_what_is_other_and_how_far_stands_in_the_result(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = adopted(folder, "opset 9", "--preprocess", "zero-one", "--format", "json")
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == 3
    assert found["max_difference"] <= 1e-5
    assert found["changed"] == 0
    assert "opset 9 raised to 13" in found["notes"]
    assert (found["output"], found["output_kind"]) == ("probability", "sigmoid")


def test_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = adopted(folder, "logits", "--preprocess", "zero-one", "--output-kind", "logits")
    assert main(words) == 0
    printed = "".join(capsys.readouterr())
    assert "output 'head' as logits" in printed
    assert "on 3 images it computes what the original does" in printed


def test_a_contract_from_a_file_travels_with_the_model(folder: Path) -> None:
    contract = sd.Preprocess(size=(32, 32), channel_order="RGB", mean=(0.1, 0.2, 0.3))
    (folder / "contract.json").write_text(contract.to_json())
    words = adopted(folder, "any size", "--preprocess", folder / "contract.json")
    assert main(words) == 0
    found = sd.load(folder / "new.onnx")
    assert isinstance(found, sd.Artifact)
    assert found.inputs[0].shape == ("batch", 3, 32, 32)


def test_a_size_is_stated_where_the_file_leaves_it_open(folder: Path) -> None:
    words = adopted(folder, "any size", "--preprocess", "zero-one", "--size", 48, 32)
    assert main(words) == 0
    found = sd.load(folder / "new.onnx")
    assert isinstance(found, sd.Artifact)
    assert found.inputs[0].shape == ("batch", 3, 48, 32)


def test_classes_are_named_in_parts_or_by_a_contract(folder: Path) -> None:
    flags = ("--preprocess", "zero-one", "--output-kind", "logits", "--ignore-index", 255)
    words = adopted(folder, "logits of four", *flags, "--classes", "ground, cell,wall,gap")
    assert main(words) == 0
    expected = sd.OutputContract(
        activation="softmax",  # type: ignore[arg-type]  # also by its word
        classes=("ground", "cell", "wall", "gap"),
        ignored_index=255,
    )
    assert output_of(describe(folder / "new.onnx")) == expected
    (folder / "classes.json").write_text(
        '{"activation": "sigmoid", "classes": ["a", "b", "c", "d"], "colours": null}'
    )
    words = adopted(folder, "logits of four", *flags[:4], "--overwrite")
    assert main([*words, "--output-contract", str(folder / "classes.json")]) == 0
    found = output_of(describe(folder / "new.onnx"))
    assert (found.classes, found.exclusive) == (tuple("abcd"), False)


def test_the_folder_of_a_run_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["adopt", str(folder), "--preprocess", "published", "-o", str(folder / "new.onnx")]
    assert main(words) != 0
    assert not (folder / "new.onnx").exists()


@pytest.mark.parametrize(
    ("name", "flags", "code", "message"),
    [
        ("logits", "--preprocess zero-one", 3, "--output-kind logits"),
        ("any size", "--preprocess zero-one", 3, "any size; state .* --size HEIGHT WIDTH"),
        (
            "any size",
            "--preprocess zero-one --size 41 40",
            3,
            "multiple of 2, which the model needs",
        ),
        ("pixels", "--preprocess imagenet", 3, "8-bit pixels .* --preprocess pixels"),
        ("no metadata", "--preprocess torchvision", 2, "neither a preset nor a file; choose from"),
        ("features beside", "--preprocess zero-one", 3, "which is the mask: --output-name NAME"),
        ("logits of four", "--preprocess zero-one", 3, "--output-kind logits"),
        ("four classes", "--preprocess zero-one --classes a,b", 3, "4 channels, and 2 names"),
        ("two heads", "--preprocess zero-one --output-name x", 3, "no output 'x'; it has prob"),
    ],
)
def test_refused_in_one_line(name: str, flags: str, code: int, message: str, folder: Path) -> None:
    words = adopted(folder, name, *flags.split())
    assert_refused(run_command(words, folder), code=code, message=message)
