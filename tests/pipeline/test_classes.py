"""Four classes through the whole job, as a module and as the file that PyTorch's exporter wrote."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import segdeploy as sd
from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.cli.main import main
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import output_of

SIZE = (32, 32)
CLASSES = OutputContract(
    activation=Activation.SOFTMAX, classes=("ground", "water", "tree", "roof"), ignored_index=255
)
COLOURS = np.array([(90, 80, 70), (40, 70, 190), (40, 150, 60), (190, 60, 50)], np.float32)
INPUT = Preprocess(size=SIZE, channel_order="RGB", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SPLITS = ["train"] * 6 + ["test"] * 4


class Nearest(nn.Module):
    """The class whose colour is nearest, after a blur that mixes them at edges; ends in logits."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, 4, 1)
        centres = torch.from_numpy((COLOURS / 255 - 0.5) / 0.25)
        with torch.no_grad():
            self.blur.weight.fill_(1 / 9)
            self.head.weight.copy_(2 * centres[:, :, None, None])
            self.head.bias.copy_(-(centres**2).sum(1))  # type: ignore[union-attr]

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.blur(image)))
        return logits


def write_fields(folder: Path) -> Path:
    """A prepared folder of rectangles of four colours, their label maps, and a rim of 255."""
    draw = np.random.default_rng(4)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    with (folder / "splits.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image_id", "split"])
        for index, split in enumerate(SPLITS):
            labels = np.zeros(SIZE, np.uint8)
            for label in (1, 2, 3):
                top, left = draw.integers(0, 20, 2)
                labels[top : top + 11, left : left + 11] = label
            noisy = COLOURS[labels] + draw.normal(0, 60, (*SIZE, 3))
            image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
            image.save(folder / "images" / f"{index:02d}.png")
            labels[0], labels[:, -1] = 255, 255
            Image.fromarray(labels).save(folder / "masks" / f"{index:02d}.png")
            rows.writerow([f"{index:02d}", split])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images, the input contract, and the network as PyTorch's exporter writes it."""
    folder = tmp_path_factory.mktemp("classes")
    write_fields(folder / "data")
    (folder / "input.json").write_text(INPUT.to_json())
    made: Any = torch.onnx.export(
        Nearest().eval(),
        (torch.zeros(2, 3, *SIZE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    (folder / "theirs.onnx").write_bytes(made.model_proto.SerializeToString())
    return folder


@pytest.fixture(scope="module")
def runs(root: Path, no_cold_start: None) -> tuple[sd.Run, sd.Run]:
    """The module's run and the file's."""
    module = sd.deploy(
        Nearest(),
        root / "data",
        contract=sd.Contract(preprocess=INPUT, output=CLASSES),
        out=root / "module",
        targets="ort-x86",
        runtimes="onnxruntime",
        max_drop=20,
        batch=1,
        warmup=0,
        duration_s=0.01,
        threads=1,
    )
    words: list[object] = ["run", "-m", root / "theirs.onnx", "--data", root / "data"]
    words += ["--preprocess", root / "input.json", "--classes", ",".join(CLASSES.classes)]
    words += ["--output-kind", "softmax-logits", "--ignore-index", 255, "-o", root / "file"]
    words += ["--target", "ort-x86", "--runtime", "onnxruntime", "--max-drop", 20]
    words += ["--batch", 1, "--warmup", 0, "--duration", 0.01, "--threads", 1]
    assert main([str(word) for word in words]) == 0
    return module, sd.Run.open(root / "file")


def rows_of(run: sd.Run) -> tuple[ParityRow, ...]:
    assert run.report.parity is not None
    return run.report.parity.rows


def test_both_routes_have_the_same_rows(runs: tuple[sd.Run, sd.Run]) -> None:
    module, file = (rows_of(run) for run in runs)
    assert [row.name.replace("exported", "adopted") for row in module[1:]] == [
        row.name for row in file[1:]
    ]
    for ours, theirs in zip(module, file, strict=True):
        within = 0.5 if ours.target else 0.0  # a rounding of int8 may fall the other way
        for a, b in zip(ours.classes, theirs.classes, strict=True):
            assert a.iou == pytest.approx(b.iou, abs=within), (ours.name, a.name)
    assert module[0].scores.miou == file[0].scores.miou


def test_each_class_scores_what_counting_by_hand_gives(
    root: Path, runs: tuple[sd.Run, sd.Run]
) -> None:
    counts = np.zeros((4, 4), np.int64)
    network = Nearest().eval()
    for index in (index for index, split in enumerate(SPLITS) if split == "test"):
        image = np.asarray(Image.open(root / "data" / "images" / f"{index:02d}.png"), np.float32)
        truth = np.asarray(Image.open(root / "data" / "masks" / f"{index:02d}.png"))
        normalised = torch.from_numpy((image / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
        with torch.no_grad():
            found: NDArray[Any] = network(normalised).argmax(1)[0].numpy()
        inside = truth != 255
        np.add.at(counts, (truth[inside], found[inside]), 1)
    either = counts.sum(0) + counts.sum(1) - np.diag(counts)
    expected = 100 * np.diag(counts) / either
    assert 30 < expected.mean() < 99, "too easy or too hard to tell anything"
    for run in runs:
        reference = rows_of(run)[0]
        assert [each.name for each in reference.classes] == list(CLASSES.classes)
        assert [each.iou for each in reference.classes] == pytest.approx(list(expected), abs=0.05)
        assert reference.scores is not None
        assert reference.scores.miou == pytest.approx(expected.mean(), abs=0.05)


def test_every_file_carries_the_classes(runs: tuple[sd.Run, sd.Run]) -> None:
    for run in runs:
        for role in ("exported", "simplified", "fp16", "rewritten", "ort-x86"):
            assert output_of(sd.load(run.finished.model(role))) == CLASSES  # type: ignore[arg-type]
        assert run.report.model.output == {
            "activation": "softmax",
            "classes": list(CLASSES.classes),
            "colours": None,
            "ignored_index": 255,
        }


def test_both_folders_verify(runs: tuple[sd.Run, sd.Run], tmp_path: Path) -> None:
    for run in runs:
        assert main(["verify", str(run.folder)]) == 0
    copied = Path(shutil.copytree(runs[0].folder, tmp_path / "out"))
    assert main(["report", str(copied)]) == 0
    assert main(["verify", str(copied)]) == 0
