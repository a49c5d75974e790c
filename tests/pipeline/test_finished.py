"""A finished run says which of its files is what; any other folder is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError
from segdeploy.pipeline.finished import FinishedRun, Role

NAME = "unet_plus_plus_l1"


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished_run, tmp_path / "out"))


def test_the_table_is_of_the_model_that_int8_is_made_from(finished_run: Path) -> None:
    found = FinishedRun.open(finished_run)
    calibrated = describe(found.calibrated)
    assert CalibrationTable.read(found.table).model_sha256 == calibrated.sha256
    assert found.targets == ("ort-x86", "tensorrt")
    for target in found.targets:
        made = describe(found.int8(target))
        assert (made.parent, made.target) == (calibrated.sha256, target)
        assert found.model(target) == made.path


def test_each_float_model_is_found_by_its_role(finished_run: Path) -> None:
    found = FinishedRun.open(finished_run)
    precisions = {role: describe(found.model(role)).precision for role in Role}
    assert precisions.pop(Role.FP16) is Precision.FP16
    assert set(precisions.values()) == {Precision.FP32}
    exported = describe(found.model("exported"))
    assert found.reference == exported.path
    assert describe(found.model("simplified")).parent == exported.sha256


def test_candidates_are_what_the_run_compared_and_the_recommended_is_one(
    finished_run: Path,
) -> None:
    found = FinishedRun.open(finished_run)
    assert found.reference not in found.candidates
    assert {found.model("fp16"), found.int8("ort-x86")} <= set(found.candidates)
    assert len(set(found.candidates)) == len(found.candidates)
    assert found.recommended in found.candidates
    assert found.recommended_runtime is RuntimeName.ONNXRUNTIME


def test_what_a_run_lacks_is_told_with_what_it_has(finished_run: Path) -> None:
    found = FinishedRun.open(finished_run)
    with pytest.raises(InputError, match="no int8 model for ort-arm, but for: ort-x86, tensorrt"):
        found.int8("ort-arm")
    with pytest.raises(InputError, match="no model 'sim'; choose from exported, simplified"):
        found.model("sim")


def test_where_nothing_kept_the_budget_the_files_are_named(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["recommendation"] = None
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=rf"recommends no file.*name one: .*{NAME}\.fp16\.onnx"):
        _ = FinishedRun.open(copied).recommended


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("manifest.json", "holds no finished run"),
        ("report.json", r"was not finished \(it has no report\.json\)"),
        ("checksums.sha256", "start the same `segdeploy run` again"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(copied: Path, gone: str, words: str) -> None:
    (copied / gone).unlink()
    with pytest.raises(InputError, match=words):
        FinishedRun.open(copied)


def test_a_file_or_nothing_is_no_folder(finished_run: Path, tmp_path: Path) -> None:
    for path in (finished_run / "report.json", tmp_path / "absent"):
        with pytest.raises(InputError, match="is no folder; give the output folder"):
            FinishedRun.open(path)


def test_a_file_that_went_missing_is_named(copied: Path) -> None:
    (copied / f"{NAME}.opt.onnx").unlink()
    with pytest.raises(InputError, match=rf"{NAME}\.opt\.onnx is missing"):
        _ = FinishedRun.open(copied).calibrated


def test_a_report_cannot_name_a_file_that_is_not_the_run_s(copied: Path) -> None:
    report = json.loads((copied / "report.json").read_text())
    report["recommendation"]["file"] = "../elsewhere.onnx"
    (copied / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=r"lists no \.\./elsewhere\.onnx"):
        _ = FinishedRun.open(copied).recommended
