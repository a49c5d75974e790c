"""ONNX Runtime's sessions: opened here alone, so that each failure is one of this project's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.errors import InputError, RunError, one_line

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

ERRORS: tuple[type[Exception], ...] = tuple(
    each for each in vars(state).values() if isinstance(each, type) and issubclass(each, Exception)
)
"""All that ONNX Runtime raises of its own; they share no base."""

_FAILURES: tuple[type[Exception], ...] = (*ERRORS, ValueError)
"""Of a call: ValueError is for feeds that are no inputs."""

PLANNED_VALUES = 1 << 19
"""Values of an input up to which the memory of a call is planned. The plan is made in the first
call and takes a block of its own beside what that call left: of UNet++ at 256x512, 0.61 GB instead
of 0.29, in the same processor time."""

_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : "
    r"|Load model (from .*? )?failed:"
    r"|Exception during initialization: "
    r"|This is an invalid model\. "
    r"|\S*\.(cc|h):\d+ (.*?\) (\S+ was false\. )?)?"
)


def session_options(
    *, threads: int, memory_pattern: bool = True, arena: bool = True, optimise: bool = True
) -> onnxruntime.SessionOptions:
    """Settings of a session that logs nothing, because its errors are raised.

    Args:
        threads: of one call.
        memory_pattern: plan the memory of a whole call at once.
        arena: keep freed memory for the next call.
        optimise: rewrite the graph; otherwise every node runs as it stands.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = memory_pattern
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def execution_options(artifact: Artifact, execution: Execution) -> onnxruntime.SessionOptions:
    """Settings of a session that is called from ``execution.streams`` threads.

    Every call brings its own thread, so the session's pool holds those that are left.
    """
    options = session_options(
        threads=execution.threads - execution.streams + 1,
        memory_pattern=_values(artifact) * execution.batch <= PLANNED_VALUES,
    )
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for axis in {d for spec in artifact.inputs for d in spec.shape[:1] if isinstance(d, str)}:
        options.add_free_dimension_override_by_name(axis, execution.batch)
    return options


def _values(artifact: Artifact) -> int:
    """Of one image as the model takes it; an open side counts as 1."""
    return max(
        (prod(side for side in s.shape[1:] if isinstance(side, int)) for s in artifact.inputs),
        default=0,
    )


class OrtSession:
    """A model open in ONNX Runtime.

    Args:
        model: an ONNX file, or what one holds.
        options: see ``session_options``.
        shown: what an error calls the model; ``None`` for its path.
        provider: ONNX Runtime's execution provider; what it lacks runs on the CPU.
        settings: the provider's own.

    Raises:
        InputError: ONNX Runtime does not accept the model, or cannot start the provider.
    """

    def __init__(
        self,
        model: Path | bytes,
        options: onnxruntime.SessionOptions,
        *,
        shown: Path | str | None = None,
        provider: str = CPU,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        providers = [(provider, dict(settings or {})), *([(CPU, {})] if provider != CPU else [])]
        given = str(model) if isinstance(model, Path) else model
        try:
            self._session = onnxruntime.InferenceSession(given, options, providers=providers)
        except ERRORS as error:
            named = shown or (model if isinstance(model, Path) else "the model")
            raise InputError(f"ONNX Runtime cannot load {named}: {ort_reason(error)}") from error
        if self._session.get_providers()[0] != provider:
            raise InputError(
                f"ONNX Runtime could not start {provider} and fell back to the CPU; check that its "
                "libraries and the GPU's driver are installed, or use --runtime onnxruntime"
            )

    @property
    def input(self) -> str:
        """Name of the first input."""
        return str(self._session.get_inputs()[0].name)

    def run(
        self,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None = None,
        *,
        where: str = "",
    ) -> list[NDArray[Any]]:
        """One call.

        Args:
            feeds: an array for each input.
            outputs: which to return; ``None`` for all, in the model's order.
            where: what an error adds to say which call failed, as ``on image1``.

        Raises:
            RunError: ONNX Runtime failed.
        """
        try:
            found: list[NDArray[Any]] = self._session.run(outputs, dict(feeds))
        except _FAILURES as error:
            place = f" {where}" if where else ""
            raise RunError(f"ONNX Runtime failed{place}: {ort_reason(error)}") from error
        return found

    def end_profiling(self) -> Path:
        """The trace of all calls, where the options asked for one."""
        return Path(self._session.end_profiling())


def ort_reason(error: Exception) -> str:
    """ONNX Runtime's reason, without its codes and its own source files.

    Example:
        >>> ort_reason(ValueError("[ONNXRuntimeError] : 1 : FAIL : Load model from x.onnx failed:"
        ...                       "Node (high) Op (Conv) Attribute kernel_shape is wrong"))
        'Node (high) Op (Conv) Attribute kernel_shape is wrong'
    """
    return one_line(_NOISE.sub("", str(error)).strip() or type(error).__name__)
