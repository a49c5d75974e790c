"""One contract, kept by every runtime; and which files run where."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.entries import entries_for, require_ready
from benchmarks.parity_run import gate_passed, parity_section
from benchmarks.speed_run import speed_section
from deploy.artifact import Artifact, Precision
from deploy.data import open_set
from deploy.errors import InputError, RunError
from deploy.export import export
from deploy.models import UNetPlusPlus
from deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deploy.onnx_file import describe, save_model
from deploy.preprocess import Preprocess
from deploy.runtimes.base import Runtime, infer_each, precision_in_words
from deploy.runtimes.ort import executed_precision
from deploy.runtimes.pytorch import PyTorchRuntime
from deploy.runtimes.registry import RuntimeName, availability, open_runtime, usable_cores
from deploy.to_fp16 import to_fp16

TINY = Preprocess(size=(32, 32))
Pixels = NDArray[np.float32]


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


@pytest.fixture
def images(image_set: Path) -> Pixels:
    return open_set(image_set, "test").inputs(TINY)


class RuntimeContract(ABC):
    """What parity and benchmark rely on, whatever runs."""

    name: str

    @abstractmethod
    def open(self, checkpoint: Checkpoint, artifact: Artifact, *, batch: int = 1) -> Runtime:
        """The same network in this runtime."""

    def test_it_says_what_it_is(self, checkpoint: Checkpoint, artifact: Artifact) -> None:
        with self.open(checkpoint, artifact) as runtime:
            assert runtime.name == self.name
            assert (runtime.inputs, runtime.outputs) == (artifact.inputs, artifact.outputs)
            assert (runtime.precision_executed, runtime.threads) == ("fp32", 1)

    def test_it_computes_the_network_at_every_batch(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        reference = PyTorchRuntime(checkpoint, threads=1)
        for batch in (1, 3):
            feeds = {"image": images[:batch]}
            with self.open(checkpoint, artifact, batch=batch) as runtime:
                found = runtime.infer(feeds)
            assert list(found) == ["probability"]
            assert (found["probability"].dtype, found["probability"].shape) == (
                np.dtype(np.float32),
                (batch, 1, 32, 32),
            )
            expected = reference.infer(feeds)["probability"]
            np.testing.assert_allclose(found["probability"], expected, rtol=0, atol=1e-5)

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

    @pytest.mark.parametrize(
        "misfit",
        ["missing", "unknown", "one more", "rank", "channels", "size", "float64", "uint8", "list"],
    )
    def test_feeds_that_do_not_fit_are_refused_even_after_ones_that_did(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels, misfit: str
    ) -> None:
        fits = images[:1]
        feeds: dict[str, dict[str, Any]] = {
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
            with pytest.raises(RunError, match="input"):
                runtime.infer(feeds[misfit])

    def test_an_array_that_is_not_contiguous_is_read_right(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        reversed_channels = images[:1, ::-1]
        with self.open(checkpoint, artifact) as runtime:
            found = runtime.infer({"image": reversed_channels})["probability"]
            expected = runtime.infer({"image": np.ascontiguousarray(reversed_channels)})
        np.testing.assert_array_equal(found, expected["probability"])

    def test_images_one_by_one_give_the_foreground_plane(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with self.open(checkpoint, artifact) as runtime:
            found = infer_each(runtime, images)
            one = runtime.infer({"image": images[2:3]})["probability"]
        assert found.shape == (len(images), 32, 32)
        np.testing.assert_array_equal(found[2], one[0, 0])


class TestPyTorch(RuntimeContract):
    name = "pytorch"

    def open(self, checkpoint: Checkpoint, artifact: Artifact, *, batch: int = 1) -> Runtime:
        return PyTorchRuntime(checkpoint, threads=1)


class ModelFileContract(RuntimeContract):
    """What a runtime that loads model files keeps besides."""

    def open(self, checkpoint: Checkpoint, artifact: Artifact, *, batch: int = 1) -> Runtime:
        return open_runtime(RuntimeName(self.name), artifact, batch=batch, threads=1)

    def test_another_batch_than_it_was_opened_for_is_refused(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        with (
            self.open(checkpoint, artifact, batch=2) as runtime,
            pytest.raises(RunError, match="failed"),
        ):
            runtime.infer({"image": images[:1]})

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
            expected = infer_each(runtime, images)
        with self.open(checkpoint, half) as runtime:
            found = infer_each(runtime, images)
            assert runtime.precision_executed in ("fp32 (weights stored in fp16)", "fp16")
        assert 0 < np.abs(found - expected).max() < 0.01


class TestOnnxRuntime(ModelFileContract):
    name = "onnxruntime"

    def test_the_optimised_graph_tells_what_executes(self) -> None:
        nodes = [
            helper.make_node("QLinearConv", [f"i{i}" for i in range(9)], ["a"]),
            helper.make_node("FusedConv", ["a", "w"], ["b"]),
            helper.make_node("Conv", ["b", "w"], ["c"]),
            helper.make_node("QLinearConv", [f"i{i}" for i in range(9)], ["d"]),
            helper.make_node("QLinearConv", [f"i{i}" for i in range(9)], ["e"]),
            helper.make_node("Relu", ["e"], ["f"]),
        ]
        weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
        graph = onnx.GraphProto(node=nodes, initializer=[weight])
        assert executed_precision(graph, requested=Precision.INT8) == "int8 (3 of 5 convolutions)"


class TestOpenVino(ModelFileContract):
    name = "openvino"

    @pytest.fixture(autouse=True)
    def _needs_the_extra(self) -> None:
        pytest.importorskip("openvino")


class TestWords:
    def test_a_runtime_without_convolutions_is_what_was_asked_for(self) -> None:
        assert precision_in_words(Counter(), requested=Precision.FP16) == "fp16"

    def test_fp16_that_runs_in_fp32_says_so(self) -> None:
        found = precision_in_words(Counter(fp32=3), requested=Precision.FP16)
        assert found == "fp32 (weights stored in fp16)"
        assert precision_in_words(Counter(fp16=3), requested=Precision.FP16) == "fp16"
        assert precision_in_words(Counter(int8=3), requested=Precision.INT8) == "int8"


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
                RuntimeName.ONNXRUNTIME, describe(tmp_path / "two.onnx"), threads=1
            ) as runtime,
            pytest.raises(InputError, match=r"inputs \['x', 'z'\].*expected one image"),
        ):
            infer_each(runtime, images)


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
            open_runtime(RuntimeName.OPENVINO, artifact)

    def test_threads_default_to_the_processors_of_this_process(self, artifact: Artifact) -> None:
        with open_runtime(RuntimeName.ONNXRUNTIME, artifact) as runtime:
            assert runtime.threads == usable_cores() >= 1


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
        assert len(entries_for({"mine": made_for("my-board")}, None)) == len(RuntimeName)

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

        def progress(images: Pixels, label: str) -> Pixels:
            labels.append(label)
            return images

        section = parity_section(
            PyTorchRuntime(checkpoint, threads=1),
            "PyTorch fp32",
            entries_for({"fp32": artifact}, None),
            images=evaluation.inputs(TINY),
            truths=evaluation.truths(TINY),
            names=[sample.name for sample in evaluation],
            max_drop=0.1,
            seed=0,
            threads=1,
            progress=progress,  # type: ignore[arg-type]  # images are an array here
        )
        reference, ran, skipped = section["rows"]
        assert labels == ["PyTorch fp32", "fp32 on ONNX Runtime"]
        assert reference["name"] == section["reference"] == "PyTorch fp32"
        assert ran["passed"] is True
        assert ran["delta_iou_percentage_points"] == pytest.approx(0, abs=0.1)
        assert len(ran["iou_per_image_percent"]) == section["images"] == 4
        assert skipped["scores"] is skipped["passed"] is None
        assert "not installed" in skipped["skipped"]
        assert gate_passed(section)

    def test_the_gate_needs_a_row_that_ran_and_none_that_failed(self) -> None:
        def verdict(*passed: bool | None) -> bool:
            return gate_passed({"rows": [{"passed": word} for word in passed]})

        assert verdict(None, True, True)
        assert not verdict(None, True, False)
        assert not verdict(None, None)

    def test_speed_times_what_runs_beside_the_reference(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels
    ) -> None:
        shares: list[float] = []
        section = speed_section(
            PyTorchRuntime(checkpoint, threads=1),
            "PyTorch fp32",
            entries_for({"fp32": artifact}, None),
            images=images,
            batches=[1, 6],
            threads=1,
            warmup=1,
            duration_s=0.01,
            progress=shares.append,
        )
        rows = section["rows"]
        assert [(row["name"], row["batch"]) for row in rows] == [
            (name, batch)
            for batch in (1, 6)
            for name in ("PyTorch fp32", "fp32 on ONNX Runtime", "fp32 on OpenVINO")
        ]
        for reference, ran, skipped in (rows[:3], rows[3:]):
            assert reference["speedup"] == 1
            assert ran["speedup"] == pytest.approx(reference["p50_ms"] / ran["p50_ms"])
            assert ran["file_bytes"] == artifact.path.stat().st_size
            assert skipped["p50_ms"] is None
            assert "not installed" in skipped["skipped"]
        assert shares == sorted(shares)
        assert shares[-1] == pytest.approx(1)

    @pytest.mark.parametrize("with_reference", [True, False])
    def test_when_nothing_can_run_the_rows_say_why(
        self, checkpoint: Checkpoint, artifact: Artifact, images: Pixels, with_reference: bool
    ) -> None:
        entries = [e for e in entries_for({"fp32": artifact}, None) if e.skipped]
        section = speed_section(
            PyTorchRuntime(checkpoint, threads=1) if with_reference else None,
            "PyTorch fp32",
            entries,
            images=images,
            batches=[1],
            threads=1,
            warmup=0,
            duration_s=0.01,
            progress=lambda share: None,
        )
        assert [row["skipped"] is None for row in section["rows"]] == [True] * with_reference + [
            False
        ]
