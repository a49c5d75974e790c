"""segdeploy predict: any artefact, any size; what it writes, how it exits, what a mistake says."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny import TINY, exported, made_up_table, quantized

from segdeploy.cli import predict as cli_predict
from segdeploy.cli.flags import ENGINES
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import read_image
from segdeploy.deploy.data.placement import resized_values
from segdeploy.deploy.distributed.engine import Engine
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.onnx_model.interface import interface_of
from segdeploy.deploy.prediction.settings import Fit, Write
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite
from segdeploy.deploy.stages.to_fp16 import to_fp16

Files = dict[str, Path]
Predict = Callable[..., int]
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Files:
    """A checkpoint and what is made of it, each form also for images of any size."""
    root = tmp_path_factory.mktemp("models")
    fp32 = exported(_tiny_unet, root, head=1)
    int8 = quantized(fp32, root / "int8.onnx", made_up_table(fp32))
    made: dict[str, Artifact] = {
        "fp32": fp32,
        "fp16": to_fp16(fp32, root / "fp16.onnx"),
        "int8": int8,
    }
    for name in ("fp32", "int8"):
        image = root / f"{name}.mask.onnx"
        made[f"{name}.mask"] = rewrite(made[name], image, names=[RewriteName.IMAGE_INTERFACE])
    for name in list(made):
        free = root / f"{name}.any.onnx"
        made[f"{name}.any"] = rewrite(made[name], free, names=[RewriteName.ANY_SIZE])
    return {name: artifact.path for name, artifact in made.items()} | {
        "checkpoint": root / "net.safetensors"
    }


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_set: Path) -> Predict:
    """Function (model, output, flags) -> exit code, on the set's images or other ``images``."""
    monkeypatch.chdir(tmp_path)
    images = image_set / "images"

    def predict(model: Path, output: str, *flags: object, images: Path = images) -> int:
        arguments = ["predict", model, images, "-o", output, "--threads", 1, *flags]
        return main([str(argument) for argument in arguments])

    return predict


def masks_of(folder: str) -> dict[str, Pixels]:
    return {path.name: read_image(path, "L") for path in sorted(Path(folder).glob("*.png"))}


def probabilities_of(folder: str) -> list[NDArray[np.float32]]:
    return [np.load(path) for path in sorted(Path(folder, "probability").glob("*.npy"))]


def same(first: dict[str, Pixels], second: dict[str, Pixels]) -> bool:
    assert first
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


class TestEveryArtefact:
    @pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "fp32.mask", "int8.mask", "fp32.any"])
    def test_masks_are_those_of_the_model_fed_by_hand(
        self, files: Files, predict: Predict, image_set: Path, name: str
    ) -> None:
        assert predict(files[name], "out") == 0
        artifact = describe(files[name])
        interface = interface_of(artifact.inputs, artifact.outputs)
        images = {
            path.name: read_image(path, "RGB") for path in sorted((image_set / "images").iterdir())
        }
        execution = Execution(threads=1)
        with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
            found = infer_each(runtime, (interface.prepared(i, TINY) for i in images.values()))[
                :, 0
            ]
        expected = {
            file: np.where(resized_values(one, image.shape[:2]) >= 0.5, 255, 0).astype(np.uint8)
            for (file, image), one in zip(images.items(), found, strict=True)
        }
        assert same(masks_of("out"), expected)

    @pytest.mark.parametrize("fit", Fit)
    def test_a_checkpoint_gives_what_its_export_gives(
        self, files: Files, predict: Predict, fit: Fit
    ) -> None:
        flags = ("--fit", fit.value, "--write", "probability-npy")
        assert predict(files["checkpoint"], "torch", "--head", 1, *flags) == 0
        assert predict(files["fp32.any"], "onnx", *flags) == 0
        assert len(probabilities_of("onnx")) == 12
        for one, other in zip(probabilities_of("torch"), probabilities_of("onnx"), strict=True):
            assert np.abs(one - other).max() < 1e-4

    @pytest.mark.skipif(
        importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
    )
    @pytest.mark.parametrize("fit", Fit)
    def test_another_runtime_gives_the_same(self, files: Files, predict: Predict, fit: Fit) -> None:
        flags = ("--fit", fit.value, "--write", "probability-npy")
        assert predict(files["fp32.any"], "openvino", "--runtime", "openvino", *flags) == 0
        assert predict(files["fp32.any"], "onnx", *flags) == 0
        for one, other in zip(probabilities_of("openvino"), probabilities_of("onnx"), strict=True):
            assert np.abs(one - other).max() < 1e-4


class TestFoldedPreprocessing:
    """The model that takes raw 8-bit pixels beside the one it was made from."""

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    @pytest.mark.parametrize("form", ["", ".any"])
    def test_images_of_the_model_s_size_have_the_same_masks(
        self,
        files: Files,
        predict: Predict,
        image_set: Path,
        tmp_path: Path,
        precision: str,
        form: str,
    ) -> None:
        small = tmp_path / "small"
        small.mkdir()
        for path in (image_set / "images").iterdir():
            Image.fromarray(read_image(path, "RGB")[:32, :32]).save(small / path.name)
        assert predict(files[f"{precision}{form}"], "plain", images=small) == 0
        assert predict(files[f"{precision}.mask{form}"], "folded", images=small) == 0
        assert same(masks_of("folded"), masks_of("plain"))
        assert 0.02 < np.mean([mask.mean() / 255 for mask in masks_of("plain").values()]) < 0.98

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_padded_images_of_any_size_have_the_same_masks(
        self, files: Files, predict: Predict, precision: str
    ) -> None:
        assert predict(files[f"{precision}.any"], "plain", "--fit", "pad") == 0
        assert predict(files[f"{precision}.mask.any"], "folded", "--fit", "pad") == 0
        assert same(masks_of("folded"), masks_of("plain"))

    def test_resized_images_have_the_mask_of_the_model_s_size_enlarged(
        self, files: Files, predict: Predict, image_set: Path
    ) -> None:
        """A mask is cut before it is enlarged, a probability after; that is all the difference."""
        assert predict(files["fp32.mask"], "folded") == 0
        found = masks_of("folded")
        execution = Execution(threads=1)
        artifact = describe(files["fp32"])
        with open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=execution) as runtime:
            for path in sorted((image_set / "images").iterdir()):
                image = read_image(path, "RGB")
                cut = infer_each(runtime, [TINY.apply(image)])[:, 0][0] >= 0.5
                enlarged = resized_values(cut.astype(np.float32), image.shape[:2])
                assert np.array_equal(found[path.name] == 255, enlarged >= 0.5)


class TestCommand:
    def test_everything_is_written_and_counted(
        self, files: Files, predict: Predict, capsys: pytest.CaptureFixture[str], image_set: Path
    ) -> None:
        kinds = cli_predict.WRITES
        assert predict(files["fp32"], "out", "--write", *kinds, "--format", "json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["images"], told["done"], told["reused"], told["fit"]) == (12, 12, 0, "resize")
        assert told["images_per_s"] > 0
        assert told["peak_bytes"] > 10_000_000
        with Path(told["index"]).open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert [row["name"] for row in rows] == [f"cells_{index:02d}" for index in range(12)]
        assert {path.name for path in Path("out").iterdir() if path.suffix != ".png"} == {
            *("index.csv", "index.jsonl", "probability", "overlay", "labels")
        }
        modes = {"labels": "I;16", "probability": "I;16", "overlay": "RGB", ".": "L"}
        for row in rows:
            for folder, mode in modes.items():
                with Image.open(Path("out", folder, f"{row['name']}.png")) as opened:
                    assert opened.mode == mode
                    assert opened.size == (int(row["width"]), int(row["height"]))

    @pytest.mark.parametrize(("fit", "batch"), [("resize", 5), ("tile", 4)])
    def test_batches_workers_and_streams_change_no_byte(
        self, files: Files, predict: Predict, fit: str, batch: int
    ) -> None:
        kinds = ("--fit", fit, "--write", *cli_predict.WRITES)
        assert predict(files["int8"], "one", *kinds, "--workers", 1) == 0
        more = ("--batch", batch, "--workers", 3, "--threads", 2, "--streams", 2)
        assert predict(files["int8"], "many", *kinds, *more) == 0
        one, many = (
            {p.relative_to(root): p.read_bytes() for p in sorted(Path(root).rglob("*.[np]*"))}
            for root in ("one", "many")
        )
        assert len(one) == 12 * len(Write)
        assert one == many

    def test_a_bad_image_ends_in_3_and_is_said(
        self, files: Files, predict: Predict, image_set: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (image_set / "images" / "broken.png").write_bytes(b"\x89PNG")
        assert predict(files["fp32"], "out") == 3
        assert "1 of 13 images are not done (1 unreadable, 0 failed)" in capsys.readouterr().err
        assert len(masks_of("out")) == 12

    def test_a_second_call_does_nothing_twice(
        self, files: Files, predict: Predict, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert predict(files["fp32"], "out") == 0
        assert predict(files["fp32"], "out") == 0
        assert "0 images done" in capsys.readouterr().out.splitlines()[-2]

    def test_the_fastest_runtime_can_be_asked_for(
        self, files: Files, predict: Predict, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert predict(files["fp32"], "out", "--runtime", "auto") == 0
        assert "is the fastest here" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("model", "flags", "code", "words"),
        [
            ("fp32", ("--fit", "pad"), 3, "takes 32x32 pixels only, so it cannot --fit pad"),
            ("fp32.mask", ("--write", "probability"), 3, "gives masks, no probability"),
            ("fp32.any", ("--fit", "pad", "--batch", 2), 2, "needs images of one size"),
            ("fp32", ("--fit", "tile", "--overlap", 32), 2, "choose an --overlap below 32"),
            ("fp32", ("--overlap", 3), 2, "--overlap is for --fit tile"),
            ("fp32", ("--scale", 2), 2, "--scale is for --fit pad or tile"),
            ("fp32", ("--head", 1), 2, "--head is for a checkpoint"),
            ("fp32", ("--runtime", "pytorch"), 2, "runs checkpoints"),
            ("fp32", ("--streams", 9), 2, "9 streams cannot share 1 threads"),
            ("checkpoint", ("--runtime", "onnxruntime"), 2, "`segdeploy export` first"),
            ("absent.onnx", (), 3, "model absent.onnx does not exist"),
            ("absent.pth", (), 3, "checkpoint absent.pth does not exist"),
            ("image", (), 3, "ends in '.png'; expected one of"),
        ],
    )
    def test_a_newcomer_s_mistake_is_told_before_the_work(
        self,
        files: Files,
        predict: Predict,
        image_set: Path,
        capsys: pytest.CaptureFixture[str],
        model: str,
        flags: tuple[Any, ...],
        code: int,
        words: str,
    ) -> None:
        known = files | {"image": image_set / "images" / "cells_00.png"}
        assert predict(known.get(model, Path(model)), "out", *flags) == code
        said = capsys.readouterr().err
        assert said.startswith("segdeploy: error: ")
        assert words in said
        assert not Path("out").exists()


def test_flags_name_what_there_is() -> None:
    assert list(cli_predict.FITS) == [fit.value for fit in Fit]
    assert list(cli_predict.WRITES) == [write.value for write in Write]
    assert list(ENGINES) == [engine.value for engine in Engine]
