"""Any module through the whole job, from a call and from the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from tiny import TINY, write_discs
from torch import Tensor, nn

import segdeploy as sd
from segdeploy.cli.main import main

CODE = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.Conv2d(4, 1, 1))
"""


class Theirs(nn.Module):
    """No family has it: strides, depthwise convolutions, SiLU, a transposed convolution."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.head = nn.Conv2d(11, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        features = nn.functional.silu(self.norm(self.down(image)))
        raised = self.up(torch.relu(self.wide(features)))
        logits: Tensor = self.head(torch.cat([raised, image], dim=1))
        return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs, code of the user's, and weights for it."""
    root = tmp_path_factory.mktemp("module")
    write_discs(root / "data", ["train"] * 6 + ["test"] * 3, seed=17, area=(30, 90))
    (root / "code_of_a_run.py").write_text(CODE)
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)
    )
    torch.save({"state_dict": network.state_dict()}, root / "best.pth")
    (root / "contract.json").write_text(TINY.to_json())
    return root


@pytest.mark.usefixtures("no_cold_start")
def test_a_module_becomes_everything_a_checkpoint_does(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = sd.deploy(
        Theirs(1),
        folder / "data",
        contract=sd.Contract(preprocess=TINY),
        out=tmp_path / "out",
        targets="ort-x86",
        runtimes="onnxruntime",
        max_drop=100,
        batch=1,
        warmup=0,
        duration_s=0.01,
        threads=1,
    )
    report = run.report
    assert (report.model.source, report.model.name, report.model.family) == (
        "module",
        "Theirs",
        None,
    )
    assert report.parity is not None
    reference, exported, *_ = report.parity.rows
    assert reference.name == "PyTorch fp32"
    assert exported.scores == reference.scores
    assert report.benchmark is not None
    assert not [row for row in report.benchmark.rows if row.skipped]
    first = report.stages[0]
    assert first.check is not None
    assert first.check.max_abs_difference < 1e-5
    assert report.command.startswith("segdeploy.deploy(module, ")
    assert main(["verify", str(tmp_path / "out")]) == 0


def module_words(folder: Path) -> list[str]:
    words = ("--module", "code_of_a_run:network", "--preprocess", folder / "contract.json")
    return [str(word) for word in words]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user works where the code lies."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("code_of_a_run", None)
    return folder


def test_the_command_line_takes_a_factory(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "net.onnx")
    assert main(["export", "-c", "best.pth", *module_words(here), "-o", out]) == 0
    capsys.readouterr()
    words = ["parity", "-m", out, "--reference", "best.pth", *module_words(here), "--data", "data"]
    words += ["--runtime", "onnxruntime", "--threads", "1", "--format", "json"]
    assert main(words) == 0
    reference, exported = json.loads(capsys.readouterr().out)["rows"]
    assert reference["name"] == "PyTorch fp32"
    assert exported["scores"] == reference["scores"]
    assert exported["disagreement_percent"] == 0
    words = ["benchmark", "-m", out, "--reference", "best.pth", *module_words(here)]
    words += ["--data", "data", "--runtime", "onnxruntime", "--batch", "1", "--threads", "1"]
    assert main([*words, "--warmup", "0", "--duration", "0.01", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["skipped"] for row in rows] == [None, None]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--module", "code_of_a_run:network"],
            3,
            "carries no input contract; .*--preprocess NAME",
        ),
        (["--module", "code_of_a_run:gone", "--preprocess", "imagenet"], 3, "--module .* failed"),
        (
            ["--module", "x:y", "--preprocess", "imagenet", "--head", "1"],
            2,
            "--head is for a check",
        ),
    ],
)
def test_what_a_factory_cannot_be_run_with(
    here: Path, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-c", "best.pth", *words, "--data", "data", "-o", "o"]) == code
    said = capsys.readouterr().err
    assert re.search(message, said), said


def test_a_module_needs_a_contract(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(sd.UsageError, match="says nothing of what it takes and gives"):
        sd.deploy(Theirs(1), folder / "data", out=tmp_path / "out")
    with pytest.raises(sd.InputError, match="carries no input contract"):
        sd.load(Theirs(1))
    loaded = sd.load(Theirs(1), preprocess="zero-one", size=(32, 48))
    assert loaded.preprocess.size == (32, 48)  # type: ignore[union-attr]


def test_verbs_of_onnx_files_name_the_module(folder: Path, tmp_path: Path) -> None:
    loaded = sd.load(Theirs(1), preprocess=TINY)
    with pytest.raises(sd.UsageError, match="Theirs is a module; export it first"):
        sd.simplify(loaded, tmp_path / "x.onnx")  # type: ignore[arg-type]
    with pytest.raises(sd.UsageError, match="Theirs is a module; export it first"):
        sd.predict(loaded, folder / "data" / "images", tmp_path / "masks")
