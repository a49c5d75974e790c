"""ONNX Runtime, on the CPU or through one of its providers for NVIDIA GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import onnx

from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.runtimes.base import Feeds, Results, Runtime, infer_threaded, require_fit
from segdeploy.deploy.runtimes.executed import Executed, executed_of, file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.ort_kernels import kernels_of, made_by
from segdeploy.deploy.runtimes.ort_session import CPU, CUDA, TENSORRT, OrtSession, execution_options
from segdeploy.deploy.system.errors import UsageError


class OrtRuntime:
    """An ONNX file in ONNX Runtime, all graph optimisations on.

    ``executed`` is read from the graph that ONNX Runtime makes of the file; TensorRT hides it, so
    that its layers are of unknown precision. Streams are threads that share one session: two
    sessions are no faster (73.8 against 73.2 images/s of an int8 UNet++ on two processors) and
    hold the weights twice. The session's threads stop spinning after each call, so that a runtime
    measured next is not disturbed. The hint changes nothing.

    Args:
        artifact: the file.
        execution: how to run it.
        name: under which it reports.
        provider: ONNX Runtime's execution provider; what it lacks runs on the CPU. CUDA and
            TensorRT: not run on hardware.

    Raises:
        InputError: ONNX Runtime does not accept the file, or cannot start the provider.
        UsageError: bf16 is asked for, which ONNX Runtime does not compute float models in.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        execution: Execution,
        name: str = "onnxruntime",
        provider: str = CPU,
    ) -> None:
        if execution.precision is not Precision.FP32:
            raise UsageError(
                f"{name} runs layers that are not quantized in fp32, not in "
                f"{execution.precision.value}; use --runtime openvino for bf16"
            )
        self.name = name
        self.inputs, self.outputs = artifact.inputs, artifact.outputs
        self.execution = execution
        self._artifact, self._provider = artifact, provider
        self._session = OrtSession(
            artifact.path,
            execution_options(artifact, execution),
            provider=provider,
            settings=_settings(provider, artifact.precision),
        )

    @cached_property
    def executed(self) -> Executed:
        """What really runs, read from the graph that a session like this one writes down."""
        path = self._artifact.path
        layers = file_layers(path)
        names = [layer.name for layer in layers]
        graph = optimised_graph(self._artifact, self.execution, provider=self._provider)
        return executed_of(
            layers,
            kernels_of(graph, names, made_by(load_model(path), names)),
            requested=self._artifact.precision,
        )

    def infer(self, feeds: Feeds) -> Results:
        """Run one batch; see the contract in ``deploy.runtimes.base``."""
        require_fit(self.inputs, feeds)
        values = self._session.run(feeds)
        return {spec.name: value for spec, value in zip(self.outputs, values, strict=True)}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """Run many batches; see the contract in ``deploy.runtimes.base``."""
        return infer_threaded(self.infer, batches, streams=self.execution.streams)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._session


def optimised_graph(
    artifact: Artifact, execution: Execution, *, provider: str = CPU
) -> onnx.GraphProto:
    """The graph that ONNX Runtime executes for a file; an empty one for TensorRT, which hides it.

    Weights are left out: they are written beside the graph and not read.
    """
    if provider == TENSORRT:
        return onnx.GraphProto()
    options = execution_options(artifact, execution)
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        for key, value in {"file_name": "weights.bin", "min_size_in_bytes": "1024"}.items():
            entry = f"session.optimized_model_external_initializers_{key}"
            options.add_session_config_entry(entry, value)
        OrtSession(
            artifact.path,
            options,
            provider=provider,
            settings=_settings(provider, artifact.precision),
        )
        return onnx.load(optimised, load_external_data=False).graph


def _settings(provider: str, precision: Precision) -> dict[str, str]:
    """fp32 is fp32, not TF32; TensorRT uses the precisions it is allowed."""
    if provider == CUDA:
        return {"use_tf32": "0"}
    if provider == TENSORRT:
        return {
            "trt_int8_enable": str(int(precision is Precision.INT8)),
            "trt_fp16_enable": str(int(precision is Precision.FP16)),
        }
    return {}
