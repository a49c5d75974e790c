"""The whole job through the command line: what it writes, reuses, goes on with, and refuses."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broken_backends import open_broken
from onnx import numpy_helper
from PIL import Image
from tiny import TINY, write_discs

from segdeploy import benchmarks
from segdeploy.api.deploy import deploy
from segdeploy.benchmarks.parity.records import ParitySection
from segdeploy.cli.main import main
from segdeploy.cli.run import RERUN
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata, save_model
from segdeploy.deploy.runtimes import isolated
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import UsageError
from segdeploy.pipeline import run as pipeline
from segdeploy.pipeline import source, stage_runner
from segdeploy.pipeline.run_config import STAGES
from segdeploy.pipeline.stage_check import StageChecks
from segdeploy.pipeline.stage_runner import StageRunner

NAME = "unet_plus_plus_l1"
MODELS = ("fp32.onnx", "sim.onnx", "fp16.onnx", "opt.onnx", "int8.ort-x86.onnx")
MADE = [f"{NAME}.{suffix}" for suffix in (*MODELS, "calib.json")]
# jsonschema ships no type stubs.
jsonschema: Any = importlib.import_module("jsonschema")
MEASURES = ("debug_stage", "parity_section", "speed_section", "layer_time_section", "worst_images")
SCHEMA = Path(benchmarks.__path__[0]) / "report" / "report.schema.json"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Path:
    """A checkpoint and a prepared folder of discs, six to calibrate on and three to test."""
    root = tmp_path_factory.mktemp("inputs")
    save_checkpoint(_tiny_unet, root / "net.safetensors", preprocess=TINY)
    write_discs(root / "data", ["train"] * 6 + ["test"] * 3, seed=17, area=(30, 90))
    return root


def command(inputs: Path, output: Path, *more: object) -> list[str]:
    """A quick run on one thread; a random network may lose any accuracy in int8."""
    words = (
        *("run", "-c", inputs / "net.safetensors", "--head", 1, "--data", inputs / "data"),
        *("-o", output, "--target", "ort-x86", "--runtime", "onnxruntime", "--max-drop", 100),
        *("--duration", 0.05, "--warmup", 1, "--batch", 2, "--threads", 1, *more),
    )
    return [str(word) for word in words]


def never(*_: object, **__: object) -> None:
    raise AssertionError("measured although nothing changed")


def statuses(output: Path) -> dict[str, str]:
    report = json.loads((output / "report.json").read_text())
    return {row["name"]: row["status"] for row in report["stages"]}


def digests(output: Path) -> dict[str, str]:
    return {name: sha256_of(output / name) for name in MADE}


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one uninterrupted run."""
    output = tmp_path_factory.mktemp("finished") / "out"
    assert main(command(inputs, output)) == 0
    return output


@pytest.fixture(scope="module", autouse=True)
def _no_cold_start_again(finished: Path, request: pytest.FixtureRequest) -> None:
    """That one run measured them for real."""
    request.getfixturevalue("no_cold_start")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


class TestWhatARunWrites:
    def test_every_artefact_and_nothing_else(self, finished: Path) -> None:
        reports = ["checksums.sha256", "manifest.json", "report.html", "report.json", "report.md"]
        assert sorted(path.name for path in finished.iterdir()) == sorted([*MADE, *reports])

    def test_each_file_names_its_parent(self, finished: Path) -> None:
        exported, simplified, half, rewritten, int8 = (
            describe(finished / f"{NAME}.{suffix}") for suffix in MODELS
        )
        assert [a.parent for a in (exported, simplified, half, rewritten, int8)] == [
            None,
            exported.sha256,
            simplified.sha256,
            simplified.sha256,
            rewritten.sha256,
        ]
        table = finished / f"{NAME}.calib.json"
        assert json.loads(table.read_text())["model_sha256"] == rewritten.sha256
        assert metadata(load_model(int8.path))["calibration_sha256"] == sha256_of(table)

    def test_the_manifest_holds_inputs_versions_and_digests(
        self, inputs: Path, finished: Path
    ) -> None:
        manifest = json.loads((finished / "manifest.json").read_text())
        assert {e["file"]: e["sha256"] for e in manifest["stages"].values()} == digests(finished)
        decides = manifest["inputs"]
        assert decides["checkpoint_sha256"] == sha256_of(inputs / "net.safetensors")
        assert (decides["head"], decides["method"]) == (1, "entropy")
        assert {"torch", "onnx", "onnxruntime", "onnxsim"} <= set(decides["versions"])

    def test_the_report_is_valid_and_complete(self, inputs: Path, finished: Path) -> None:
        report = json.loads((finished / "report.json").read_text())
        schema = json.loads(SCHEMA.read_text())
        jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)
        assert [row["name"] for row in report["stages"]] == [
            "export",
            "simplify",
            "fp16",
            "rewrite",
            "calibrate",
            "int8 ort-x86",
            "debug",
            "parity",
            "benchmark",
        ]
        assert set(statuses(finished).values()) == {"done"}
        assert [row["name"] for row in report["parity"]["rows"]] == [
            "PyTorch fp32",
            "fp32 exported on ONNX Runtime",
            "fp32 on ONNX Runtime",
            "fp16 on ONNX Runtime",
            "int8 ort-x86 on ONNX Runtime",
        ]
        assert {row["batch"] for row in report["benchmark"]["rows"]} == {1, 2}
        assert report["data"]["calibration"]["images"] == 6
        assert report["data"]["evaluation"]["images"] == report["parity"]["images"] == 3
        assert report["calibration"]["images"] == 6
        assert report["passed"] is True
        assert report["recommendation"]["file"] in MADE
        assert report["command"].startswith("segdeploy run -c ")
        assert report["cost"]["published_gflops"] is None, "a tiny network is not the published one"

    def test_the_report_says_what_int8_costs_at_each_layer(self, finished: Path) -> None:
        report = json.loads((finished / "report.json").read_text())
        debug = report["debug"]
        assert (debug["file"], debug["reference"], debug["target"]) == (
            f"{NAME}.int8.ort-x86.onnx",
            f"{NAME}.opt.onnx",
            "ort-x86",
        )
        assert debug["images"] == 6, "calibration images; the test images are for the report"
        convolutions = {
            node.name: len(node.input)
            for node in load_model(finished / debug["reference"]).graph.node
            if node.op_type == "Conv"
        }
        assert {layer["name"] for layer in debug["layers"]} == set(convolutions)
        assert not [layer["name"] for layer in debug["layers"] if layer["fault"]]
        assert set(debug["exclude"]) <= set(convolutions)

    def test_stage_checks_are_of_the_right_size(self, finished: Path) -> None:
        report = json.loads((finished / "report.json").read_text())
        checks = {row["name"]: row["check"] for row in report["stages"] if row["check"]}
        assert checks["export"]["max_abs_difference"] <= 1e-5
        assert checks["simplify"]["max_abs_difference"] <= 1e-6
        assert checks["rewrite"]["max_abs_difference"] <= 1e-6
        assert 0 < checks["fp16"]["max_abs_difference"] < 0.02
        assert checks["fp16"]["max_abs_difference"] < checks["int8 ort-x86"]["max_abs_difference"]

    def test_report_writes_the_same_pages_again(self, copied: Path) -> None:
        pages = {name: (copied / name).read_bytes() for name in ("report.md", "report.html")}
        for name in pages:
            (copied / name).unlink()
        assert main(["report", str(copied)]) == 0
        assert {name: (copied / name).read_bytes() for name in pages} == pages


class TestReuse:
    def test_a_second_run_reuses_every_stage_and_every_figure(
        self,
        inputs: Path,
        finished: Path,
        copied: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for measure in MEASURES:
            monkeypatch.setattr(stage_runner, measure, never)
        monkeypatch.setattr(StageChecks, "check", never)
        assert main(command(inputs, copied, "--format", "json")) == 0
        captured = capsys.readouterr()
        assert captured.err.count(", reused") == 9
        assert set(statuses(copied).values()) == {"reused"}
        assert digests(copied) == digests(finished)
        report = json.loads(captured.out)
        assert report == json.loads((copied / "report.json").read_text())
        jsonschema.validate(report, json.loads(SCHEMA.read_text()))
        before = json.loads((finished / "report.json").read_text())
        told = {"created_utc", "command", "stages", "calibration"}  # the last two with seconds
        assert {key for key in before if report[key] != before[key]} <= told
        checks = [[row["check"] for row in each["stages"]] for each in (before, report)]
        assert checks[0] == checks[1]
        assert main(["verify", str(copied)]) == 0

    @pytest.mark.parametrize("stage", ["debug", "benchmark"])
    def test_a_stage_that_is_asked_for_is_done_again_and_no_other(
        self, inputs: Path, copied: Path, stage: str
    ) -> None:
        assert main(command(inputs, copied, "--rerun", stage)) == 0
        found = statuses(copied)
        assert {name for name, status in found.items() if status == "done"} == {stage}

    def test_a_model_that_is_asked_for_is_made_again_to_the_same_bytes(
        self, inputs: Path, finished: Path, copied: Path
    ) -> None:
        assert main(command(inputs, copied, "--rerun", "fp16", "calibrate")) == 0
        found = statuses(copied)
        done = {name for name, status in found.items() if status == "done"}
        assert done == {"fp16", "calibrate"}
        assert digests(copied) == digests(finished)

    def test_what_is_no_stage_cannot_be_asked_for(self, inputs: Path, tmp_path: Path) -> None:
        with pytest.raises(SystemExit):
            main(command(inputs, tmp_path / "out", "--rerun", "polish"))
        assert RERUN == STAGES
        with pytest.raises(UsageError, match="rerun 'polish' is no stage; choose from export"):
            deploy(inputs / "net.safetensors", inputs / "data", rerun="polish")

    @pytest.mark.parametrize(
        ("changed", "measured"),
        [
            (["--duration", 0.04], {"benchmark"}),
            (["--seed", 1, "--max-drop", 101], {"parity"}),
        ],
    )
    def test_figures_are_kept_for_what_decided_them(
        self, inputs: Path, copied: Path, changed: list[object], measured: set[str]
    ) -> None:
        assert main([*command(inputs, copied), *map(str, changed)]) == 0
        done = {name for name, status in statuses(copied).items() if status == "done"}
        assert done == measured
        assert main([*command(inputs, copied), *map(str, changed)]) == 0
        assert set(statuses(copied).values()) == {"reused"}

    def test_the_seal_stays_until_the_next_report_is_whole(
        self, inputs: Path, finished: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        for place, stages in (
            ("worst_images", ["worst-images"]),
            ("layer_time_section", ["fp16", "layer-times"]),
            ("speed_section", ["debug", "benchmark"]),
        ):
            with monkeypatch.context() as during:
                during.setattr(stage_runner, place, interrupted)
                assert main(command(inputs, copied, "--rerun", *stages)) == 130
            assert main(["verify", str(copied)]) == 0
        names = {path.name for path in finished.iterdir()}
        assert {path.name for path in copied.iterdir()} - names == {f"{NAME}.measured.json"}
        assert main(command(inputs, copied)) == 0
        assert {path.name for path in copied.iterdir()} == names
        assert main(["verify", str(copied)]) == 0

    def test_figures_of_an_interrupted_run_are_gone_on_from(
        self, inputs: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        output = tmp_path / "out"
        shutil.copytree(finished, output)
        for name in ("report.json", "report.md", "report.html", "checksums.sha256"):
            (output / name).unlink()
        with monkeypatch.context() as during:
            during.setattr(stage_runner, "speed_section", interrupted)
            assert main(command(inputs, output)) == 130
        assert main(command(inputs, output)) == 0
        found = statuses(output)
        assert (found["debug"], found["parity"], found["benchmark"]) == ("reused", "reused", "done")

    def test_a_damaged_state_is_measured_again(self, inputs: Path, copied: Path) -> None:
        (copied / "report.json").unlink()
        (copied / f"{NAME}.measured.json").write_text('{"parity": {"key": 1}')
        assert main(command(inputs, copied)) == 0
        assert statuses(copied)["parity"] == "done"

    @pytest.mark.uncached
    def test_a_changed_file_is_made_again_to_the_same_bytes(
        self, inputs: Path, finished: Path, copied: Path
    ) -> None:
        with (copied / f"{NAME}.fp16.onnx").open("ab") as stream:
            stream.write(b"x")
        assert main(command(inputs, copied)) == 0
        found = statuses(copied)
        assert (found["export"], found["fp16"], found["int8 ort-x86"]) == (
            "reused",
            "done",
            "reused",
        )
        assert digests(copied) == digests(finished)

    def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
        self,
        inputs: Path,
        finished: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        output = tmp_path / "out"
        monkeypatch.setattr("segdeploy.deploy.quantize.calibrate.SAVE_EVERY_S", -1.0)

        def interrupted_bar(items: Iterable[Any], label: str, *, unit: str) -> Iterator[Any]:
            for number, item in enumerate(items):
                if (label, number) == ("calibrate", 3):
                    raise KeyboardInterrupt
                yield item

        with monkeypatch.context() as during:
            during.setattr("segdeploy.pipeline.stage_runner.bar", interrupted_bar)
            assert main(command(inputs, output)) == 130
        assert "To go on: segdeploy run " in capsys.readouterr().err
        state = output / f"{NAME}.calib.partial.npz"
        assert state.is_file()

        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as during:
            during.setattr(stage_runner, "to_int8", interrupted)
            assert main(command(inputs, output)) == 130
        assert not state.exists()
        assert not (output / "report.json").exists()
        assert main(command(inputs, output)) == 0
        found = statuses(output)
        assert (found["export"], found["calibrate"], found["int8 ort-x86"]) == (
            "reused",
            "reused",
            "done",
        )
        assert digests(output) == digests(finished)

    def test_other_inputs_are_refused_and_overwrite_replaces_them(
        self,
        inputs: Path,
        finished: Path,
        copied: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main(command(inputs, copied, "--method", "minmax")) == 2
        assert "holds a run with other inputs (method)" in capsys.readouterr().err
        assert digests(copied) == digests(finished)
        state = copied / f"{NAME}.calib.partial.npz"
        state.write_bytes(b"left by a run on other images")
        assert main(command(inputs, copied, "--method", "minmax", "--overwrite")) == 0
        assert not state.exists()
        assert set(statuses(copied).values()) == {"done"}
        before, after = digests(finished), digests(copied)
        assert {name for name in MADE if before[name] != after[name]} == {
            f"{NAME}.calib.json",
            f"{NAME}.int8.ort-x86.onnx",
        }


def spoil(artifact: Artifact) -> Artifact:
    """Push the last layer's bias up, so that every pixel becomes foreground."""
    model = load_model(artifact.path)
    for tensor in model.graph.initializer:
        if tensor.name in ("final1.bias", "final1.bias/q"):
            values = numpy_helper.to_array(tensor)
            pushed = values + (100 if values.dtype.kind == "f" else 10**7)
            tensor.CopyFrom(numpy_helper.from_array(pushed.astype(values.dtype), tensor.name))
    save_model(model, artifact.path)
    return describe(artifact.path)


class TestStageLimits:
    @pytest.mark.parametrize(
        ("stage", "function", "suffix", "figure"),
        [
            ("export", "export", "fp32.onnx", "max_abs_difference"),
            ("simplify", "simplify", "sim.onnx", "max_abs_difference"),
            ("fp16", "to_fp16", "fp16.onnx", "disagreement_percent"),
            ("int8", "to_int8", "int8.ort-x86.onnx", "disagreement_percent"),
        ],
    )
    def test_a_broken_stage_stops_the_run_and_is_named(
        self,
        inputs: Path,
        finished: Path,
        copied: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        stage: str,
        function: str,
        suffix: str,
        figure: str,
    ) -> None:
        (copied / f"{NAME}.{suffix}").unlink()
        (copied / "report.json").unlink()
        module = {"export": source, "int8": stage_runner}.get(stage, pipeline)
        real: Callable[..., Artifact] = getattr(module, function)
        with monkeypatch.context() as broken:
            broken.setattr(module, function, lambda *a, **k: spoil(real(*a, **k)))
            assert main(command(inputs, copied)) == 4
        message = capsys.readouterr().err
        assert f"stage {stage} changed the output beyond its limit on 6 real images" in message
        assert f"{figure} is " in message
        assert f"{NAME}.{suffix} is kept for inspection" in message
        assert not (copied / "report.json").exists()
        if stage == "fp16":  # the broken file must not be taken for a finished stage
            assert main(command(inputs, copied)) == 0
            assert digests(copied) == digests(finished)


class TestRefusedBeforeAnyWork:
    def test_a_calibration_image_among_the_evaluation_images(
        self, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = Path(shutil.copytree(inputs / "data", tmp_path / "other"))
        rows = (other / "splits.csv").read_text().replace("disc7,test", "disc7,train")
        (other / "splits.csv").write_text(rows)
        asked = command(inputs, tmp_path / "out", "--calib-data", other)
        assert main(asked) == 3
        message = capsys.readouterr().err
        assert f"calibration image {other / 'images' / 'disc7.png'} is also evaluation" in message
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("wrong", ["greys", "turned"])
    def test_a_mask_that_would_end_the_run_at_its_parity(
        self, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
    ) -> None:
        data = Path(shutil.copytree(inputs / "data", tmp_path / "data"))
        image, mask = (data / folder / "disc7.png" for folder in ("images", "masks"))
        if wrong == "greys":
            with Image.open(mask) as opened:
                pixels = np.asarray(opened.convert("L")) // 255 * 200
            pixels[: len(pixels) // 2] //= 2
            pixels[:4, :8], pixels[-4:, :8] = 100, 200
            Image.fromarray(pixels).save(mask)
        else:
            exif = Image.Exif()
            exif[274] = 3
            with Image.open(image) as opened:
                opened.save(image, exif=exif)
        assert main(command(inputs, tmp_path / "out", "--data", data)) == 3
        message = capsys.readouterr().err
        assert "disc7.png" in message
        assert ("0, 100 and 200" if wrong == "greys" else "EXIF orientation 3") in message
        assert not (tmp_path / "out").exists()

    def test_a_runtime_that_was_asked_for_and_is_missing(
        self,
        inputs: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
        assert main(command(inputs, tmp_path / "out")) == 3
        assert "--runtime onnxruntime: onnxruntime is not installed" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_more_calibration_images_than_there_are(
        self, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command(inputs, tmp_path / "out", "--num-samples", 7)) == 3
        assert "7 images asked of split 'train'" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_backend_that_crashes_is_failed_rows_and_the_run_goes_on(
    inputs: Path,
    copied: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not availability(RuntimeName.OPENVINO).ready:
        pytest.skip("openvino is not installed")
    crash = partial(open_broken, "segv at load", 0, RuntimeName.ONNXRUNTIME.value)
    monkeypatch.setattr(isolated, "open_runtime", crash)
    more = ("--runtime", "onnxruntime", "openvino", "--duration", 0.01)
    assert main(command(inputs, copied, *more)) == 1
    report = json.loads((copied / "report.json").read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    reason = "ended by SIGSEGV while loading"
    for section in ("parity", "benchmark"):
        for row in report[section]["rows"]:
            assert row["skipped"] == (reason if row["runtime"] == "onnxruntime" else None)
    judged = {row["runtime"]: row["passed"] for row in report["parity"]["rows"]}
    assert judged == {"pytorch": None, "onnxruntime": False, "openvino": True}
    assert report["recommendation"]["runtime"] == "openvino"
    notes = [row["note"] or "" for row in report["stages"] if row["artifact"]]
    assert all(f"not checked, onnxruntime failed: {reason}" in note for note in notes)
    assert f"Failed: fp32 exported on ONNX Runtime, {reason}; " in capsys.readouterr().out
    page = (copied / "report.html").read_text()
    assert f"<li><b>FAILED</b> fp32 on ONNX Runtime: {reason}</li>" in page


def test_a_row_that_lost_too_much_fails_the_gate_and_is_not_recommended(
    inputs: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StageRunner.parity

    def judged_harshly(self: StageRunner, *a: Any) -> ParitySection:
        section = real(self, *a)
        *others, last = section.rows
        return replace(section, rows=(*others, replace(last, passed=False)))

    monkeypatch.setattr(StageRunner, "parity", judged_harshly)
    assert main(command(inputs, copied)) == 1
    report = json.loads((copied / "report.json").read_text())
    assert report["passed"] is False
    assert report["recommendation"]["file"] != f"{NAME}.int8.ort-x86.onnx"
