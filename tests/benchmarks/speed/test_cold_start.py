"""Load time, first inference and memory, measured in a process that does nothing else."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from segdeploy.benchmarks.speed.cold_start import ColdStart, cold_start
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.subjects import (
    CheckpointSubject,
    FileSubject,
    Request,
    read_request,
)
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


def sent(request: Request) -> Request:
    """A request as it arrives in another process."""
    arrived: Request = pickle.loads(pickle.dumps(request))
    return arrived


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

    def test_a_runtime_that_breaks_off_is_an_error(self, subject: FileSubject) -> None:
        entry = replace(subject.entry, runtime="none")  # type: ignore[arg-type]  # on purpose
        with pytest.raises(RunError, match=r"^KeyError \('none'.* in a process of its own$"):
            cold_start(replace(subject, entry=entry), TWO_STREAMS)

    @pytest.mark.parametrize("wrong", [{"load_s": 0.0}, {"peak_bytes": 3}, {"imports_bytes": 0}])
    def test_figures_that_cannot_be_are_refused(self, wrong: dict[str, float]) -> None:
        right = {"load_s": 1.0, "first_inference_s": 1.0, "peak_bytes": 8, "imports_bytes": 4}
        ColdStart(**right)  # type: ignore[arg-type]  # mypy sees floats only
        with pytest.raises(RunError):
            ColdStart(**right | wrong)  # type: ignore[arg-type]  # likewise


class TestSubjects:
    def test_a_file_goes_to_another_process_and_stays_the_same(self, subject: FileSubject) -> None:
        assert read_request(sent(subject.request())) == subject
        assert subject.file_bytes == subject.entry.artifact.path.stat().st_size

    def test_a_checkpoint_takes_what_its_keys_cannot_tell_along(
        self, tmp_path: Path, tiny_r2u: R2UNet
    ) -> None:
        path = tmp_path / "net.safetensors"
        save_checkpoint(tiny_r2u, path, preprocess=Preprocess())
        contract = Preprocess(size=(32, 48), channel_order="RGB")
        checkpoint = load_checkpoint(path, logits=True, preprocess=contract)
        subject = CheckpointSubject(name="PyTorch fp32", checkpoint=checkpoint)
        read = read_request(sent(subject.request()))
        assert isinstance(read, CheckpointSubject)
        assert read.checkpoint.preprocess == contract
        assert (read.checkpoint.logits, read.checkpoint.recurrence) == (True, 2)
        assert read.identity() == subject.identity()
