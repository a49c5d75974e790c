"""Which runtimes exist, which are ready here, and how to open or profile a model file in one."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from enum import Enum

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Availability, Execution, Feeds, Runtime
from segdeploy.deploy.runtimes.executed import file_layers
from segdeploy.deploy.runtimes.layer_times import LayerTimes, sorted_out
from segdeploy.deploy.system.errors import InputError, UsageError


class RuntimeName(str, Enum):
    """Runtimes that execute model files, by their command-line names."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"
    ONNXRUNTIME_TENSORRT = "onnxruntime-tensorrt"


CPU_RUNTIMES = (RuntimeName.ONNXRUNTIME, RuntimeName.OPENVINO)
"""Those that every report lists, installed or not."""


@dataclass(frozen=True, kw_only=True)
class _Backend:
    """``provider`` is one of ONNX Runtime's that its build must offer."""

    package: str
    install: str
    provider: str = ""


_GPU_INSTALL = "pip install onnxruntime-gpu on a machine with an NVIDIA GPU (not run on hardware)"
_BACKENDS = {
    RuntimeName.ONNXRUNTIME: _Backend(
        package="onnxruntime",
        install="pip install onnxruntime",
        provider="CPUExecutionProvider",
    ),
    RuntimeName.OPENVINO: _Backend(package="openvino", install="pip install 'segdeploy[openvino]'"),
    RuntimeName.ONNXRUNTIME_CUDA: _Backend(
        package="onnxruntime",
        install=_GPU_INSTALL,
        provider="CUDAExecutionProvider",
    ),
    RuntimeName.ONNXRUNTIME_TENSORRT: _Backend(
        package="onnxruntime",
        install=_GPU_INSTALL + ", with TensorRT",
        provider="TensorrtExecutionProvider",
    ),
}


def usable_cores() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def availability(name: RuntimeName) -> Availability:
    """Whether a runtime is installed. Only asking for a GPU imports it."""
    backend = _BACKENDS[name]
    reason = _missing(name, backend)
    if reason:
        return Availability(name=name.value, version=None, reason=reason)
    try:
        version = importlib.metadata.version(backend.package)
    except importlib.metadata.PackageNotFoundError:  # installed as another distribution: -gpu
        version = "unknown"
    return Availability(name=name.value, version=version, reason=None)


def default_runtimes() -> tuple[RuntimeName, ...]:
    """Those on the CPU, installed or not, and those on a GPU that are ready."""
    return tuple(n for n in RuntimeName if n in CPU_RUNTIMES or availability(n).ready)


def import_backend(name: RuntimeName) -> None:
    """Import what a runtime needs, so that the time and memory of that can be told apart."""
    module = "openvino" if name is RuntimeName.OPENVINO else "ort"
    importlib.import_module(f"segdeploy.deploy.runtimes.{module}")


def open_runtime(name: RuntimeName, artifact: Artifact, *, execution: Execution) -> Runtime:
    """Load a model file.

    Args:
        name: the runtime.
        artifact: the ONNX file.
        execution: how to run it.

    Raises:
        InputError: the runtime is not installed, or does not accept the file.
        UsageError: the runtime cannot compute in the precision asked for.
    """
    state = availability(name)
    if not state.ready:
        raise InputError(state.reason or f"{name.value} is not ready")
    if name is RuntimeName.OPENVINO:
        from segdeploy.deploy.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(artifact, execution=execution)
    from segdeploy.deploy.runtimes.ort import OrtRuntime

    return OrtRuntime(
        artifact, execution=execution, name=name.value, provider=_BACKENDS[name].provider
    )


def time_layers(
    name: RuntimeName, artifact: Artifact, *, execution: Execution, feeds: Feeds
) -> LayerTimes:
    """Profile a few calls of a model.

    Args:
        name: the runtime.
        artifact: the ONNX file.
        execution: how to run it.
        feeds: one batch.

    Raises:
        InputError: the runtime does not accept the file.
        UsageError: this runtime has no profiler that this project reads.
        RunError: the runtime failed.
    """
    if name not in CPU_RUNTIMES:
        raise UsageError(f"the time of single layers is not read from {name.value}")
    names = [layer.name for layer in file_layers(artifact.path)]
    if name is RuntimeName.OPENVINO:
        from segdeploy.deploy.runtimes.openvino import profile as openvino_profile

        return sorted_out(names, openvino_profile(artifact, execution, feeds))
    from segdeploy.deploy.runtimes.ort_kernels import profile as ort_profile

    return sorted_out(names, ort_profile(artifact, execution, feeds, names))


def _missing(name: RuntimeName, backend: _Backend) -> str | None:
    """Why a runtime is not ready, and the fix."""
    if importlib.util.find_spec(backend.package) is None:
        return f"{backend.package} is not installed; {backend.install}"
    if name in CPU_RUNTIMES:
        return None
    import onnxruntime

    if backend.provider in onnxruntime.get_available_providers():
        return None
    return f"this build of onnxruntime has no {backend.provider}; {backend.install}"
