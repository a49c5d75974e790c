"""Time per layer: every layer of the file by name, everything that ran counted once."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from segdeploy.benchmarks.speed import layer_times as section
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.layer_times import beyond, layer_time_section
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import describe, save_model, set_metadata
from segdeploy.deploy.runtimes.executed import Kernel, file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import (
    PROFILED_CALLS,
    LayerTimes,
    TimedKernel,
    sorted_out,
)
from segdeploy.deploy.runtimes.ort_kernels import read_trace
from segdeploy.deploy.runtimes.peak import HIGHEST_HZ, most_macs_per_s
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, time_layers
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.to_fp16 import to_fp16
from segdeploy.deploy.system.errors import RunError, UsageError

ONE = Execution(threads=1)


@pytest.fixture
def artifact(tmp_path: Path, tiny_unet_checkpoint: Path) -> Artifact:
    return export(load_checkpoint(tiny_unet_checkpoint, head=1), tmp_path / "net.onnx")


@pytest.mark.parametrize("name", [RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO])
def test_a_runtime_shows_every_layer_of_the_file_in_its_order(
    name: RuntimeName, artifact: Artifact
) -> None:
    if not availability(name).ready:
        pytest.skip(f"{availability(name).reason}")
    feeds = {artifact.inputs[0].name: np.zeros((1, 3, 32, 32), np.float32)}
    found = time_layers(name, artifact, execution=ONE, feeds=feeds)
    assert list(found.layers) == [layer.name for layer in file_layers(artifact.path)]
    assert all(times is not None for times in found.layers.values())
    assert found.calls == PROFILED_CALLS
    assert "MaxPool" in found.others
    assert sum(sum(times or ()) for times in found.layers.values()) > 0


def test_another_runtime_says_that_it_cannot(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="not read from onnxruntime-cuda"):
        time_layers(RuntimeName.ONNXRUNTIME_CUDA, artifact, execution=ONE, feeds={})


def test_a_row_holds_raw_samples_or_the_reason_why_not(artifact: Artifact) -> None:
    ready = Entry(label="fp32", artifact=artifact, runtime=RuntimeName.ONNXRUNTIME, skipped=None)
    other = Entry(
        label="fp32", artifact=artifact, runtime=RuntimeName.OPENVINO, skipped="not installed"
    )
    images = np.zeros((2, 3, 32, 32), np.float32)
    timed, skipped = layer_time_section([ready, other], images=images, execution=ONE)
    assert [layer.macs for layer in timed.layers or ()] == [
        layer.macs for layer in file_layers(artifact.path)
    ]
    assert all(len(layer.times_us or ()) == timed.calls for layer in timed.layers or ())
    assert timed.skipped is None
    assert (skipped.layers, skipped.others, skipped.calls) == (None, None, None)
    assert skipped.skipped == "not installed"


kernels = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.booleans(), st.integers(0, 9)), max_size=9
)


@given(kernels)
def test_everything_that_ran_is_counted_once(ran: list[tuple[str, bool, int]]) -> None:
    timed = [
        TimedKernel(
            kernel=Kernel(names=(name,), operator="Conv" if is_layer else "Pool", precision=""),
            is_layer=is_layer,
            times_us=(float(us), float(us) + 1),
        )
        for name, is_layer, us in ran
    ]
    found = sorted_out(["a", "b"], timed)
    counted = [times for times in (*found.layers.values(), *found.others.values()) if times]
    assert sum(map(sum, counted)) == sum(sum(kernel.times_us) for kernel in timed)
    assert list(found.layers) == ["a", "b"]


def event(name: str, dur: int, op: str, cat: str = "Node") -> dict[str, object]:
    return {"cat": cat, "name": f"{name}_kernel_time", "dur": dur, "args": {"op_name": op}}


def test_a_trace_is_read_by_the_names_of_the_file_without_its_warm_up() -> None:
    trace = [event("session", 999, "", cat="Session")]
    for dur in (900, 10, 12):
        trace += [event("fused conv10_nchwc", dur, "FusedConv"), event("Pool_1", 3, "MaxPool")]
        trace += [event("conv1/Relu_token_7", 2 * dur, "QLinearConv")]
    found = list(read_trace(trace, ["conv1", "conv10"], calls=2))
    assert [(k.kernel.names, k.is_layer, k.times_us) for k in found] == [
        (("conv10",), True, (10.0, 12.0)),
        (("Pool_1",), False, (3.0, 3.0)),
        (("conv1",), True, (20.0, 24.0)),
    ]
    with pytest.raises(RunError, match="shows 3 calls of fused conv10_nchwc, not 4"):
        list(read_trace(trace, ["conv1", "conv10"], calls=4))


@pytest.mark.parametrize("in_fp16", [False, True])
def test_kernels_named_after_tensors_belong_to_the_layers_that_make_them(
    tmp_path: Path, in_fp16: bool
) -> None:
    """ONNX Runtime calls a convolution by its output's name, an activation's where it is fused.

    The second layer does most of the work; in whatever order kernels run, its time is its own.
    """
    weights = {"w1": (4, 3, 1, 1), "w2": (32, 4, 5, 5), "w3": (1, 32, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["first"], name="second", pads=[2] * 4),
        helper.make_node("Relu", ["first"], ["d"], name="relu2"),
        helper.make_node("Conv", ["d", "w3"], ["e"], name="third"),
        helper.make_node("Sigmoid", ["e"], ["y"], name="s"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 64, 64])
        for name, channels in (("x", 3), ("y", 1))
    ]
    held = [
        numpy_helper.from_array(np.full(shape, 0.01, np.float32), name)
        for name, shape in weights.items()
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    set_metadata(model, {"precision": "fp32"})
    save_model(model, tmp_path / "net.onnx")
    artifact = describe(tmp_path / "net.onnx")
    if in_fp16:
        artifact = to_fp16(artifact, tmp_path / "net.fp16.onnx")
    feeds = {"x": np.zeros((1, 3, 64, 64), np.float32)}
    found = time_layers(RuntimeName.ONNXRUNTIME, artifact, execution=ONE, feeds=feeds)
    times = {name: np.median(us or [0.0]) for name, us in found.layers.items()}
    assert list(times) == ["first", "second", "third"]
    assert times["second"] > times["first"] > 0
    assert times["second"] > times["third"] > 0


def test_kernels_without_a_name_are_given_to_no_layer() -> None:
    ran = [
        TimedKernel(
            kernel=Kernel(names=(name,), operator="Conv", precision=""),
            is_layer=True,
            times_us=(us,),
        )
        for name, us in (("token_7", 50.0), ("token_8", 1.0))
    ]
    found = sorted_out(["large", "small"], ran)
    assert found.layers == {"large": None, "small": None}
    assert found.others == {"Conv": (51.0,)}


class TestPeak:
    @pytest.mark.parametrize(
        ("precision", "isa", "macs"),
        [
            (Precision.FP32, ["avx2"], 16),
            (Precision.FP32, ["avx2", "avx512f", "avx512_vnni"], 32),
            (Precision.INT8, ["avx2", "avx512f", "avx512_vnni"], 128),
            (Precision.INT8, ["avx512_vnni", "amx_int8"], 1024),
            (Precision.FP16, ["avx512f"], 32),
        ],
    )
    def test_the_bound_is_that_of_the_instruction_sets(
        self, precision: Precision, isa: list[str], macs: int
    ) -> None:
        bound = most_macs_per_s(precision, threads=2, machine="x86_64", isa=isa)
        assert bound == macs * 2 * HIGHEST_HZ

    @pytest.mark.parametrize(("machine", "isa"), [("aarch64", ["i8mm"]), ("x86_64", [])])
    def test_of_an_unknown_processor_nothing_is_said(self, machine: str, isa: list[str]) -> None:
        assert most_macs_per_s(Precision.FP32, threads=1, machine=machine, isa=isa) is None
        assert beyond("a", 1e15, None) is None

    def test_a_rate_beyond_it_is_a_fault_and_no_time(
        self, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if one layer had been given the time of another."""
        names = [layer.name for layer in file_layers(artifact.path)]

        def mixed_up(*_: object, **__: object) -> LayerTimes:
            layers = dict.fromkeys(names, (1e6, 1e6)) | {names[0]: (1e-3, 1e-3)}
            return LayerTimes(calls=2, layers=layers, others={"Pool": (3.0, 3.0)})

        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(section, "processor", lambda: ("a", ("avx2",)))
        monkeypatch.setattr(section, "call_isolated", lambda call, **_: call())
        monkeypatch.setattr(section, "time_layers", mixed_up)
        entry = Entry(
            label="fp32", artifact=artifact, runtime=RuntimeName.ONNXRUNTIME, skipped=None
        )
        (row,) = layer_time_section(
            [entry], images=np.zeros((1, 3, 32, 32), np.float32), execution=ONE
        )
        assert [layer.name for layer in row.layers or () if layer.times_us is None] == names[:1]
        assert [fault.split(":")[0] for fault in row.faults] == names[:1]
        assert {other.op: sum(other.times_us) for other in row.others or ()} == {
            "Pool": 6.0,
            section.NOT_BELIEVED: 2e-3,
        }


def test_times_that_cannot_be_are_refused() -> None:
    with pytest.raises(RunError, match="no measurement of 2 calls of a"):
        LayerTimes(calls=2, layers={"a": (1.0,)}, others={})
    with pytest.raises(RunError, match="no measurement of 1 calls of Pool"):
        LayerTimes(calls=1, layers={}, others={"Pool": (-1.0,)})
