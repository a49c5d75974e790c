"""Which runtimes exist, which are ready here, and how to open a model file in one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from enum import Enum

from deploy.artifact import Artifact
from deploy.errors import InputError
from deploy.runtimes.base import Availability, Runtime


class RuntimeName(str, Enum):
    """Runtimes that execute model files, by their command-line names."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


@dataclass(frozen=True, kw_only=True)
class _Backend:
    package: str
    install: str


_BACKENDS = {
    RuntimeName.ONNXRUNTIME: _Backend(package="onnxruntime", install="pip install onnxruntime"),
    RuntimeName.OPENVINO: _Backend(package="openvino", install="pip install 'segdeploy[openvino]'"),
}


def usable_cores() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def availability(name: RuntimeName) -> Availability:
    """Whether a runtime is installed, without importing it."""
    backend = _BACKENDS[name]
    if importlib.util.find_spec(backend.package) is None:
        reason = f"{backend.package} is not installed; {backend.install}"
        return Availability(name=name.value, version=None, reason=reason)
    try:
        version = importlib.metadata.version(backend.package)
    except importlib.metadata.PackageNotFoundError:  # installed as another distribution: -gpu
        version = "unknown"
    return Availability(name=name.value, version=version, reason=None)


def open_runtime(
    name: RuntimeName, artifact: Artifact, *, batch: int = 1, threads: int | None = None
) -> Runtime:
    """Load a model file.

    Args:
        name: the runtime.
        artifact: the ONNX file.
        batch: images per call; the runtime compiles for exactly this batch.
        threads: intra-operator threads; ``None`` takes every processor of this process.

    Raises:
        InputError: the runtime is not installed, or does not accept the file.
    """
    state = availability(name)
    if not state.ready:
        raise InputError(state.reason or f"{name.value} is not ready")
    threads = threads or usable_cores()
    if name is RuntimeName.ONNXRUNTIME:
        from deploy.runtimes.ort import OrtRuntime

        return OrtRuntime(artifact, batch=batch, threads=threads)
    from deploy.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(artifact, batch=batch, threads=threads)
