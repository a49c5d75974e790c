"""``segdeploy run -m``: the whole job from an ONNX file, of ours or of another exporter."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import onnx
import pytest
from tiny import TINY, write_discs, write_small_onnx

import segdeploy as sd
from segdeploy.api.data import Data
from segdeploy.api.source import OnnxFile, onnx_source
from segdeploy.cli.main import main
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model, metadata, output_of
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.pipeline import stage_runner

pytestmark = pytest.mark.usefixtures("no_cold_start")

QUICK = (
    *("--target", "ort-x86", "--runtime", "onnxruntime", "--max-drop", 100, "--batch", 1),
    *("--duration", 0.01, "--warmup", 0, "--threads", 1),
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ours, the same without a word of us, and a prepared folder of discs."""
    root = tmp_path_factory.mktemp("inputs")
    model = onnx.load(write_small_onnx(root / "ours.onnx"))
    del model.metadata_props[:]
    onnx.save(model, root / "theirs.onnx")
    write_discs(root / "data", ["train"] * 6 + ["test"] * 3, seed=17, area=(30, 90))
    return root


def command(inputs: Path, output: Path, *more: object) -> list[str]:
    words = ("run", "-m", inputs / "theirs.onnx", "--preprocess", "published", "-o", output)
    return [str(word) for word in (*words, "--data", inputs / "data", *QUICK, *more)]


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory, no_cold_start: None) -> Path:
    output = tmp_path_factory.mktemp("finished") / "out"
    assert main(command(inputs, output)) == 0
    return output


class TestARunFromAnotherExportersFile:
    def test_the_file_is_the_reference_and_adopting_it_the_first_stage(
        self, finished: Path
    ) -> None:
        run = sd.Run.open(finished)
        assert [row.name for row in run.report.stages][:3] == ["adopt", "simplify", "fp16"]
        assert "computes what the original does" in str(run.report.stages[0].note)
        assert run.report.parity is not None
        assert [row.name for row in run.report.parity.rows] == [
            "theirs.onnx on ONNX Runtime",
            "fp32 adopted on ONNX Runtime",
            "fp32 on ONNX Runtime",
            "fp16 on ONNX Runtime",
            "int8 ort-x86 on ONNX Runtime",
        ]
        assert run.report.benchmark is not None
        assert run.report.benchmark.rows[0].speedup == 1

    def test_the_report_says_what_was_brought(self, inputs: Path, finished: Path) -> None:
        model = sd.Run.open(finished).report.model
        assert (model.source, model.name, model.checkpoint) == ("onnx", "theirs", "theirs.onnx")
        assert model.checkpoint_sha256 == sha256_of(inputs / "theirs.onnx")
        assert model.output == json.loads(OutputContract(classes=("foreground",)).to_json())
        page = (finished / "report.md").read_text()
        assert "Times the reference" in page
        assert "times the speed of theirs.onnx" in page
        assert "PyTorch" not in page

    def test_the_folder_verifies_until_a_byte_changes(self, finished: Path, tmp_path: Path) -> None:
        assert main(["verify", str(finished)]) == 0
        copied = Path(shutil.copytree(finished, tmp_path / "out"))
        model = load_model(copied / "theirs.fp32.onnx")
        assert metadata(model)["parent_sha256"]
        (copied / "theirs.sim.onnx").write_bytes(b"other")
        assert main(["verify", str(copied)]) == 1

    def test_a_second_run_takes_the_stages_from_the_folder(
        self, inputs: Path, finished: Path, tmp_path: Path
    ) -> None:
        copied = Path(shutil.copytree(finished, tmp_path / "out"))
        assert main(command(inputs, copied)) == 0
        stages = sd.Run.open(copied).report.stages
        assert [row.status for row in stages][:6] == ["reused"] * 6

    def test_another_contract_is_another_run(
        self, inputs: Path, finished: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(command(inputs, finished, "--classes", "cell")) == 2
        assert "other inputs (adopted_sha256, output)" in capsys.readouterr().err
        assert main(["verify", str(finished)]) == 0

    def test_a_verb_goes_on_from_it(self, finished: Path, tmp_path: Path) -> None:
        words = ["quantize", str(finished), "--target", "tensorrt", "-o", str(tmp_path / "x.onnx")]
        assert main(words) == 0


class TestWhatStandsInTheFile:
    def test_a_file_of_ours_is_taken_byte_for_byte(self, inputs: Path, tmp_path: Path) -> None:
        with onnx_source(OnnxFile(path=inputs / "ours.onnx"), Data(inputs / "data")) as source:
            first = source.write(tmp_path / "ours.fp32.onnx")
            assert (source.stage, source.preprocess, source.facts.name) == ("take", TINY, "ours")
        assert first.sha256 == sha256_of(inputs / "ours.onnx")

    def test_what_is_stated_is_stated_anew(self, inputs: Path, tmp_path: Path) -> None:
        stated = OnnxFile(path=inputs / "ours.onnx", classes=("cell",))
        with onnx_source(stated, Data(inputs / "data")) as source:
            first = source.write(tmp_path / "net.onnx")
        assert output_of(first) == source.output == OutputContract(classes=("cell",))
        assert contract_of(first) == TINY

    def test_a_contract_comes_with_the_call(self, inputs: Path) -> None:
        contract = sd.Contract(preprocess=TINY, output=OutputContract(classes=("disc",)))
        given = OnnxFile.of(inputs / "theirs.onnx", contract)
        with onnx_source(given, Data(inputs / "data")) as source:
            assert (source.preprocess, source.output) == (contract.preprocess, contract.output)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("-m", "theirs.onnx"), 3, "theirs.onnx carries no input contract; .*--preprocess NAME"),
        (("-m", "half.onnx"), 3, "half.onnx is fp16; a run starts from fp32"),
        (("-m", "text.onnx"), 3, "text.onnx is not a valid ONNX file"),
        (("-m", "gone.onnx"), 3, "gone.onnx"),
        (("-m", "ours.onnx", "-c", "net.pth"), 2, "-m .*ours.onnx beside -c .*net.pth; give one"),
        (("net.pth",), 2, "net.pth is a checkpoint by its name; give it with -c"),
        (("-m", "ours.onnx", "--arch", "u_net"), 2, "--arch is for a checkpoint .-c."),
        (("-m", "ours.onnx", "--head", "1"), 2, "--head is for a checkpoint .-c."),
        (("-c", "net.pth", "--size", "32", "32"), 2, "--size is for an ONNX file .-m."),
    ],
)
def test_what_no_run_can_start_from(
    inputs: Path,
    words: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (inputs / "text.onnx").write_text("no model")
    if not (inputs / "half.onnx").exists():
        to_fp16(describe(inputs / "ours.onnx"), inputs / "half.onnx")
    given = [str(inputs / word) if "." in word else word for word in words]
    assert main(["run", *given, "--data", str(inputs / "data"), "-o", str(inputs / "o")]) == code
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert "Traceback" not in said


def test_a_run_does_not_start_from_a_run(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-m", str(finished)]) == 2
    assert "is the folder of a run; give the checkpoint or ONNX file" in capsys.readouterr().err


def test_a_tuned_run_verifies_and_is_not_gone_on_with_on_another_device(
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    tuned = command(inputs, output, "--tune", "1s")
    assert main(tuned) == 0
    assert main(["verify", str(output)]) == 0
    assert not list(output.glob("*.tune.json"))
    assert main(tuned) == 0
    monkeypatch.setattr(stage_runner, "processor", lambda: ("another processor", ()))
    assert main(tuned) == 2
    assert "holds a run with other inputs (tuned_on)" in capsys.readouterr().err
