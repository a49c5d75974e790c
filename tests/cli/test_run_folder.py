"""A finished run wherever a model is: each verb takes the file, and the table, that it needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segdeploy.calibration.table import CalibrationTable
from segdeploy.cli.main import main
from segdeploy.cli.parser import VERBS, build_parser, module_of, subparsers_of
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.pipeline.finished import FinishedRun
from segdeploy.verify.verify import verify

Json = Callable[..., dict[str, Any]]


@pytest.fixture
def run(finished_run: Path) -> FinishedRun:
    """The run, opened."""
    return FinishedRun.open(finished_run)


@pytest.fixture
def asked(capsys: pytest.CaptureFixture[str]) -> Json:
    """Function (words) -> what ``--format json`` prints of a command that is done."""

    def call(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--format", "json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


def resolved(run: FinishedRun, *words: object) -> tuple[list[str], dict[str, Any]]:
    """Names of the files that stand for the run's folder, and the other flags afterwards."""
    options = build_parser().parse_args([str(word) for word in words])
    files = module_of(options.verb).from_run(options, run)
    return [path.name for path in files], vars(options)


def test_every_verb_that_takes_models_takes_a_run() -> None:
    parsers = subparsers_of(build_parser())
    for verb in VERBS:
        leaves = subparsers_of(parsers[verb]) or {verb: parsers[verb]}
        takes = any("--model" in leaf._option_string_actions for leaf in leaves.values())
        assert hasattr(module_of(verb), "from_run") == takes, verb


@pytest.mark.parametrize("verb", ["simplify", "convert", "rewrite", "calibrate"])
def test_a_stage_of_a_run_alone_gives_the_same_bytes(
    run: FinishedRun, tmp_path: Path, asked: Json, verb: str
) -> None:
    made = {
        "simplify": run.model("simplified"),
        "convert": run.model("fp16"),
        "rewrite": run.model("rewritten"),
        "calibrate": run.table,
    }[verb]
    images = ("--data", run.folder.parent / "set", "--num-samples", 3, "--threads", 1)
    more = images if verb in ("rewrite", "calibrate") else ()
    asked(verb, run.folder, "-o", tmp_path / "made", *more)
    assert (tmp_path / "made").read_bytes() == made.read_bytes()


def test_quantize_takes_the_table_that_is_of_its_model(
    run: FinishedRun, tmp_path: Path, asked: Json
) -> None:
    for target in run.targets:
        output = tmp_path / f"{target}.onnx"
        asked("quantize", run.folder, "--target", target, "-o", output)
        assert output.read_bytes() == run.int8(target).read_bytes()


def test_another_rewrite_of_the_interface_takes_the_recommended_file(run: FinishedRun) -> None:
    files, _ = resolved(run, "rewrite", run.folder, "-o", "o", "--rewrites", "image-interface")
    assert files == [run.recommended.name]
    files, _ = resolved(run, "rewrite", run.folder, "-o", "o", "--rewrites", "recurrent-sum")
    assert files == [run.model("simplified").name]


def test_parity_compares_what_the_run_did_with_its_export(run: FinishedRun, asked: Json) -> None:
    section = asked(
        *("parity", run.folder, "--data", run.folder.parent / "set", "--max-drop", 100),
        *("--runtime", "onnxruntime", "--threads", 1),
    )
    reference, *rows = section["rows"]
    assert reference["name"] == f"{run.reference.name} on ONNX Runtime"
    assert [row["file"] for row in rows] == [path.name for path in run.candidates]


def test_benchmark_times_what_the_run_offers(run: FinishedRun) -> None:
    files, flags = resolved(run, "benchmark", run.folder)
    assert files == [path.name for path in run.candidates]
    assert flags["reference"] is None


def test_debug_looks_at_the_int8_model_of_the_run(run: FinishedRun, asked: Json) -> None:
    images = ("--data", run.folder.parent / "set", "--num-samples", 1, "--threads", 1)
    section = asked("debug", run.folder, *images)
    assert section["reference"] == run.calibrated.name
    assert section["target"] == "ort-x86"
    files, flags = resolved(run, "debug", run.folder, "--reference", run.calibrated)
    assert files == [run.int8("ort-x86").name]
    assert flags["calibration"] is None


def test_predict_takes_the_recommended_file_in_its_runtime(
    run: FinishedRun, tmp_path: Path, asked: Json
) -> None:
    images = run.folder.parent / "set" / "images"
    found = asked("predict", run.folder, images, "-o", tmp_path / "masks", "--threads", 1)
    assert found["done"] == 12
    assert found["model"].startswith(run.recommended.name)
    _, flags = resolved(run, "predict", run.folder, images, "-o", "o", "--runtime", "openvino")
    assert flags["runtime"] == "openvino"


@pytest.mark.parametrize(
    ("target", "files", "table"),
    [
        ("tensorrt", ["opt.onnx", "int8.tensorrt.onnx"], True),
        ("openvino", ["opt.onnx"], False),
        ("onnx", ["opt.onnx", "int8.ort-x86.onnx"], False),
        ("triton", ["opt.onnx", "int8.ort-x86.onnx"], False),
        ("vacc", ["sim.onnx"], False),
        ("ascend", ["sim.onnx"], False),
    ],
)
def test_each_toolchain_gets_the_models_it_takes(
    run: FinishedRun, target: str, files: list[str], table: bool
) -> None:
    names, flags = resolved(run, "package", run.folder, "--target", target, "-o", "o")
    assert names == [f"{run.name}.{file}" for file in files]
    assert flags["calibration"] == (run.table if table else None)


def test_a_package_of_a_run_is_written_and_read_back(
    run: FinishedRun, tmp_path: Path, asked: Json
) -> None:
    output = tmp_path / "trt"
    asked("package", run.folder, "--target", "tensorrt", "-o", output)
    assert verify(output).unchanged
    assert asked("package", run.folder, "--target", "tensorrt", "--check")["accepted"] is True


def test_align_compares_the_export_with_its_checkpoint(run: FinishedRun, asked: Json) -> None:
    found = asked(
        *("align", "layers", run.folder, "-c", run.folder.parent / "net.safetensors"),
        *("--head", 1, "--data", run.folder.parent / "set", "--num-samples", 1, "--threads", 1),
        *("--runtime", "onnxruntime"),
    )
    assert found["passed"] is True


def test_nothing_of_the_run_was_changed_by_all_this(run: FinishedRun) -> None:
    assert verify(run.folder).unchanged
    assert CalibrationTable.read(run.table).model_sha256 == describe(run.calibrated).sha256


@pytest.mark.parametrize("gone", ["manifest.json", "report.json"])
def test_a_folder_that_is_no_finished_run_is_one_line(
    run: FinishedRun, tmp_path: Path, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(run.folder, tmp_path / "copy"))
    (folder / gone).unlink()
    capsys.readouterr()
    assert main(["convert", str(folder), "-o", str(tmp_path / "o.onnx")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert not (tmp_path / "o.onnx").exists()
