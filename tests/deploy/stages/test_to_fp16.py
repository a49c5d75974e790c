"""simplify and to_fp16: a smaller graph and smaller weights that still compute the same."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny import TINY

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.stages.to_fp16 import FP16_MAX, to_fp16
from segdeploy.deploy.system.errors import InputError, RunError


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Artifact:
    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(_tiny_unet, folder / "unet.safetensors", preprocess=TINY)
    return export(load_checkpoint(folder / "unet.safetensors", head=2), folder / "net.fp32.onnx")


@pytest.fixture(scope="module")
def simplified(exported: Artifact) -> Artifact:
    return simplify(exported, exported.path.with_name("net.sim.onnx"))


@pytest.fixture(scope="module")
def half(simplified: Artifact) -> Artifact:
    return to_fp16(simplified, simplified.path.with_name("net.fp16.onnx"))


@pytest.fixture
def images(image_set: Path) -> NDArray[np.float32]:
    return open_set(image_set, None).inputs(TINY)


def run(artifact: Artifact, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(
        artifact.path, options, providers=["CPUExecutionProvider"]
    )
    (probability,) = session.run(None, {session.get_inputs()[0].name: images})
    return np.asarray(probability)


def upsampling_model(path: Path, *, weight: float = 1.0, mode: str = "nearest") -> Artifact:
    """y = resize(resize(x * weight)); both Resize nodes read the same scales."""
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    factor = numpy_helper.from_array(np.full((1, 1, 1, 1), weight, np.float32), "factor")
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "factor"], ["a"], name="mul"),
            helper.make_node("Resize", ["a", "", "scales"], ["b"], name="up1", mode=mode),
            helper.make_node("Resize", ["b", "", "scales"], ["y"], name="up2", mode=mode),
        ],
        "upsampling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [scales, factor],
    )
    opset = [helper.make_opsetid("", 18)]
    save_model(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return describe(path)


class TestSimplify:
    def test_the_graph_computes_the_same_and_says_where_it_comes_from(
        self, exported: Artifact, simplified: Artifact, images: NDArray[np.float32]
    ) -> None:
        np.testing.assert_allclose(run(simplified, images), run(exported, images), atol=1e-6)
        own = metadata(load_model(exported.path)) | {"parent_sha256": exported.sha256}
        assert metadata(load_model(simplified.path)) == own
        assert simplified.parent == exported.sha256
        assert (simplified.inputs, simplified.outputs) == (exported.inputs, exported.outputs)
        assert load_model(simplified.path).producer_name == "segdeploy"

    def test_layers_keep_their_names(self, exported: Artifact, simplified: Artifact) -> None:
        names = [
            [node.name for node in load_model(artifact.path).graph.node if node.op_type == "Conv"]
            for artifact in (exported, simplified)
        ]
        assert names[0] == names[1]

    @pytest.mark.uncached
    def test_two_runs_give_the_same_bytes(
        self, exported: Artifact, simplified: Artifact, tmp_path: Path
    ) -> None:
        again = simplify(exported, tmp_path / "again.onnx")
        assert again.path.read_bytes() == simplified.path.read_bytes()

    @pytest.mark.parametrize(
        ("behaviour", "reason"),
        [
            ("signal", "crashed with signal 11"),
            ("exit", "the last thing it said"),
            ("silent exit", "exit code 3"),
            ("hang", "timed out after"),
            ("garbage", "Error parsing message|is not a valid|Wire"),
            ("empty file", "ir_version"),
            ("no file", "No such file"),
            ("no program", "no python"),
        ],
    )
    def test_whatever_onnxsim_does_the_graph_goes_on_with_a_warning(
        self,
        exported: Artifact,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        behaviour: str,
        reason: str,
    ) -> None:
        monkeypatch.setattr(
            "segdeploy.deploy.stages.simplify.subprocess.run", broken_onnxsim(behaviour)
        )
        with caplog.at_level(logging.WARNING, logger="segdeploy.deploy.stages.simplify"):
            made = simplify(exported, tmp_path / "net.sim.onnx")
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        message = record.getMessage()
        assert message.startswith("onnxsim failed (")
        assert message.endswith("continuing with the graph as exported")
        assert any(word in message for word in reason.split("|")), message
        assert load_model(made.path).graph == load_model(exported.path).graph
        assert made.parent == exported.sha256

    def test_an_onnxsim_that_really_hangs_is_stopped(
        self, exported: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, logger="segdeploy.deploy.stages.simplify"):
            made = simplify(exported, tmp_path / "net.sim.onnx", time_limit_s=0.05)
        assert "timed out after 0.05" in caplog.text
        assert load_model(made.path).graph == load_model(exported.path).graph

    def test_only_fp32_is_simplified(self, half: Artifact, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is fp16; a graph is simplified from fp32"):
            simplify(half, tmp_path / "net.onnx")


def broken_onnxsim(behaviour: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A stand-in for ``subprocess.run`` that fails as native code can."""

    def run(command: list[str], *, timeout: float, **_: object) -> subprocess.CompletedProcess[str]:
        result = Path(command[-1])
        if behaviour == "signal":
            raise subprocess.CalledProcessError(-11, command, "", "")
        if behaviour == "exit":
            raise subprocess.CalledProcessError(1, command, "", "Traceback\nthe last thing it said")
        if behaviour == "silent exit":
            raise subprocess.CalledProcessError(3, command, "", "")
        if behaviour == "hang":
            raise subprocess.TimeoutExpired(command, timeout)
        if behaviour == "no program":
            raise FileNotFoundError("no python")
        if behaviour == "garbage":
            result.write_bytes(b"\xff" * 50)
        if behaviour == "empty file":
            result.write_bytes(b"")
        return subprocess.CompletedProcess(command, 0)

    return run


class TestToFp16:
    def test_callers_see_float32_and_weights_are_half(
        self, simplified: Artifact, half: Artifact
    ) -> None:
        assert (half.inputs, half.outputs) == (simplified.inputs, simplified.outputs)
        assert {spec.dtype for spec in half.inputs + half.outputs} == {"float32"}
        graph = load_model(half.path).graph
        weights = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Conv":
                assert {weights[name].data_type for name in node.input[1:]} == {TensorProto.FLOAT16}
        assert half.path.stat().st_size < 0.6 * simplified.path.stat().st_size

    def test_weights_are_the_nearest_halves(self, simplified: Artifact, half: Artifact) -> None:
        graphs = [load_model(artifact.path).graph for artifact in (simplified, half)]
        before, after = ({t.name: t for t in graph.initializer} for graph in graphs)
        assert before.keys() == after.keys()
        for name in (name for name in before if name.endswith((".weight", ".bias"))):
            exact = numpy_helper.to_array(before[name])
            np.testing.assert_array_equal(
                numpy_helper.to_array(after[name]), exact.astype(np.float16)
            )

    def test_it_runs_in_onnx_runtime_close_to_float(
        self, simplified: Artifact, half: Artifact, images: NDArray[np.float32]
    ) -> None:
        expected, found = run(simplified, images), run(half, images)
        assert found.dtype == np.float32
        assert 0 < np.abs(found - expected).max() < 0.01

    def test_metadata_and_bytes(self, simplified: Artifact, half: Artifact, tmp_path: Path) -> None:
        own = {"precision": "fp16", "parent_sha256": simplified.sha256}
        assert metadata(load_model(half.path)) == metadata(load_model(simplified.path)) | own
        assert (half.precision, half.parent) == (Precision.FP16, simplified.sha256)
        again = to_fp16(simplified, tmp_path / "again.onnx")
        assert again.path.read_bytes() == half.path.read_bytes()

    @pytest.mark.parametrize("mode", ["nearest", "linear"])
    def test_scales_that_several_resizes_share_stay_float32(
        self, tmp_path: Path, mode: str
    ) -> None:
        source = upsampling_model(tmp_path / "net.onnx", weight=0.5, mode=mode)
        made = to_fp16(source, tmp_path / "net.fp16.onnx")
        types = {t.name: t.data_type for t in load_model(made.path).graph.initializer}
        assert types == {"scales": TensorProto.FLOAT, "factor": TensorProto.FLOAT16}
        x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
        np.testing.assert_allclose(run(made, x), run(source, x), atol=1e-3)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_weight_beyond_the_range_is_an_error_that_names_it(
        self, tmp_path: Path, sign: int
    ) -> None:
        fits = upsampling_model(tmp_path / "fits.onnx", weight=sign * FP16_MAX)
        x = np.full((1, 1, 2, 2), 0.5, np.float32)
        found = run(to_fp16(fits, tmp_path / "fits.fp16.onnx"), x)
        np.testing.assert_array_equal(found, np.full((1, 1, 8, 8), sign * FP16_MAX / 2))
        for weight in (sign * 65505.0, sign * np.inf, np.nan):
            beyond = upsampling_model(tmp_path / "beyond.onnx", weight=weight)
            with pytest.raises(RunError, match=r"weight 'factor' reaches .*beyond fp16's 65504"):
                to_fp16(beyond, tmp_path / "beyond.fp16.onnx")
        assert not (tmp_path / "beyond.fp16.onnx").exists()

    @pytest.mark.parametrize(
        ("operator", "value", "kept"),
        [
            ("Add", 1e-8, 2.0**-24),
            ("Max", 1e-12, 2.0**-24),
            ("Sub", -1e-9, -(2.0**-24)),
            ("Add", 1e9, FP16_MAX),
            ("Min", -1e9, -FP16_MAX),
            ("Add", 1e-7, float(np.float16(1e-7))),
            ("Add", 0.0, 0.0),
            ("Add", -np.inf, -np.inf),
        ],
    )
    @pytest.mark.parametrize("stored", ["initializer", "node"])
    def test_a_guard_stays_on_its_side_of_zero_and_finite(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        operator: str,
        value: float,
        kept: float,
        stored: str,
    ) -> None:
        guard = numpy_helper.from_array(np.float32(value), "guard")
        nodes = [helper.make_node(operator, ["x", "guard"], ["y"], name="on guard")]
        if stored == "node":
            nodes.insert(0, helper.make_node("Constant", [], ["guard"], value=guard))
        source = foreign(nodes, tmp_path / "foreign.onnx", *[guard] * (stored == "initializer"))
        with caplog.at_level(logging.WARNING):
            made = to_fp16(source, tmp_path / "made.onnx")
        held = GraphIndex(load_model(made.path).graph).stored["guard"]
        assert numpy_helper.to_array(held) == np.float16(kept)
        changed = value != kept and abs(value) not in (0, 1e-7)
        assert ("'guard' of on guard" in caplog.text) is changed

    def test_a_factor_that_vanishes_is_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        factor = numpy_helper.from_array(np.float32(1e-9), "factor")
        nodes = [helper.make_node("Mul", ["x", "factor"], ["y"], name="scale")]
        with caplog.at_level(logging.WARNING):
            to_fp16(foreign(nodes, tmp_path / "foreign.onnx", factor), tmp_path / "made.onnx")
        assert "constant 'factor' is 1e-09, which is 0 in fp16, read by scale (Mul)" in caplog.text

    def test_small_weights_round_without_a_word(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        weight = numpy_helper.from_array(np.array([[1e-9, 0.5]], np.float32), "weight")
        nodes = [
            helper.make_node("Add", ["x", "weight"], ["sum"]),
            helper.make_node("ReduceMax", ["sum"], ["y"], axes=[1]),
        ]
        source = foreign(nodes, tmp_path / "foreign.onnx", weight, opset=17)
        with caplog.at_level(logging.WARNING):
            to_fp16(source, tmp_path / "made.onnx")
        assert not caplog.text

    def test_the_source_stays_as_it_was_and_must_be_fp32(
        self, simplified: Artifact, half: Artifact, tmp_path: Path
    ) -> None:
        assert describe(simplified.path) == simplified
        with pytest.raises(InputError, match="is fp16; fp16 is made from fp32"):
            to_fp16(half, tmp_path / "twice.onnx")

    def test_constants_in_nodes_and_casts_follow(self, tmp_path: Path) -> None:
        two = numpy_helper.from_array(np.array([2.0], np.float32))
        nodes = [
            helper.make_node("Constant", [], ["two"], value=two),
            helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Cast", ["whole"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["real", "two"], ["y"]),
        ]
        half = to_fp16(foreign(nodes, tmp_path / "foreign.onnx"), tmp_path / "made.onnx")
        session = onnxruntime.InferenceSession(str(half.path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"x": np.array([[3.7]], np.float32)})
        assert found == 6.0

    def test_a_foreign_graph_it_cannot_convert_is_an_input_error(self, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("EyeLike", ["x"], ["eye"], dtype=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "eye"], ["y"]),
        ]
        source = foreign(nodes, tmp_path / "foreign.onnx")
        with pytest.raises(InputError, match=r"foreign\.onnx has no fp16 form here"):
            to_fp16(source, tmp_path / "made.onnx")


def foreign(
    nodes: list[onnx.NodeProto], path: Path, *stored: TensorProto, opset: int = 18
) -> Artifact:
    """A graph from x to y, both float32 (1, 1), in a file that no export of ours wrote."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1]) for name in "xy"]
    graph = helper.make_graph(nodes, "foreign", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    set_metadata(model, {"precision": "fp32"})
    save_model(model, path)
    return describe(path)


def test_a_truncated_source_is_an_input_error(exported: Artifact, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(exported.path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.onnx is not a valid ONNX file"):
        describe(cut)
    assert onnx.load(exported.path).graph.node
