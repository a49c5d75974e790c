"""Work in a process of its own: what comes back, what it says when it fails, and its figures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from segdeploy.benchmarks.speed import cold_start as module
from segdeploy.benchmarks.speed.cold_start import ColdStart, cold_start
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.process import Finished, call_worker, peak_bytes, run_process
from segdeploy.benchmarks.speed.subjects import CheckpointSubject, FileSubject, read_request
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.file import describe, save_model
from segdeploy.deploy.runtimes.base import Execution, Hint
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError, RunError

TWO_STREAMS = Execution(threads=2, streams=2, batch=3, hint=Hint.THROUGHPUT)


@pytest.fixture
def subject(tmp_path: Path) -> FileSubject:
    """A model of one layer, in a file whose name has a space."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save_model(model, tmp_path / "a net.onnx")
    return FileSubject(
        entry=Entry(
            label="net",
            artifact=describe(tmp_path / "a net.onnx"),
            runtime=RuntimeName.ONNXRUNTIME,
            skipped=None,
        )
    )


def python(
    script: str, heard: Callable[[str], None] = lambda line: None, told: str = ""
) -> Finished:
    return run_process([sys.executable, "-c", script], told=told, heard=heard)


class TestRunProcess:
    @pytest.mark.parametrize(
        ("script", "code", "reason"),
        [
            ("", 0, "exit code 0"),
            ("import sys; sys.exit('first\\nno luck')", 1, "no luck"),
            ("import sys; sys.exit(7)", 7, "exit code 7"),
            ("import os; os.kill(os.getpid(), 9)", -9, "ended by SIGKILL"),
        ],
    )
    def test_the_end_is_told(self, script: str, code: int, reason: str) -> None:
        finished = python(script)
        assert (finished.code, finished.reason) == (code, reason)
        assert finished.seconds > 0

    def test_lines_are_heard_as_they_come_and_input_is_told(self) -> None:
        lines: list[str] = []
        python("import sys; print(len(sys.stdin.read())); print('b')", lines.append, "x" * 10**6)
        assert lines == ["1000000\n", "b\n"]

    def test_a_process_that_does_not_listen_is_no_error(self) -> None:
        assert python("import os; os.close(0)", told="x" * 10**6).code == 0

    def test_it_does_not_outlive_an_interrupted_caller(self) -> None:
        heard: list[str] = []

        def interrupt(line: str) -> None:
            heard.append(line)
            raise KeyboardInterrupt

        script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            python(script, interrupt)
        assert time.monotonic() - began < 30
        with pytest.raises(ProcessLookupError):
            os.kill(int(heard[0]), 0)

    def test_peak_memory_is_that_of_the_process_alone(self) -> None:
        held = bytearray(b"1") * 300_000_000
        assert peak_bytes() >= len(held)
        lines: list[str] = []
        python(
            "from segdeploy.benchmarks.speed.process import peak_bytes; print(peak_bytes())",
            lines.append,
        )
        assert 5_000_000 < int(lines[0]) < len(held)


class TestColdStart:
    def test_it_measures_in_a_fresh_process_from_any_folder(
        self, subject: FileSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('the wrong one')")
        monkeypatch.chdir(tmp_path)
        found = cold_start(subject, TWO_STREAMS)
        assert 0 < found.load_s < 60
        assert 0 < found.first_inference_s < 60
        assert 10_000_000 < found.imports_bytes <= found.peak_bytes

    def test_a_file_the_runtime_refuses_is_named(self, subject: FileSubject) -> None:
        subject.entry.artifact.path.write_bytes(b"no model")
        with pytest.raises(InputError, match=r"a net\.onnx"):
            cold_start(subject, TWO_STREAMS)

    def test_a_worker_that_breaks_off_is_an_error(self) -> None:
        with pytest.raises(RunError, match="failed: KeyError"):
            call_worker("segdeploy.benchmarks.speed.cold_start", {})

    @pytest.mark.parametrize("wrong", [{"load_s": 0.0}, {"peak_bytes": 3}, {"imports_bytes": 0}])
    def test_figures_that_cannot_be_are_refused(self, wrong: dict[str, float]) -> None:
        right = {"load_s": 1.0, "first_inference_s": 1.0, "peak_bytes": 8, "imports_bytes": 4}
        ColdStart(**right)  # type: ignore[arg-type]  # mypy sees floats only
        with pytest.raises(RunError):
            ColdStart(**right | wrong)  # type: ignore[arg-type]  # likewise


class TestSubjects:
    def test_a_file_goes_to_another_process_and_stays_the_same(self, subject: FileSubject) -> None:
        assert read_request(subject.request()) == subject
        assert subject.identity()["file_bytes"] == subject.entry.artifact.path.stat().st_size

    def test_a_checkpoint_takes_what_its_keys_cannot_tell_along(
        self, tmp_path: Path, tiny_r2u: R2UNet
    ) -> None:
        path = tmp_path / "net.safetensors"
        save_checkpoint(tiny_r2u, path, preprocess=Preprocess())
        contract = Preprocess(size=(32, 48), channel_order="RGB")
        checkpoint = load_checkpoint(path, logits=True, preprocess=contract)
        subject = CheckpointSubject(name="PyTorch fp32", checkpoint=checkpoint)
        read = read_request(subject.request())
        assert isinstance(read, CheckpointSubject)
        assert read.checkpoint.preprocess == contract
        assert (read.checkpoint.logits, read.checkpoint.recurrence) == (True, 2)
        assert read.identity() == subject.identity()

    def test_an_execution_goes_through_json(self) -> None:
        fields = {"threads": 2, "batch": 3, "streams": 2, "hint": "throughput", "precision": "fp32"}
        assert module.execution_of(fields) == TWO_STREAMS
