"""Time per layer: every layer of the file by name, everything that ran counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.layer_times import layer_time_section
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.executed import Kernel, file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import (
    PROFILED_CALLS,
    LayerTimes,
    TimedKernel,
    sorted_out,
)
from segdeploy.deploy.runtimes.ort_kernels import read_trace
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, time_layers
from segdeploy.deploy.stages.export import export
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


def test_times_that_cannot_be_are_refused() -> None:
    with pytest.raises(RunError, match="no measurement of 2 calls of a"):
        LayerTimes(calls=2, layers={"a": (1.0,)}, others={})
    with pytest.raises(RunError, match="no measurement of 1 calls of Pool"):
        LayerTimes(calls=1, layers={}, others={"Pool": (-1.0,)})
