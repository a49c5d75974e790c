"""``segdeploy parity``: models and returned outputs beside a reference, and its gate."""

from __future__ import annotations

import importlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import THREE_CLASSES, TINY, TWO_LABELS, write_png_file, write_small_onnx

from segdeploy.benchmarks.parity import run as parity_run
from segdeploy.benchmarks.parity.records import ParitySection
from segdeploy.benchmarks.parity.verdict import Verdict
from segdeploy.calibration.json_record import json_of
from segdeploy.cli import parity as cli_parity
from segdeploy.cli.inputs import GATE_FAILED
from segdeploy.cli.parity import VALUES
from segdeploy.cli.parser import build_parser
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.file import describe, load_model, save_model
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, UsageError

# jsonschema ships no type stubs.
jsonschema: Any = importlib.import_module("jsonschema")

ONE_THREAD = Execution(threads=1)
ROW_OF_A_FILE = ("name", "file", "runtime", "precision_requested", "precision_executed")

Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Path:
    """An fp32 ONNX file; its checkpoint lies beside it."""
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(_tiny_unet, folder / "net.safetensors", preprocess=TINY)
    return export(load_checkpoint(folder / "net.safetensors"), folder / "net.onnx").path


@pytest.fixture
def outputs(model: Path, image_set: Path, tmp_path: Path) -> Path:
    """What a device would return: the probability of each test image, as a file of its name."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    images = open_set(image_set, "test")
    with open_runtime(RuntimeName.ONNXRUNTIME, describe(model), execution=ONE_THREAD) as runtime:
        found = infer_each(runtime, images.inputs(TINY))[:, 0]
    for sample, probability in zip(images, found, strict=True):
        np.savez(folder / f"{sample.name}.npz", output_0=probability[None, None])
    return folder


@pytest.fixture
def run(model: Path, image_set: Path, caplog: pytest.LogCaptureFixture) -> Run:
    """Function (words) -> exit code and the section, of the test images; text is in ``caplog``."""
    caplog.set_level(logging.INFO)
    schema = json.loads(
        Path(parity_run.__file__)
        .parents[1]
        .joinpath("report", "report.schema.json")
        .read_text("utf-8")
    )
    part = schema["properties"]["parity"] | {"$defs": schema["$defs"]}

    def call(*words: object, reference: object = model) -> tuple[int, dict[str, Any]]:
        common = ("--reference", reference, "--data", image_set, "--threads", 1)
        words = ("parity", *words, *common)
        code, found = cli_parity.run(build_parser().parse_args([*map(str, words)]), [])
        section = json_of(found)
        jsonschema.validate(json.loads(json.dumps(section, allow_nan=False)), part)
        return code, section

    return call


def without_foreground(source: Path, output: Path) -> Path:
    """The network with a last bias that leaves nothing above a half."""
    network = load_model(source)
    for tensor in network.graph.initializer:
        if tensor.name.endswith("final4.bias"):
            tensor.raw_data = np.float32(-50).tobytes()
            save_model(network, output)
            return output
    raise AssertionError([tensor.name for tensor in network.graph.initializer])


def test_by_default_a_file_runs_on_every_runtime_that_is_here(run: Run, model: Path) -> None:
    code, section = run("-m", model)
    assert code == 0
    assert len(section["image_names"]) == section["images"] == 4
    ran = {row["runtime"] for row in section["rows"][1:] if row["skipped"] is None}
    assert ran == {name.value for name in RuntimeName if availability(name).ready}
    assert {row["verdict"] for row in section["rows"][1:] if row["skipped"] is None} == {"kept"}


def test_returned_outputs_get_the_row_and_verdict_of_the_model_that_made_them(
    run: Run, model: Path, outputs: Path
) -> None:
    code, section = run(
        *("-m", model, "--runtime", "onnxruntime"),
        *("--predictions", outputs, "--predictions-name", "card"),
    )
    _, file, device = section["rows"]
    assert code == 0
    assert device["name"] == "card"
    assert {k: v for k, v in device.items() if k not in ROW_OF_A_FILE} == {
        k: v for k, v in file.items() if k not in ROW_OF_A_FILE
    }


def test_outputs_alone_take_the_inputs_of_the_reference(
    run: Run, model: Path, outputs: Path
) -> None:
    code, section = run("--predictions", outputs, reference=model.with_name("net.safetensors"))
    assert code == 0
    assert [row["name"] for row in section["rows"]] == ["PyTorch fp32", "outputs"]


def test_outputs_without_foreground_fail_the_gate_and_the_images_are_named(
    run: Run, outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = sorted(outputs.iterdir())[0]
    np.savez(lost, output_0=np.full((1, 1, 32, 32), 0.49, np.float32))
    code, section = run("--predictions", outputs, "--max-drop", 100)
    assert code == GATE_FAILED
    row = section["rows"][1]
    assert (row["verdict"], row["collapsed_images"]) == ("collapsed", [lost.stem])
    assert row["worst_images"][0]["name"] == lost.stem
    assert row["worst_images"][0]["collapsed"]
    assert f"foreground collapse on 1 of 4 images (only background predicted): {lost.stem}" in (
        caplog.text
    )
    assert "FAIL (budget 100 points of IoU)" in caplog.text


def test_a_model_that_sees_only_background_fails_on_every_image(
    run: Run, model: Path, tmp_path: Path
) -> None:
    dark = without_foreground(model, tmp_path / "dark.onnx")
    code, section = run("-m", dark, "--runtime", "onnxruntime", "--max-drop", 100)
    assert code == GATE_FAILED
    assert section["rows"][1]["collapsed_images"] == section["image_names"]
    assert section["rows"][1]["mlperf_lines_reached_percent"] == []


def test_what_is_not_proven_fails_and_says_what_would_prove_it(
    run: Run, outputs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A little worse on one image, a little better on another: four images cannot tell."""
    worse, better, *_ = sorted(outputs.iterdir())
    for path, shift in ((worse, -0.05), (better, 0.02)):
        with np.load(path) as held:
            np.savez(path, output_0=np.clip(held["output_0"] + np.float32(shift), 0, 1))
    ends = run("--predictions", outputs)[1]["rows"][1]["ci95_percentage_points"]
    code, section = run("--predictions", outputs, "--max-drop", -ends[0] / 2)
    row = section["rows"][1]
    assert code == GATE_FAILED
    assert row["verdict"] == "not proven"
    assert row["failures"][0].startswith("not proven: IoU changed by ")
    assert "(now 4) would prove it" in row["failures"][0]
    assert row["failures"][0] in caplog.text
    enough = row["failures"][0].split("--max-drop ")[1]
    assert run("--predictions", outputs, "--max-drop", enough)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "nothing to compare; give -m FILE, --predictions DIR, or both"),
        ("--predictions o --runtime openvino", "--runtime is for the files of -m"),
        ("-m n.onnx --predictions-name a", "need --predictions DIR"),
        ("-m n.onnx --predictions-order a.txt", "need --predictions DIR"),
        ("--predictions o p --predictions-name a", "has 1 names for 2 folders"),
        ("--predictions o p --predictions-name a a", "two of the predictions are called"),
        ("--predictions a/o b/o", "two of the predictions are called"),
    ],
)
def test_flags_that_make_no_sense_together(run: Run, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(*words.split())


def test_files_that_no_runtime_takes_are_an_error_with_the_reasons(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*file: object, **asked: object) -> object:
        raise InputError("no kernel for this operator")

    monkeypatch.setattr(parity_run, "open_isolated", refuse)
    with pytest.raises(InputError, match=r"nothing could be compared: net on ONNX Runtime: .*no k"):
        run("-m", model)


def test_a_reference_of_other_inputs_is_refused(
    run: Run, model: Path, tmp_path: Path, tiny_unet: UNetPlusPlus
) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(tiny_unet, other, preprocess=Preprocess(size=(48, 48)))
    with pytest.raises(UsageError, match="expects"):
        run("-m", model, reference=other)


def test_the_parser_knows_what_arrays_may_hold() -> None:
    from segdeploy.benchmarks.parity.predictions import Values

    assert tuple(value.value for value in Values) == VALUES


class TestSeveralClasses:
    @pytest.fixture
    def labelled(self, tmp_path: Path, image_set: Path) -> Path:
        """The images of the set with a label map each: the left is cell, the right wall."""
        root = tmp_path / "set"
        shutil.copytree(image_set / "images", root / "images")
        shutil.copy(image_set / "splits.csv", root)
        for path in (root / "images").iterdir():
            width, height = Image.open(path).size
            labels = np.zeros((height, width), np.uint8)
            labels[5:, : width // 2], labels[5:, width // 2 :] = 1, 2
            write_png_file(root / "masks" / f"{path.stem}.png", labels)
        return root

    def call(self, *words: object) -> tuple[int, ParitySection]:
        common = ("parity", *words, "--threads", 1, "--runtime", "onnxruntime")
        options = build_parser().parse_args([*map(str, common)])
        code, found = cli_parity.run(options, [])
        assert isinstance(found, ParitySection)
        return code, found

    def test_every_class_has_a_line_and_its_budget(
        self, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        net = write_small_onnx(tmp_path / "net.onnx", output=THREE_CLASSES)
        words = ("-m", net, "--reference", net, "--data", labelled, "--max-drop-class", 0)
        code, found = self.call(*words)
        assert code == 0
        row = found.rows[1]
        assert [each.name for each in row.classes] == list(THREE_CLASSES.classes)
        assert {each.verdict for each in row.classes} == {Verdict.KEPT}
        lines = caplog.text.splitlines()
        (shown,) = (line for line in lines if "net on ONNX Runtime: over all pixels mIoU" in line)
        assert shown.endswith("0.000 % of pixels differ, kept")
        assert sum("wall: IoU" in line for line in lines) == 2
        assert "PASS (budget 0.2 points of mIoU)" in caplog.text

    def test_models_of_other_classes_are_refused(
        self, labelled: Path, model: Path, tmp_path: Path
    ) -> None:
        net = write_small_onnx(tmp_path / "net.onnx", output=THREE_CLASSES)
        labels = write_small_onnx(tmp_path / "labels.onnx", output=TWO_LABELS)
        message = "gives softmax of background, cell, wall, labels sigmoid of cell, nucleus"
        with pytest.raises(UsageError, match=message):
            self.call("-m", labels, "--reference", net, "--data", labelled)

    def test_a_network_of_one_label_has_no_budget_for_classes(
        self, model: Path, image_set: Path
    ) -> None:
        words = ("-m", model, "--reference", model, "--data", image_set, "--max-drop-class", 1)
        with pytest.raises(UsageError, match="--max-drop-class is 1, and the network has one"):
            self.call(*words)


def test_a_line_of_one_label_is_of_one_averaging_and_names_it(
    run: Run, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """IoU of each image beside Dice of all pixels would break their law: Dice is never below."""
    run("-m", model)
    shown = [
        re.search(r"mean of images IoU ([\d.]+), mIoU ([\d.]+), Dice ([\d.]+)", line)
        for line in caplog.text.splitlines()
    ]
    found = [tuple(map(float, each.groups())) for each in shown if each]
    assert found
    assert all(dice >= iou for iou, _, dice in found)
