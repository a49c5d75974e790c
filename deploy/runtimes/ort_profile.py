"""ONNX Runtime's own profile of a model: a JSON trace, read back kernel by kernel."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Feeds
from segdeploy.deploy.runtimes.executed import Kernel
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, TimedKernel
from segdeploy.deploy.runtimes.ort import execution_options
from segdeploy.deploy.runtimes.ort_kernels import FLOAT_OPERATORS, INT8_OPERATORS, owner_of
from segdeploy.deploy.runtimes.ort_session import OrtSession
from segdeploy.deploy.system.errors import RunError

SUFFIX = "_kernel_time"
"""Of the events that hold the time of a node, behind the node's name."""


def profile(
    artifact: Artifact, execution: Execution, feeds: Feeds, layers: Collection[str]
) -> Iterator[TimedKernel]:
    """Run a few calls in a session that writes a trace.

    Args:
        artifact: the ONNX file.
        execution: how to run it.
        feeds: one batch.
        layers: names in the model file, as for ``ort_kernels.kernels_of``.

    Raises:
        InputError: ONNX Runtime does not accept the file.
        RunError: it failed while running.
    """
    options = execution_options(artifact, execution)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = OrtSession(artifact.path, options)
        for _ in range(WARMUP_CALLS + PROFILED_CALLS):
            session.run(feeds)
        trace = json.loads(session.end_profiling().read_text(encoding="utf-8"))
    return read_trace(trace, layers, calls=PROFILED_CALLS)


def read_trace(
    trace: list[dict[str, Any]], layers: Collection[str], *, calls: int
) -> Iterator[TimedKernel]:
    """Every node of a trace with its last ``calls`` times, in the order the nodes ran.

    Args:
        trace: the events as ONNX Runtime writes them; the field ``dur`` is in microseconds.
        layers: names in the model file.
        calls: how many to take; the ones before were warm-up.

    Raises:
        RunError: a node that did not run that often.
    """
    found: dict[str, tuple[str, list[float]]] = {}
    for event in trace:
        if event.get("cat") == "Node" and event["name"].endswith(SUFFIX):
            node = event["name"].removesuffix(SUFFIX)
            operator = event["args"]["op_name"]
            found.setdefault(node, (operator, []))[1].append(float(event["dur"]))
    for node, (operator, times) in found.items():
        if len(times) < calls:
            raise RunError(f"ONNX Runtime's trace shows {len(times)} calls of {node}, not {calls}")
        origin = INT8_OPERATORS.get(operator) or FLOAT_OPERATORS.get(operator)
        owner = owner_of(node, layers) if origin else None
        yield TimedKernel(
            kernel=Kernel(
                names=(node if owner is None else owner,),
                operator=origin or operator,
                precision="int8" if operator in INT8_OPERATORS else "",
            ),
            is_layer=origin is not None,
            times_us=tuple(times[-calls:]),
        )
