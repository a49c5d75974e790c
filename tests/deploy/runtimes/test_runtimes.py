"""One contract, kept by every runtime; and which files run where."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from report_builders import compared_row
from tiny import TINY, made_up_table, quantized
from torch import nn

from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.parity.run import parity_section
from segdeploy.benchmarks.speed.entries import entries_everywhere, entries_for, require_ready
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.benchmarks.speed.memory_need import image_bytes
from segdeploy.benchmarks.speed.run import speed_section
from segdeploy.benchmarks.speed.subjects import CheckpointSubject, FileSubject
from segdeploy.benchmarks.speed.sweep import Sweep
from segdeploy.calibration.json_record import record_of
from segdeploy.deploy.data.image_set import Sample, open_set
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.onnx_model.file import describe, save_model
from segdeploy.deploy.runtimes import ort
from segdeploy.deploy.runtimes.base import (
    BATCHES_AHEAD,
    Execution,
    Feeds,
    Hint,
    Runtime,
    infer_each,
)
from segdeploy.deploy.runtimes.ort_session import CPU, CUDA, TENSORRT, execution_options
from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime, dispatched_layers
from segdeploy.deploy.runtimes.pytorch_ready import pytorch_availability
from segdeploy.deploy.runtimes.registry import (
    CPU_RUNTIMES,
    RuntimeName,
    availability,
    default_runtimes,
    open_runtime,
)
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.targets.profiles import OPENVINO_CPU

BF16_HERE = bool({"avx512_bf16", "amx_bf16", "bf16"} & set(describe_environment().isa))
ONE_THREAD = Execution(threads=1)
Pixels = NDArray[np.float32]
Quantize = Callable[..., Artifact]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Checkpoint:
    path = tmp_path_factory.mktemp("runtimes") / "unet.safetensors"
    save_checkpoint(_tiny_unet, path, preprocess=TINY)
    return load_checkpoint(path, head=1)


@pytest.fixture(scope="module")
def artifact(checkpoint: Checkpoint) -> Artifact:
    return export(checkpoint, checkpoint.path.with_name("net.fp32.onnx"))


@pytest.fixture(scope="module")
def half(artifact: Artifact) -> Artifact:
    return to_fp16(artifact, artifact.path.with_name("net.fp16.onnx"))


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory, _tiny_r2u: R2UNet) -> Artifact:
    """R2U-Net, whose convolutions are used three times each."""
    path = tmp_path_factory.mktemp("recurrent") / "r2u.safetensors"
    save_checkpoint(_tiny_r2u, path, preprocess=TINY)
    return export(load_checkpoint(path), path.with_suffix(".onnx"))


@pytest.fixture(scope="module")
def quantize(artifact: Artifact) -> Quantize:
    """Function (layers to keep in float, lower end after a ReLU) -> int8 file, ranges made up."""

    def quantize(*exclude: str, relu_from: float = 0.0) -> Artifact:
        table = made_up_table(artifact, relu_from=relu_from)
        output = artifact.path.with_name("net.int8.onnx")
        return quantized(artifact, output, table, profile=OPENVINO_CPU, exclude=exclude)

    return quantize


@pytest.fixture
def images(image_set: Path) -> Pixels:
    return open_set(image_set, "test").inputs(TINY)


class RuntimeContract(ABC):
    """What parity and benchmark rely on, whatever runs."""

    name: str
    hint = Hint.LATENCY
    batches: tuple[int, ...] = (1, 3)

    @abstractmethod
    def open(
        self, checkpoint: Checkpoint, artifact: Artifact, execution: Execution = ONE_THREAD
    ) -> Runtime:
        """The same network in this runtime."""

    def asked(self, *, threads: int = 1, batch: int = 1, streams: int = 1) -> Execution:
        return Execution(threads=threads, batch=batch, streams=streams, hint=self.hint)

    def test_it_says_what_it_is_and_what_it_runs(
        self, checkpoint: Checkpoint, artifact: Artifact
    ) -> None:
        with self.open(checkpoint, artifact) as runtime:
            assert runtime.name == self.name
            assert (runtime.inputs, runtime.outputs) == (artifact.inputs, artifact.outputs)
            assert runtime.execution == ONE_THREAD
            assert runtime.executed.words == "fp32"
            assert (runtime.executed.int8_mac_share, runtime.executed.float_layers) == (0, ())
            found = [(layer.name, layer.operator, layer.macs) for layer in runtime.executed.layers]
        cost = onnx_cost(artifact.path)
        assert found == [(layer.name, layer.op, layer.macs) for layer in cost.layers]

    def test_it_computes_the_network_at_every_batch(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        reference = PyTorchRuntime(checkpoint, execution=ONE_THREAD)
        for batch in self.batches:
            feeds = {"image": images[:batch]}
            with self.open(checkpoint, artifact, self.asked(batch=batch)) as runtime:
                found = runtime.infer(feeds)
            assert list(found) == ["probability"]
            assert (found["probability"].dtype, found["probability"].shape) == (
                np.dtype(np.float32),
                (batch, 1, 32, 32),
            )
            expected = reference.infer(feeds)["probability"]
            np.testing.assert_allclose(found["probability"], expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("streams", [1, 2])
    def test_many_batches_give_what_each_alone_gives_in_their_order(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels, streams: int
    ) -> None:
        asked = self.asked(threads=streams, streams=streams)
        feeds = [{"image": images[index % 4 : index % 4 + 1] * (1 + index)} for index in range(11)]
        with self.open(checkpoint, artifact, asked) as runtime:
            expected = [runtime.infer(feed)["probability"] for feed in feeds]
            found = [results["probability"] for results in runtime.infer_many(iter(feeds))]
            assert list(runtime.infer_many([])) == []
        np.testing.assert_array_equal(np.stack(found), np.stack(expected))
        assert len({array.tobytes() for array in found}) == len(feeds)

    @pytest.mark.parametrize("streams", [1, 2])
    def test_batches_are_taken_as_results_are(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels, streams: int
    ) -> None:
        taken = 0

        def endless() -> Iterator[Feeds]:
            nonlocal taken
            while True:
                taken += 1
                yield {"image": images[:1]}

        with self.open(
            checkpoint, artifact, self.asked(threads=streams, streams=streams)
        ) as runtime:
            results = runtime.infer_many(endless())
            assert taken == 0
            for received in range(1, 6):
                next(results)
                assert received <= taken < received + BATCHES_AHEAD * streams
            del results  # with batches still running

    def test_a_call_between_the_results_of_many_disturbs_none(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        feeds = [{"image": images[index : index + 1]} for index in range(4)]
        with self.open(checkpoint, artifact) as runtime:
            for index, results in enumerate(runtime.infer_many(feeds)):
                alone = runtime.infer(feeds[index])["probability"]
                np.testing.assert_array_equal(results["probability"], alone)

    def test_a_batch_that_does_not_fit_ends_the_run_and_not_the_runtime(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        fits, misfit = {"image": images[:1]}, {"image": images[:1, :1]}
        with self.open(checkpoint, artifact) as runtime:
            with pytest.raises(RunError, match="takes float32"):
                list(runtime.infer_many([fits, misfit, fits]))
            assert len(list(runtime.infer_many([fits, fits]))) == 2

    def test_a_result_outlives_the_next_call_and_feeds_stay_as_they_were(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with self.open(checkpoint, artifact) as runtime:
            kept = images.copy()
            first = runtime.infer({"image": images[:1]})["probability"]
            copy = first.copy()
            other = runtime.infer({"image": images[1:2]})["probability"]
            again = runtime.infer({"image": images[:1]})["probability"]
        np.testing.assert_array_equal(first, copy)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        np.testing.assert_array_equal(images, kept)

    def test_feeds_that_do_not_fit_are_refused_even_after_ones_that_did(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        fits = images[:1]
        misfits: dict[str, dict[str, Any]] = {
            "missing": {},
            "unknown": {"picture": fits},
            "one more": {"image": fits, "picture": fits},
            "rank": {"image": fits[0]},
            "channels": {"image": fits[:, :1]},
            "size": {"image": np.zeros((1, 3, 48, 48), np.float32)},
            "float64": {"image": fits.astype(np.float64)},
            "uint8": {"image": fits.astype(np.uint8)},
            "list": {"image": fits.tolist()},
        }
        with self.open(checkpoint, artifact) as runtime:
            runtime.infer({"image": fits})
            for feeds in misfits.values():
                with pytest.raises(RunError, match="input"):
                    runtime.infer(feeds)
                with pytest.raises(RunError, match="input"):
                    next(runtime.infer_many([feeds]))

    def test_an_array_that_is_not_contiguous_is_read_right(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        reversed_channels = images[:1, ::-1]
        with self.open(checkpoint, artifact) as runtime:
            found = runtime.infer({"image": reversed_channels})["probability"]
            (many,) = runtime.infer_many([{"image": reversed_channels}])
            expected = runtime.infer({"image": np.ascontiguousarray(reversed_channels)})
        np.testing.assert_array_equal(found, expected["probability"])
        np.testing.assert_array_equal(many["probability"], expected["probability"])

    def test_images_one_by_one_give_the_foreground_plane(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with self.open(checkpoint, artifact) as runtime:
            found = infer_each(runtime, images)[:, 0]
            one = runtime.infer({"image": images[2:3]})["probability"]
        assert found.shape == (len(images), 32, 32)
        np.testing.assert_array_equal(found[2], one[0, 0])


class TestPyTorch(RuntimeContract):
    name = "pytorch"

    def open(
        self, checkpoint: Checkpoint, artifact: Artifact, execution: Execution = ONE_THREAD
    ) -> Runtime:
        return PyTorchRuntime(checkpoint, execution=execution)

    def test_bf16_runs_in_bf16_and_says_so(self, checkpoint: Checkpoint, images: Pixels) -> None:
        asked = Execution(threads=1, precision=Precision.BF16)
        exact = infer_each(PyTorchRuntime(checkpoint, execution=ONE_THREAD), images)[:, 0]
        with PyTorchRuntime(checkpoint, execution=asked) as runtime:
            assert runtime.executed.words == "bf16"
            found = infer_each(runtime, images)[:, 0]
        assert 0 < np.abs(found - exact).max() < 0.1

    def test_the_checkpoint_and_another_runtimes_threads_stay_as_they_are(
        self, checkpoint: Checkpoint, images: Pixels
    ) -> None:
        one = PyTorchRuntime(checkpoint, execution=ONE_THREAD)
        two = PyTorchRuntime(checkpoint, execution=Execution(threads=2))
        for runtime, threads in ((one, 1), (two, 2), (one, 1)):
            runtime.infer({"image": images[:1]})
            assert torch.get_num_threads() == threads
        assert not any(module._forward_hooks for module in checkpoint.network.modules())

    @pytest.mark.parametrize(
        ("network", "macs"),
        [(UNetPlusPlus, 4_849_532_928), (R2UNet, 21_443_641_344)],
        ids=["unet_plus_plus", "r2u_net"],
    )
    def test_the_published_networks_cost_what_they_are_known_to(
        self, network: Callable[[], nn.Module], macs: int
    ) -> None:
        with torch.device("meta"):
            layers = dispatched_layers(network().eval(), (1, 3, 96, 96))
        assert sum(layer.macs for layer in layers) == macs
        assert len({layer.name for layer in layers}) == len(layers)

    def test_what_is_not_ready_says_what_to_install(
        self, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, no_compiler: str
    ) -> None:
        state = pytorch_availability(compiled=True, device="cpu")
        assert (state.name, state.ready, state.version) == ("pytorch-compiled", False, None)
        with pytest.raises(InputError, match=f"{no_compiler} is not found; install one"):
            PyTorchRuntime(checkpoint, execution=ONE_THREAD, compiled=True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(InputError, match=r"^pytorch-cuda: .*install the CUDA build"):
            PyTorchRuntime(checkpoint, execution=ONE_THREAD, device="cuda")
        with pytest.raises(InputError, match="cpu or cuda, not 'tpu'"):
            PyTorchRuntime(checkpoint, execution=ONE_THREAD, device="tpu")


@pytest.fixture(scope="module")
def compiled() -> Iterator[dict[Execution, Runtime]]:
    """Compiled networks, kept: the compiler takes seconds."""
    kept: dict[Execution, Runtime] = {}
    yield kept
    kept.clear()
    torch.compiler.reset()


@pytest.mark.skipif(
    not pytorch_availability(compiled=True, device="cpu").ready,
    reason="torch.compile has no C++ compiler here",
)
class TestPyTorchCompiled(RuntimeContract):
    name = "pytorch-compiled"
    batches = (1,)

    @pytest.fixture(autouse=True)
    def _keep(self, compiled: dict[Execution, Runtime]) -> None:
        self.kept = compiled

    def open(
        self, checkpoint: Checkpoint, artifact: Artifact, execution: Execution = ONE_THREAD
    ) -> Runtime:
        if execution not in self.kept:
            self.kept[execution] = PyTorchRuntime(checkpoint, execution=execution, compiled=True)
        return KeptOpen(self.kept[execution])

    def test_another_batch_than_it_was_compiled_for_is_refused(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with (
            self.open(checkpoint, artifact) as runtime,
            pytest.raises(RunError, match=r"takes float32 \(1, 3, 32, 32\)"),
        ):
            runtime.infer({"image": images[:2]})


class KeptOpen:
    """A runtime that leaving the context does not close."""

    def __init__(self, runtime: Runtime) -> None:
        self.name, self.inputs, self.outputs = runtime.name, runtime.inputs, runtime.outputs
        self.execution, self.executed = runtime.execution, runtime.executed
        self.infer, self.infer_many = runtime.infer, runtime.infer_many

    def __enter__(self) -> KeptOpen:
        return self

    def __exit__(self, *error: object) -> None: ...


class ModelFileContract(RuntimeContract):
    """What a runtime that loads model files keeps besides."""

    def open(
        self, checkpoint: Checkpoint, artifact: Artifact, execution: Execution = ONE_THREAD
    ) -> Runtime:
        return open_runtime(RuntimeName(self.name), artifact, execution=execution)

    def test_another_batch_than_it_was_opened_for_is_refused(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with self.open(checkpoint, artifact, self.asked(batch=2)) as runtime:
            with pytest.raises(RunError, match="failed"):
                runtime.infer({"image": images[:1]})
            with pytest.raises(RunError, match="failed"):
                list(runtime.infer_many([{"image": images[:1]}]))

    def test_a_file_it_cannot_load_is_an_input_error_that_names_it(
        self, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        graph = helper.make_graph(
            [helper.make_node("NoSuchOperator", ["x"], ["y"], domain="somewhere.else")],
            "foreign",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("somewhere.else", 1)]
        foreign = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        save_model(foreign, tmp_path / "foreign.onnx")
        with pytest.raises(InputError, match=r"cannot (load|compile) .*foreign\.onnx"):
            self.open(checkpoint, describe(tmp_path / "foreign.onnx"))

    def test_fp16_weights_run_close_to_float_and_the_row_says_in_what(
        self, checkpoint: Checkpoint, artifact: Artifact, half: Artifact, images: Pixels
    ) -> None:
        with self.open(checkpoint, artifact) as runtime:
            expected = infer_each(runtime, images)[:, 0]
        with self.open(checkpoint, half) as runtime:
            found = infer_each(runtime, images)[:, 0]
            assert runtime.executed.words in ("fp32 (weights stored in fp16)", "fp16")
        assert 0 < np.abs(found - expected).max() < 0.01

    def test_an_int8_file_names_the_layers_that_stay_in_float(
        self, checkpoint: Checkpoint, artifact: Artifact, quantize: Quantize
    ) -> None:
        costs = {layer.name: layer.macs for layer in onnx_cost(artifact.path).layers}
        with self.open(checkpoint, quantize()) as runtime:
            unavoidable = set(runtime.executed.float_layers)
        assert unavoidable <= {"final1"}  # ONNX Runtime: its output, a probability, stays in float
        with self.open(checkpoint, quantize("conv0_0.conv.0")) as runtime:
            executed = runtime.executed
        assert set(executed.float_layers) == unavoidable | {"conv0_0.conv.0"}
        by_name = {layer.name: layer for layer in executed.layers}
        assert by_name["conv0_0.conv.0"].precision == "fp32"
        assert by_name["conv0_0.conv.3"].precision == "int8"
        in_float = sum(costs[name] for name in executed.float_layers)
        assert executed.int8_mac_share == pytest.approx(1 - in_float / sum(costs.values()))
        count = len(costs) - len(executed.float_layers)
        assert executed.words == f"int8 ({count} of {len(costs)} convolutions)"

    def test_recurrent_layers_are_told_apart(
        self, checkpoint: Checkpoint, recurrent: Artifact
    ) -> None:
        with self.open(checkpoint, recurrent) as runtime:
            executed = runtime.executed
        names = [layer.name for layer in executed.layers]
        assert names == [layer.name for layer in onnx_cost(recurrent.path).layers]
        assert any(name.endswith("@3") for name in names)
        assert executed.words == "fp32"
        assert executed.macs == onnx_cost(recurrent.path).macs


class TestOnnxRuntime(ModelFileContract):
    name = "onnxruntime"

    def test_bf16_is_refused_with_what_to_use(self, artifact: Artifact) -> None:
        asked = Execution(threads=1, precision=Precision.BF16)
        with pytest.raises(UsageError, match=r"not in bf16; use --runtime openvino"):
            open_runtime(RuntimeName.ONNXRUNTIME, artifact, execution=asked)

    def test_a_convolution_in_float_because_of_its_relu_is_named(
        self, checkpoint: Checkpoint, artifact: Artifact, quantize: Quantize
    ) -> None:
        """A ReLU whose output is quantized from below 0 is not folded, so ORT leaves int8."""
        with self.open(checkpoint, quantize(relu_from=-1.0)) as runtime:
            executed = runtime.executed
        assert executed.float_layers == tuple(layer.name for layer in executed.layers)
        assert (executed.words, executed.int8_mac_share) == ("fp32", 0)

    def test_every_processor_is_used_once(self) -> None:
        for threads, streams in ((1, 1), (4, 1), (4, 2), (5, 2), (4, 4)):
            options = execution_options(made_for(None), Execution(threads=threads, streams=streams))
            pool = options.intra_op_num_threads - 1  # one of them is the caller
            assert pool + streams == threads

    def test_a_provider_that_falls_back_to_the_cpu_is_an_error(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[Any] = []
        real = onnxruntime.InferenceSession

        def session(path: str, options: object, *, providers: list[Any]) -> object:
            given.extend(providers)
            return real(path, options, providers=[CPU])

        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        with pytest.raises(InputError, match=r"could not start CUDA.* fell back to the CPU; check"):
            ort.OrtRuntime(artifact, execution=ONE_THREAD, provider=CUDA)
        assert given == [(CUDA, {"use_tf32": "0"}), (CPU, {})]


class TestOpenVino(ModelFileContract):
    name = "openvino"

    @pytest.fixture(autouse=True)
    def _needs_the_extra(self) -> None:
        pytest.importorskip("openvino")

    @pytest.mark.skipif(not BF16_HERE, reason="this processor has no bf16 instructions")
    def test_bf16_runs_only_when_asked_for_and_the_row_says_so(
        self, checkpoint: Checkpoint, artifact: Artifact, half: Artifact, images: Pixels
    ) -> None:
        outputs = {}
        for precision in (Precision.FP32, Precision.BF16):
            asked = Execution(threads=1, hint=self.hint, precision=precision)
            with self.open(checkpoint, artifact, asked) as runtime:
                assert runtime.executed.words == precision.value
                outputs[precision] = infer_each(runtime, images)[:, 0]
        assert 0 < np.abs(outputs[Precision.BF16] - outputs[Precision.FP32]).max() < 0.1
        with self.open(checkpoint, half, asked) as runtime:
            assert runtime.executed.words == "bf16 (weights stored in fp16)"

    @pytest.mark.skipif(not BF16_HERE, reason="this processor has no bf16 instructions")
    def test_layers_of_an_int8_file_left_in_bf16_are_told(
        self, checkpoint: Checkpoint, artifact: Artifact, quantize: Quantize
    ) -> None:
        asked = Execution(threads=1, hint=self.hint, precision=Precision.BF16)
        with self.open(checkpoint, quantize("conv1_0.conv.0"), asked) as runtime:
            executed = runtime.executed
        assert executed.float_layers == ("conv1_0.conv.0",)
        count = len(executed.layers)
        assert executed.words == f"int8 ({count - 1} of {count} convolutions, others bf16)"


class TestOpenVinoThroughput(TestOpenVino):
    hint = Hint.THROUGHPUT

    def test_streams_and_threads_are_those_asked_for(
        self, checkpoint: Checkpoint, artifact: Artifact
    ) -> None:
        with self.open(checkpoint, artifact, self.asked(threads=2, streams=2)) as runtime:
            compiled = runtime._compiled  # type: ignore[attr-defined]  # what the plugin was told
            assert compiled.get_property("NUM_STREAMS") == 2
            assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
            assert compiled.get_property("PERFORMANCE_HINT") == "THROUGHPUT"


class TestModelsOfOtherShape:
    def test_two_inputs_are_an_input_error(self, tmp_path: Path, images: Pixels) -> None:
        shape: list[str | int | None] = ["batch", 3, 32, 32]
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "z"], ["y"])],
            "two",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "z")],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        save_model(model, tmp_path / "two.onnx")
        with (
            open_runtime(
                RuntimeName.ONNXRUNTIME, describe(tmp_path / "two.onnx"), execution=ONE_THREAD
            ) as runtime,
            pytest.raises(InputError, match=r"inputs \[\('x',.*\('z',.*expected one image"),
        ):
            infer_each(runtime, images)[:, 0]


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO as if it were not installed."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> object:
        return None if name == "openvino" else real(name, package)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)


@pytest.fixture
def with_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything as if it were installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2030.1")


class TestRegistry:
    def test_an_installed_runtime_is_ready_with_its_version(self) -> None:
        state = availability(RuntimeName.ONNXRUNTIME)
        assert state.ready
        assert state.version == importlib.metadata.version("onnxruntime")

    def test_a_distribution_of_another_name_is_ready_too(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unknown(name: str) -> str:
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr("importlib.metadata.version", unknown)
        assert availability(RuntimeName.ONNXRUNTIME).ready

    @pytest.mark.usefixtures("without_openvino")
    def test_a_missing_runtime_says_how_to_install_it(self, artifact: Artifact) -> None:
        state = availability(RuntimeName.OPENVINO)
        assert not state.ready
        assert state.reason == "openvino is not installed; pip install 'segdeploy[openvino]'"
        with pytest.raises(InputError, match="openvino is not installed"):
            open_runtime(RuntimeName.OPENVINO, artifact, execution=ONE_THREAD)

    @pytest.mark.parametrize(
        ("name", "provider"),
        [
            (RuntimeName.ONNXRUNTIME_CUDA, CUDA),
            (RuntimeName.ONNXRUNTIME_TENSORRT, TENSORRT),
        ],
    )
    def test_a_gpu_is_there_when_this_build_offers_its_provider(
        self,
        artifact: Artifact,
        monkeypatch: pytest.MonkeyPatch,
        name: RuntimeName,
        provider: str,
    ) -> None:
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
        state = availability(name)
        assert (state.ready, state.name) == (False, name.value)
        assert state.reason is not None
        assert f"has no {provider}; pip install onnxruntime-gpu" in state.reason
        assert "not run on hardware" in state.reason
        assert default_runtimes() == CPU_RUNTIMES
        with pytest.raises(InputError, match=f"has no {provider}"):
            open_runtime(name, artifact, execution=ONE_THREAD)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider, CPU])
        assert availability(name).ready
        assert default_runtimes() == (*CPU_RUNTIMES, name)


def made_for(target: str | None, precision: Precision = Precision.INT8) -> Artifact:
    return Artifact(
        path=Path(f"net.{target}.onnx"),
        precision=precision,
        opset=18,
        inputs=(),
        outputs=(),
        sha256="ab" * 32,
        target=target,
    )


class TestEntries:
    files = {  # noqa: RUF012  # read only
        "fp32": made_for(None, Precision.FP32),
        "int8 ort-x86": made_for("ort-x86"),
        "int8 openvino-cpu": made_for("openvino-cpu"),
    }

    @pytest.mark.usefixtures("with_openvino")
    def test_an_int8_file_runs_where_it_was_made_for_any_other_everywhere(self) -> None:
        assert [entry.name for entry in entries_for(self.files, None)] == [
            "fp32 on ONNX Runtime",
            "fp32 on OpenVINO",
            "int8 ort-x86 on ONNX Runtime",
            "int8 openvino-cpu on OpenVINO",
        ]

    @pytest.mark.usefixtures("with_openvino")
    def test_runtimes_asked_for_run_everything(self) -> None:
        found = entries_for(self.files, [RuntimeName.OPENVINO])
        assert [entry.label for entry in found] == list(self.files)
        assert {entry.runtime for entry in found} == {RuntimeName.OPENVINO}

    @pytest.mark.usefixtures("with_openvino")
    def test_int8_for_an_unknown_target_runs_everywhere(self) -> None:
        assert len(entries_for({"mine": made_for("my-board")}, None)) == len(CPU_RUNTIMES)

    @pytest.mark.usefixtures("with_openvino")
    def test_for_evidence_every_file_runs_on_every_runtime(self) -> None:
        found = entries_everywhere(self.files)
        pairs = {(entry.label, entry.runtime) for entry in found}
        assert len(found) == len(pairs) == len(self.files) * len(CPU_RUNTIMES)
        assert all(entry.optional and entry.skipped is None for entry in found)

    @pytest.mark.usefixtures("without_openvino")
    def test_for_evidence_a_missing_runtime_is_a_skipped_row_too(self) -> None:
        skipped = [entry for entry in entries_everywhere(self.files) if entry.skipped]
        assert [entry.label for entry in skipped] == list(self.files)
        assert {entry.runtime for entry in skipped} == {RuntimeName.OPENVINO}

    @pytest.mark.usefixtures("without_openvino")
    def test_a_missing_runtime_is_a_skipped_row_with_its_reason(self) -> None:
        found = {entry.name: entry.skipped for entry in entries_for(self.files, None)}
        assert found["fp32 on ONNX Runtime"] is None
        for name in ("fp32 on OpenVINO", "int8 openvino-cpu on OpenVINO"):
            assert found[name] == "openvino is not installed; pip install 'segdeploy[openvino]'"

    @pytest.mark.usefixtures("without_openvino")
    def test_a_missing_runtime_that_was_asked_for_is_an_error(self) -> None:
        asked = [RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO]
        with pytest.raises(InputError, match="--runtime openvino: openvino is not installed; pip"):
            entries_for(self.files, asked)
        with pytest.raises(InputError, match="--runtime openvino"):
            require_ready(asked)


@pytest.mark.usefixtures("without_openvino")
class TestTables:
    def test_parity_scores_what_runs_and_lists_what_does_not(
        self, checkpoint: Checkpoint, artifact: Artifact, image_set: Path
    ) -> None:
        evaluation = open_set(image_set, "test")
        labels: list[str] = []

        def progress(samples: Iterable[Sample], label: str) -> Iterable[Sample]:
            labels.append(label)
            return samples

        section = parity_section(
            PyTorchRuntime(checkpoint, execution=ONE_THREAD),
            "PyTorch fp32",
            entries_for({"fp32": artifact}, None),
            images=evaluation,
            preprocess=TINY,
            output=OutputContract(),
            max_drop=0.1,
            seed=0,
            execution=ONE_THREAD,
            progress=progress,
        )
        reference, ran, skipped = section.rows
        assert labels == ["PyTorch fp32", "fp32 on ONNX Runtime"]
        assert reference.name == section.reference == "PyTorch fp32"
        assert ran.passed is True
        assert ran.delta_iou_percentage_points == pytest.approx(0, abs=0.1)
        assert len(ran.iou_per_image_percent or ()) == section.images == 4
        assert skipped.scores is skipped.passed is None
        assert "not installed" in str(skipped.skipped)
        assert section.passed

    def test_the_gate_needs_a_row_that_ran_and_none_that_failed(self) -> None:
        def verdict(*passed: bool | None) -> bool:
            rows = tuple(
                record_of(compared_row("a", 0.0, 0.0, 0.0, passed=each), ParityRow, whole="it")
                for each in passed
            )
            return ParitySection(
                reference="a", max_drop_percentage_points=0.1, images=2, rows=rows
            ).passed

        assert verdict(None, True, True)
        assert not verdict(None, True, False)
        assert not verdict(None, None)

    def test_speed_times_what_runs_beside_the_reference(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        shares: list[float] = []
        section = speed_section(
            CheckpointSubject(name="PyTorch fp32", checkpoint=checkpoint),
            [FileSubject(entry=entry) for entry in entries_for({"fp32": artifact}, None)],
            images=images,
            sweep=Sweep(threads=(1,), batches=(1, 6)),
            warmup=1,
            duration_s=0.01,
            progress=shares.append,
        )
        rows = section.rows
        assert [(row.name, row.batch) for row in rows] == [
            (name, batch)
            for batch in (1, 6)
            for name in ("PyTorch fp32", "fp32 on ONNX Runtime", "fp32 on OpenVINO")
        ]
        for reference, ran, skipped in (rows[:3], rows[3:]):
            assert reference.speedup == 1
            assert reference.p50_ms is not None
            assert ran.p50_ms is not None
            assert ran.speedup == pytest.approx(reference.p50_ms / ran.p50_ms)
            assert ran.file_bytes == artifact.path.stat().st_size
            assert skipped.p50_ms is None
            assert "not installed" in str(skipped.skipped)
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)

    def test_what_takes_too_much_memory_follows_each_other_or_is_left_out_by_name(
        self,
        checkpoint: Checkpoint,
        artifact: Artifact,
        images: Pixels,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        open_now, most_open = 0, 0
        opened = CheckpointSubject.open_apart, FileSubject.open_apart

        class Counted:
            """A runtime that tells how many are open."""

            def __init__(self, runtime: Any) -> None:
                self._runtime = runtime

            def __getattr__(self, name: str) -> Any:
                return getattr(self._runtime, name)

            def __enter__(self) -> Any:
                nonlocal open_now, most_open
                open_now += 1
                most_open = max(most_open, open_now)
                return self._runtime.__enter__()

            def __exit__(self, *error: object) -> None:
                nonlocal open_now
                open_now -= 1
                self._runtime.__exit__(*error)

        for kind, method in zip((CheckpointSubject, FileSubject), opened, strict=True):
            monkeypatch.setattr(kind, "open_apart", lambda *a, m=method, **k: Counted(m(*a, **k)))
        one = image_bytes([FileSubject(entry=e) for e in entries_for({"fp32": artifact}, None)])
        shares: list[float] = []

        def rows(most_bytes: int | None) -> list[tuple[int, str | None]]:
            nonlocal most_open
            most_open = 0
            section = speed_section(
                CheckpointSubject(name="PyTorch", checkpoint=checkpoint),
                [FileSubject(entry=entry) for entry in entries_for({"fp32": artifact}, None)],
                images=images,
                sweep=Sweep(threads=(1,), batches=(1, 6)),
                warmup=0,
                duration_s=0.01,
                progress=shares.append,
                most_bytes=most_bytes,
            )
            return [(row.batch, row.skipped) for row in section.rows if "OpenVINO" not in row.name]

        assert one > 0
        assert rows(100 * one) == [(1, None), (1, None), (6, None), (6, None)]
        assert most_open == 2
        shares.clear()
        found = rows(one)
        assert most_open == 1
        assert [(batch, skipped is None) for batch, skipped in found] == [
            (1, True), (1, True), (6, False), (6, False),
        ]  # fmt: skip
        assert "a batch of 6 takes" in str(found[-1][1])
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)

    @pytest.mark.parametrize("with_reference", [True, False])
    def test_when_nothing_can_run_the_rows_say_why(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels, with_reference: bool
    ) -> None:
        entries = [e for e in entries_for({"fp32": artifact}, None) if e.skipped]
        section = speed_section(
            CheckpointSubject(name="PyTorch", checkpoint=checkpoint) if with_reference else None,
            [FileSubject(entry=entry) for entry in entries],
            images=images,
            sweep=Sweep(threads=(1,), batches=(1,)),
            warmup=0,
            duration_s=0.01,
            progress=lambda share: None,
        )
        assert [row.skipped is None for row in section.rows] == [True] * with_reference + [False]
