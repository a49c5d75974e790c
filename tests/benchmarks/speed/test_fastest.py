"""``--runtime auto``: the runtime that is measured to be the fastest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from segdeploy.api.runtimes import runtimes_of
from segdeploy.benchmarks.speed import fastest as module
from segdeploy.benchmarks.speed.fastest import Fastest, fastest
from segdeploy.cli.main import main
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import describe, save_model
from segdeploy.deploy.runtimes.base import Availability, Executed, Execution, Feeds, Results
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import InputError, UsageError

ORT, OPENVINO = RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO
ASKED = Execution(threads=1, batch=2)


class Sleeper:
    """A runtime that takes as long as it is told."""

    def __init__(self, name: RuntimeName, artifact: Artifact, seconds: float) -> None:
        self.name = name.value
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.execution = ASKED
        self.executed = Executed(layers=(), requested=artifact.precision)
        self.seconds = seconds
        self.fed: list[Feeds] = []
        self.closed = False

    def infer(self, feeds: Feeds) -> Results:
        self.fed.append(feeds)
        time.sleep(self.seconds)
        return {}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        return map(self.infer, batches)

    def __enter__(self) -> Sleeper:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    shape: list[str | int | None] = ["batch", 3, 4, 4]
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["image"], ["probability"])],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save_model(model, tmp_path / "small.onnx")
    return describe(tmp_path / "small.onnx")


class Bench:
    """Runtimes that take scripted seconds for each file in turn; ``None`` refuses the file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[RuntimeName, list[float | None]] = {}
        self.opened: list[Sleeper] = []
        monkeypatch.setattr(module, "availability", self.availability)
        monkeypatch.setattr(module, "open_isolated", self.open)

    def availability(self, name: RuntimeName) -> Availability:
        reason = None if name in self.seconds else "not here"
        return Availability(name=name.value, version=None, reason=reason)

    def open(
        self, name: RuntimeName, artifact: Artifact, *, execution: Execution, time_limit_s: float
    ) -> Sleeper:
        assert execution == ASKED
        seconds = self.seconds[name].pop(0)
        if seconds is None:
            raise InputError(f"{artifact.path.name} is not for {name.value}")
        self.opened.append(Sleeper(name, artifact, seconds))
        return self.opened[-1]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_the_runtime_that_takes_the_least_time_over_all_files_wins(
    bench: Bench, artifact: Artifact
) -> None:
    bench.seconds = {ORT: [0.001, 0.012], OPENVINO: [0.005, 0.001]}
    found = fastest([artifact, artifact], execution=ASKED, duration_s=0.01)
    assert found.runtime is OPENVINO
    assert found.p50_ms[OPENVINO] == pytest.approx(6, abs=3)
    assert found.p50_ms[ORT] == pytest.approx(13, abs=4)
    assert found.words.startswith("OpenVINO ")
    assert {feeds["image"].shape for runtime in bench.opened for feeds in runtime.fed} == {
        (2, 3, 4, 4)
    }
    assert all(runtime.closed for runtime in bench.opened)


def test_one_that_refuses_a_file_is_left_out_with_its_reason(
    bench: Bench, artifact: Artifact
) -> None:
    bench.seconds = {ORT: [0.002, 0.002], OPENVINO: [0.0001, None]}
    found = fastest([artifact, artifact], execution=ASKED, duration_s=0.01)
    assert found.runtime is ORT
    assert found.words.endswith(", OpenVINO left out: small.onnx is not for openvino")


def test_when_all_refuse_every_reason_is_told(bench: Bench, artifact: Artifact) -> None:
    bench.seconds = {ORT: [None], OPENVINO: [None]}
    with pytest.raises(InputError, match=r"no runtime for the models \(onnxruntime: .*openvino: "):
        fastest([artifact], execution=ASKED)


def test_nothing_measured_is_no_result() -> None:
    with pytest.raises(ValueError, match="no runtime was measured"):
        Fastest(p50_ms={}, refused={})


class TestAuto:
    def test_without_it_nothing_is_measured(self) -> None:
        assert runtimes_of(None, [], execution=ASKED) is None
        assert runtimes_of(["openvino", "onnxruntime"], [], execution=ASKED) == (OPENVINO, ORT)
        assert runtimes_of(ORT, [], execution=ASKED) == (ORT,)

    def test_it_stands_alone(self) -> None:
        with pytest.raises(UsageError, match=r"auto openvino: auto picks one runtime by itself"):
            runtimes_of(["auto", "openvino"], [], execution=ASKED)

    def test_the_models_are_measured_as_they_will_run_and_the_winner_is_said(
        self,
        artifact: Artifact,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        asked: list[Execution] = []

        def measured(
            artifacts: list[Artifact], *, execution: Execution, time_limit_s: float
        ) -> Fastest:
            assert artifacts == [artifact]
            asked.append(execution)
            return Fastest(p50_ms={ORT: 2.5, OPENVINO: 1.25}, refused={})

        monkeypatch.setattr(module, "fastest", measured)
        with caplog.at_level(logging.INFO, logger="segdeploy.api.runtimes"):
            found = runtimes_of("auto", [artifact], execution=ASKED)
        assert found == (OPENVINO,)
        assert asked == [ASKED]
        assert caplog.messages == [
            "--runtime auto: openvino is the fastest here (OpenVINO 1.25 ms, ONNX Runtime 2.50 ms)"
        ]

    @pytest.mark.parametrize(
        ("flags", "execution"),
        [
            (["--precision", "bf16"], {"precision": Precision.BF16}),
            (["--threads", "1"], {"threads": 1}),
            (["--threads", "2", "1"], {"threads": 2}),
        ],
    )
    def test_the_flags_of_a_benchmark_decide_how(
        self,
        small_onnx: Callable[..., Path],
        image_set: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        flags: list[str],
        execution: dict[str, object],
    ) -> None:
        asked: list[Execution] = []

        def measured(artifacts: object, *, execution: Execution, time_limit_s: float) -> Fastest:
            asked.append(execution)
            raise InputError("no runtime for the models (measured all the same)")

        monkeypatch.setattr(module, "fastest", measured)
        model = str(small_onnx(tmp_path / "net.onnx"))
        words = ["benchmark", "-m", model, "--data", str(image_set), "--runtime", "auto", *flags]
        assert main(words) == InputError.exit_code
        assert {name: getattr(asked[0], name) for name in execution} == execution

    def test_a_checkpoint_is_measured_as_the_file_it_becomes(
        self, tiny_unet_checkpoint: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from segdeploy.api.deploy import fastest_or_named
        from segdeploy.api.source import checkpoint_source
        from segdeploy.deploy.models.checkpoint import load_checkpoint

        source = checkpoint_source(load_checkpoint(tiny_unet_checkpoint, head=1))
        with caplog.at_level(logging.INFO, logger="segdeploy.api.runtimes"):
            found = fastest_or_named("auto", source, threads=1)
        assert found is not None
        assert found[0] in (ORT, OPENVINO)
        assert "ONNX Runtime " in caplog.messages[0]


def test_inputs_are_random_but_the_same_every_time(bench: Bench, artifact: Artifact) -> None:
    bench.seconds = {ORT: [0.0, 0.0]}
    fastest([artifact, artifact], execution=ASKED, duration_s=0.0)
    first, second = (runtime.fed[0]["image"] for runtime in bench.opened)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert 0.5 < first.std() < 1.5
