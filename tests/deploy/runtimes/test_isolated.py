"""A backend in a process of its own: the same results, and a failure that takes nothing with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from broken_backends import DOES_NOT_HARM, LIMIT_S, REASONS, open_broken

from segdeploy.benchmarks.speed.fastest import fastest
from segdeploy.benchmarks.speed.latency import Candidate, measure
from segdeploy.benchmarks.speed.layer_times import layer_time_section
from segdeploy.benchmarks.speed.throughput import measure_throughput
from segdeploy.cli.main import main
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import describe
from segdeploy.deploy.runtimes import isolated
from segdeploy.deploy.runtimes.base import Execution, Feeds, Hint, Runtime
from segdeploy.deploy.runtimes.isolated import (
    TIME_LIMIT_S,
    IsolatedRuntime,
    call_isolated,
    open_isolated,
)
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, open_runtime
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.worker_process import WorkerProcess

ORT, OPENVINO = RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO
ONE_THREAD = Execution(threads=1)

Break = Callable[..., None]


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    yield
    WorkerProcess.kill_idle()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]) -> Artifact:
    return describe(small_onnx(tmp_path_factory.mktemp("isolated") / "net.onnx"))


@pytest.fixture(scope="module")
def feeds() -> Feeds:
    draw = np.random.default_rng(4)
    return {"image": draw.normal(size=(1, 3, 32, 32)).astype(np.float32)}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Make a runtime misbehave after so many good calls."""

    def make(how: str, *, good: int = 0, which: RuntimeName = ORT) -> None:
        monkeypatch.setattr(isolated, "open_runtime", partial(open_broken, how, good, which.value))

    return make


def candidate(runtime: Runtime, feeds: Feeds, artifact: Artifact) -> Candidate:
    return Candidate(
        name=runtime.name, runtime=runtime, feeds=feeds, precision_requested=artifact.precision
    )


def limit_of(how: str) -> float:
    """Short where the limit is what ends it."""
    return LIMIT_S if "hang" in how else TIME_LIMIT_S


def used(artifact: Artifact, feeds: Feeds, *, limit_s: float) -> None:
    """Load a model and call it three times."""
    with open_isolated(ORT, artifact, execution=ONE_THREAD, time_limit_s=limit_s) as runtime:
        for _ in range(3):
            runtime.infer(feeds)


class TestSameAsInProcess:
    @pytest.mark.parametrize("name", [ORT, OPENVINO])
    def test_results_are_the_same_bit_for_bit(
        self, name: RuntimeName, artifact: Artifact, feeds: Feeds
    ) -> None:
        if not availability(name).ready:
            pytest.skip(f"{name.value} is not installed")
        two_streams = Execution(threads=2, streams=2, hint=Hint.THROUGHPUT)
        with (
            open_isolated(name, artifact, execution=two_streams) as apart,
            open_runtime(name, artifact, execution=two_streams) as here,
        ):
            assert (apart.name, apart.inputs, apart.outputs, apart.execution) == (
                here.name,
                here.inputs,
                here.outputs,
                here.execution,
            )
            assert apart.executed == here.executed
            (wanted,) = here.infer(feeds).values()
            batches = [{"image": feeds["image"] * n} for n in range(7)]
            pairs = zip(apart.infer_many(iter(batches)), here.infer_many(batches), strict=True)
            for found, expected in [(apart.infer(feeds), {"probability": wanted}), *pairs]:
                assert found["probability"].tobytes() == expected["probability"].tobytes()

    def test_a_relative_path_means_the_same(
        self, artifact: Artifact, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(artifact.path.parent)
        relative = describe(Path(artifact.path.name))
        with open_isolated(ORT, relative, execution=ONE_THREAD) as runtime:
            assert runtime.infer(feeds)["probability"].shape == (1, 1, 32, 32)

    def test_errors_of_the_backend_keep_their_class_and_words(
        self, artifact: Artifact, feeds: Feeds, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.onnx"
        bad.write_bytes(b"no model")
        lost = Artifact(**{**vars(artifact), "path": bad})
        with pytest.raises(InputError, match=f"ONNX Runtime cannot load {bad}"):
            open_isolated(ORT, lost, execution=ONE_THREAD)
        with open_isolated(ORT, artifact, execution=ONE_THREAD) as runtime:
            with pytest.raises(RunError, match="input 'image' takes float32"):
                runtime.infer({"image": feeds["image"].astype(np.float64)})
            assert runtime.infer(feeds)  # and it is still there

    def test_a_function_is_called_there(self) -> None:
        assert call_isolated(os.getpid, limit_s=20, doing="in a test") != os.getpid()
        with pytest.raises(RunError, match=r"^ended by SIGABRT in a test$"):
            call_isolated(os.abort, limit_s=20, doing="in a test")


class TestFailures:
    @pytest.mark.parametrize("how", REASONS)
    def test_each_is_told_with_where_it_was(
        self, how: str, broken: Break, artifact: Artifact, feeds: Feeds
    ) -> None:
        broken(how, good=2)
        with pytest.raises(RunError) as caught:
            used(artifact, feeds, limit_s=limit_of(how))
        assert str(caught.value) == REASONS[how]

    def test_what_a_backend_prints_is_no_result(
        self, broken: Break, artifact: Artifact, feeds: Feeds, capfd: pytest.CaptureFixture[str]
    ) -> None:
        broken(DOES_NOT_HARM)
        with open_isolated(ORT, artifact, execution=ONE_THREAD) as runtime:
            assert runtime.infer(feeds)["probability"].shape == (1, 1, 32, 32)
        assert "garbage" not in capfd.readouterr().out

    def test_a_process_that_hung_is_gone_and_a_good_one_is_used_again(
        self, broken: Break, artifact: Artifact, feeds: Feeds
    ) -> None:
        broken("hang")
        runtime = open_isolated(ORT, artifact, execution=ONE_THREAD, time_limit_s=LIMIT_S)
        assert isinstance(runtime, IsolatedRuntime)
        process = psutil.Process(runtime._process.pid)
        with runtime, pytest.raises(RunError, match="no answer"):
            runtime.infer(feeds)
        assert not process.is_running()
        broken(DOES_NOT_HARM)
        used = []
        for _ in range(2):
            with open_isolated(ORT, artifact, execution=ONE_THREAD) as good:
                assert isinstance(good, IsolatedRuntime)
                used.append(good._process.pid)
        assert used[0] == used[1]

    def test_a_timed_call_or_turn_that_hangs_is_told(
        self, broken: Break, artifact: Artifact, feeds: Feeds
    ) -> None:
        for timer in (measure, measure_throughput):
            broken("hang", good=4)
            with (
                open_isolated(ORT, artifact, execution=ONE_THREAD, time_limit_s=LIMIT_S) as hangs,
                pytest.raises(RunError, match=REASONS["hang"]),
            ):
                timer([candidate(hangs, feeds, artifact)], warmup=1, duration_s=0.02)

    def test_the_others_are_measured_all_the_same(
        self, broken: Break, artifact: Artifact, feeds: Feeds
    ) -> None:
        broken("segv", good=5)
        failed: dict[int, RunError] = {}
        with (
            open_isolated(ORT, artifact, execution=ONE_THREAD) as bad,
            open_isolated(OPENVINO, artifact, execution=ONE_THREAD) as good,
        ):
            field = [candidate(runtime, feeds, artifact) for runtime in (bad, good)]
            (result,) = measure(
                field, warmup=1, duration_s=0, min_samples=12, on_failure=failed.__setitem__
            )
        assert len(result.latencies_s) == 12
        assert {place: str(error) for place, error in failed.items()} == {
            0: "ended by SIGSEGV in inference"
        }

    def test_runtime_auto_leaves_out_one_that_crashes(
        self, broken: Break, artifact: Artifact
    ) -> None:
        if not availability(OPENVINO).ready:
            pytest.skip("openvino is not installed")
        broken("abort", good=5, which=OPENVINO)
        found = fastest([artifact], execution=ONE_THREAD, duration_s=0.01)
        assert found.runtime is ORT
        assert found.words.endswith("OpenVINO left out: ended by SIGABRT in inference")


class TestProcesses:
    def test_a_killed_parent_leaves_no_worker_even_one_that_hangs(self, artifact: Artifact) -> None:
        script = f"""if True:
            import functools, sys
            from pathlib import Path
            sys.path[:0] = {sys.path!r}
            from broken_backends import open_broken
            from segdeploy.deploy.onnx_model.file import describe
            from segdeploy.deploy.runtimes.base import Execution
            from segdeploy.deploy.runtimes.isolated import IsolatedRuntime
            from segdeploy.deploy.runtimes.registry import RuntimeName
            artifact, name = describe(Path({str(artifact.path)!r})), RuntimeName.ONNXRUNTIME
            broken = functools.partial(open_broken, 'hang at load', 0, name.value)
            opener = functools.partial(broken, name, artifact, execution=Execution(threads=1))
            IsolatedRuntime(opener, time_limit_s=600)"""
        parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
        assert parent.stderr is not None
        assert parent.stderr.readline() == b"hanging\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert len(workers) == 1
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stderr.close()
        assert not psutil.wait_procs(workers, timeout=20)[1]

    def test_interrupting_a_call_ends_its_process(
        self, broken: Break, artifact: Artifact, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken(DOES_NOT_HARM)
        runtime = open_isolated(ORT, artifact, execution=ONE_THREAD)
        assert isinstance(runtime, IsolatedRuntime)
        pid = runtime._process.pid

        class Interrupted:
            def __init__(self, connection: Any) -> None:
                self.send_bytes, self.close = connection.send_bytes, connection.close

            def poll(self, seconds: float) -> bool:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), runtime:  # noqa: PT012
            monkeypatch.setattr(
                runtime._process, "_connection", Interrupted(runtime._process._connection)
            )
            runtime.infer(feeds)
        assert not psutil.pid_exists(pid)


class TestVerbs:
    """The rows of the other runtime go on, and the exit codes keep their meaning."""

    @pytest.fixture(autouse=True)
    def _ready(self) -> None:
        if not availability(OPENVINO).ready:
            pytest.skip("openvino is not installed")

    def parity(self, model: Path, data: Path, *more: str) -> list[str]:
        words = ["parity", "-m", str(model), "--reference", str(model), "--data", str(data)]
        return [*words, "--threads", "1", "--format", "json", *more]

    @pytest.mark.parametrize("how", ["segv at load", "abort", "shape"])
    def test_parity_has_a_failed_row_and_the_gate_fails(
        self,
        how: str,
        broken: Break,
        artifact: Artifact,
        image_set: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        broken(how, good=3, which=OPENVINO)
        assert main(self.parity(artifact.path, image_set, "--max-drop", "1")) == 1
        told = capsys.readouterr()
        reference, good, bad = json.loads(told.out)["rows"]
        assert good["passed"] is True
        assert good["scores"] == reference["scores"]
        assert (bad["passed"], bad["verdict"], bad["scores"]) == (False, "failed", None)
        assert bad["skipped"] == REASONS[how]
        assert f"net on OpenVINO: FAILED, {REASONS[how]}\n" in told.err

    def test_the_flag_is_the_limit(
        self,
        broken: Break,
        artifact: Artifact,
        image_set: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        broken("hang at load", which=ORT)
        words = self.parity(artifact.path, image_set, "--time-limit", str(LIMIT_S))
        assert main(words) == 4
        assert REASONS["hang at load"] in capsys.readouterr().err

    def test_parity_where_every_row_failed_is_a_failed_gate(
        self, broken: Break, artifact: Artifact, image_set: Path
    ) -> None:
        broken("abort", which=OPENVINO)
        assert main(self.parity(artifact.path, image_set, "--runtime", "openvino")) == 1

    def test_a_reference_that_crashes_ends_with_one_line(
        self,
        broken: Break,
        artifact: Artifact,
        image_set: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        for how in ("segv at load", "segv"):
            broken(how, which=ORT)
            assert main(self.parity(artifact.path, image_set)) == 4
            said = capsys.readouterr().err.splitlines()
            assert said[-1] == (
                f"segdeploy: error: the reference, net.onnx on ONNX Runtime: {REASONS[how]}"
            )

    def test_benchmark_measures_the_others_and_says_that_it_failed(
        self,
        broken: Break,
        artifact: Artifact,
        image_set: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        broken("exit", good=9, which=OPENVINO)
        words = f"benchmark -m {artifact.path} --data {image_set} --threads 1 --batch 1"
        words += f" --warmup 1 --duration 0.01 --time-limit {TIME_LIMIT_S} --format json"
        assert main(words.split()) == 4
        told = capsys.readouterr()
        good, bad = json.loads(told.out)["rows"]
        assert good["p50_ms"] > 0
        assert (good["failed"], bad["failed"]) == (False, True)
        assert (bad["p50_ms"], bad["skipped"]) == (None, "ended with exit 3 in inference")
        assert "net on OpenVINO: FAILED, ended with exit 3 in inference" in told.err

    def test_flags_say_what_no_limit_can_be(self, artifact: Artifact) -> None:
        with pytest.raises(SystemExit) as caught:
            main(f"benchmark -m {artifact.path} --time-limit 0".split())
        assert caught.value.code == UsageError.exit_code


def test_a_profile_that_crashes_is_a_row_with_its_reason(
    artifact: Artifact, feeds: Feeds, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segdeploy.benchmarks.speed.entries import Entry

    monkeypatch.setattr("segdeploy.benchmarks.speed.layer_times.time_layers", abort)
    entry = Entry(label="net", artifact=artifact, runtime=ORT, skipped=None)
    (row,) = layer_time_section([entry], images=feeds["image"], execution=ONE_THREAD)
    assert row.skipped == "ended by SIGABRT in profiling"


def abort(*arguments: object, **named: object) -> None:
    """Stands for a profiler that crashes; by name, so that another process can import it."""
    os.abort()


def test_a_limit_of_the_flag_is_that_of_the_functions() -> None:
    from segdeploy.cli.parser import build_parser

    for words in ("run", "parity -m a --reference b", "benchmark -m a"):
        assert build_parser().parse_args(words.split()).time_limit == TIME_LIMIT_S
