"""OpenVINO's own profile of a model, read call by call."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Feeds
from segdeploy.deploy.runtimes.executed import Kernel
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, TimedKernel
from segdeploy.deploy.runtimes.openvino import OPERATORS, OpenVinoRuntime, original_names

MICROSECOND = timedelta(microseconds=1)


def profile(artifact: Artifact, execution: Execution, feeds: Feeds) -> Iterator[TimedKernel]:
    """Run a few calls of a model that was compiled to count its time.

    Args:
        artifact: the ONNX file.
        execution: how to run it.
        feeds: one batch.

    Raises:
        InputError: OpenVINO does not accept the file.
        RunError: it failed while running.
    """
    times: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    runtime = OpenVinoRuntime(artifact, execution=execution, profiled=True)
    with runtime:
        for call in range(WARMUP_CALLS + PROFILED_CALLS):
            runtime.infer(feeds)
            for node in runtime.profile() if call >= WARMUP_CALLS else ():
                operators.setdefault(node.node_name, node.node_type)
                times.setdefault(node.node_name, []).append(node.real_time / MICROSECOND)
        names = original_names(runtime.graph())
    for node_name, samples in times.items():
        if any(samples):
            operator = operators[node_name]
            yield TimedKernel(
                kernel=Kernel(
                    names=(*names.get(node_name, ()), node_name),
                    operator=OPERATORS.get(operator, operator),
                    precision="",
                ),
                is_layer=operator in OPERATORS,
                times_us=tuple(samples),
            )
