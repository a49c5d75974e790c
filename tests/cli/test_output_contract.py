"""Flags that say what the channels of a network's output mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from segdeploy.cli.main import main
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.onnx_model.file import describe, output_of


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a network with three output channels, as a training leaves them."""
    network = build_network(Architecture.U_NET_BILINEAR, num_classes=3, width=2)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    return tmp_path / "net.pth"


def exported(weights: Path, *words: str) -> tuple[int, Path]:
    out = weights.with_name("net.onnx")
    return main(["export", "-c", str(weights), "-o", str(out), "--overwrite", *words]), out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), OutputContract(classes=("0", "1", "2"))),
        (("--classes", "a,b, c"), OutputContract(classes=("a", "b", "c"))),
        (
            ("--classes", "bg,a,b", "--output-kind", "softmax", "--ignore-index", "255"),
            OutputContract(
                activation=Activation.SOFTMAX, classes=("bg", "a", "b"), ignored_index=255
            ),
        ),
        (
            ("--classes", "bg,a,b", "--output-kind", "logits"),
            OutputContract(activation=Activation.SOFTMAX, classes=("bg", "a", "b")),
        ),
    ],
)
def test_flags_state_the_output_contract(
    weights: Path, words: tuple[str, ...], expected: OutputContract
) -> None:
    code, out = exported(weights, *words)
    assert code == 0
    assert output_of(describe(out)) == expected


def test_a_file_states_the_output_contract(weights: Path, tmp_path: Path) -> None:
    stated = OutputContract(classes=("a", "b", "c"), colours=((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    (tmp_path / "classes.json").write_text(stated.to_json())
    code, out = exported(weights, "--output-contract", str(tmp_path / "classes.json"))
    assert code == 0
    assert output_of(describe(out)) == stated


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("--classes", "a,b"),
            3,
            "3 output channels, the output contract names 2: a, b; .*--class",
        ),
        (("--classes", "a,a,b"), 3, "class name 'a' stands twice"),
        (("--output-kind", "softmax"), 2, "--output-kind needs the names .* --classes NAME,NAME"),
        (("--ignore-index", "255"), 2, "--ignore-index needs the names"),
        (("--output-contract", "gone.json"), 3, "gone.json cannot be read"),
        (("--classes", "a,b,c", "--output-contract", "x.json"), 2, "--classes beside --output-con"),
    ],
)
def test_what_no_contract_can_be(
    weights: Path,
    words: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exported(weights, *words)[0] == code
    assert re.search(message, capsys.readouterr().err)
