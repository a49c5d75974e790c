"""OpenVINO on the CPU."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property

import openvino

from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.base import BATCHES_AHEAD, Feeds, Results, Runtime, require_fit
from segdeploy.deploy.runtimes.executed import Executed, Kernel, executed_of, file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, TimedKernel
from segdeploy.deploy.runtimes.openvino_core import openvino_core
from segdeploy.deploy.system.errors import InputError, RunError, one_line

_ELEMENT_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}
_PRECISION_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16"}
OPERATORS = {
    "Convolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "MatMul",
    "MatMul": "MatMul",
}

MICROSECOND = timedelta(microseconds=1)

_OPENVINO_NOISE = re.compile(
    r"Exception from|Check '|While validating|FrontEnd API|Model wasn't|Summary:|Loading input"
    r"|Shape inference input|-- .* with a message:|-- Conversion is failed|$"
)


class OpenVinoRuntime:
    """An ONNX file compiled for the CPU.

    The inference precision is pinned, so that a row called fp32 is not bf16, which is OpenVINO's
    own default on processors with bf16 instructions; quantized layers run in int8 all the same.
    The number of streams is pinned for either hint. ``executed`` is read from the compiled model.

    Args:
        artifact: the file.
        execution: how to run it.
        profiled: count the time of each layer, which costs a little.

    Raises:
        InputError: OpenVINO does not accept the file.
    """

    name = "openvino"

    def __init__(self, artifact: Artifact, *, execution: Execution, profiled: bool = False) -> None:
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.execution = execution
        try:
            core = openvino_core()
            model = core.read_model(artifact.path)
            model.reshape(
                {
                    spec.name: [
                        execution.batch,
                        *(-1 if isinstance(side, str) else side for side in spec.shape[1:]),
                    ]
                    for spec in artifact.inputs
                }
            )
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": execution.hint.value.upper(),
                    "NUM_STREAMS": execution.streams,
                    "INFERENCE_NUM_THREADS": execution.threads,
                    "INFERENCE_PRECISION_HINT": _PRECISION_HINTS[execution.precision],
                    "PERF_COUNT": profiled,
                },
            )
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot compile {artifact.path}: {openvino_reason(error)}"
            ) from error
        self._request = self._compiled.create_infer_request()
        self._artifact = artifact

    @cached_property
    def executed(self) -> Executed:
        """What really runs, read from the compiled model."""
        return executed_of(
            file_layers(self._artifact.path),
            kernels_of(self.graph()),
            requested=self._artifact.precision,
        )

    def graph(self) -> openvino.Model:
        """The graph that OpenVINO made of the file, and runs."""
        return self._compiled.get_runtime_model()

    def profile(self) -> Sequence[openvino.ProfilingInfo]:
        """The time of every node in the last call of ``infer``; zeros unless ``profiled``."""
        return list(self._request.get_profiling_info())

    def infer(self, feeds: Feeds) -> Results:
        """Run one batch; see the contract in ``deploy.runtimes.base``."""
        require_fit(self.inputs, feeds)
        with _failures():
            self._request.infer(dict(feeds), share_inputs=True)
        return self._results(self._request)

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """Run many batches; see the contract in ``deploy.runtimes.base``."""
        depth = BATCHES_AHEAD * self.execution.streams
        free = deque(self._compiled.create_infer_request() for _ in range(depth))
        running: deque[openvino.InferRequest] = deque()
        try:
            for feeds in batches:
                require_fit(self.inputs, feeds)
                with _failures():
                    free[0].start_async(dict(feeds), share_inputs=True)
                running.append(free.popleft())
                if not free:
                    yield self._finish(running[0])
                    free.append(running.popleft())
            while running:
                yield self._finish(running.popleft())
        finally:
            for request in running:  # they read the caller's arrays: not left behind
                with suppress(RuntimeError):
                    request.wait()

    def _finish(self, request: openvino.InferRequest) -> Results:
        with _failures():
            request.wait()
        return self._results(request)

    def _results(self, request: openvino.InferRequest) -> Results:
        return {spec.name: request.get_tensor(spec.name).data.copy() for spec in self.outputs}

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._request
        del self._compiled


@contextmanager
def _failures() -> Iterator[None]:
    """OpenVINO's errors as this project's."""
    try:
        yield
    except RuntimeError as error:
        raise RunError(f"OpenVINO failed: {openvino_reason(error)}") from error


def kernels_of(model: openvino.Model) -> Iterator[Kernel]:
    """The convolutions and matrix products of a compiled model, in the order they run."""
    for node in model.get_ordered_ops():
        info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
        if info.get("layerType") in OPERATORS:
            element = info["runtimePrecision"]
            yield Kernel(
                names=_names(info),
                operator=OPERATORS[info["layerType"]],
                precision=_ELEMENT_NAMES.get(element, element),
            )


def original_names(model: openvino.Model) -> dict[str, tuple[str, ...]]:
    """For each node of a compiled model, the nodes of the model file it came from."""
    return {
        node.get_friendly_name(): _names(
            {key: value.astype(str) for key, value in node.get_rt_info().items()}
        )
        for node in model.get_ordered_ops()
    }


def _names(info: dict[str, str]) -> tuple[str, ...]:
    return tuple(info.get("originalLayersNames", "").split(","))


def openvino_reason(error: Exception) -> str:
    r"""OpenVINO's reason: the first of its lines that is about the file.

    Example:
        >>> openvino_reason(RuntimeError("Exception from core.cpp:84:\nCheck 'false' failed\n"
        ...                              "Data batch and filters rank do not match"))
        'Data batch and filters rank do not match'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if not _OPENVINO_NOISE.match(line)]
    return one_line((telling or lines or [type(error).__name__])[0].removeprefix("-- "))


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
