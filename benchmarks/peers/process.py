"""Start one tool in a process of its own and bring back what it measured."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from time import perf_counter

from segdeploy.benchmarks.peers.tools import Job, Tool
from segdeploy.benchmarks.peers.worker import Measurement, measure
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.shown_command import shown_text
from segdeploy.deploy.system.worker_process import call_alone

PACKAGES = {
    Tool.OURS: "segdeploy",
    Tool.ORT_ENTROPY: "onnxruntime",
    Tool.ORT_MINMAX: "onnxruntime",
    Tool.NNCF: "nncf",
    Tool.ORT_SEARCH: "onnxruntime",
}
_OPTIONAL = {"nncf": "pip install 'segdeploy[peers]'"}


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One tool's turn: either a measurement, or the reason why there is none.

    Attributes:
        measurement: what the tool took and found.
        process_seconds: from starting the process to its end, imports included.
        skipped: why there is no measurement.
    """

    measurement: Measurement | None = None
    process_seconds: float | None = None
    skipped: str | None = None

    def __post_init__(self) -> None:
        if (self.measurement is None) == (self.skipped is None):
            raise RunError("an attempt gives a measurement or a reason, and not both")


def unavailable(tool: Tool) -> str | None:
    """Why a tool cannot run here; ``None`` where it can."""
    package = PACKAGES[tool]
    if package in _OPTIONAL and importlib.util.find_spec(package) is None:
        return f"{package} is not installed; {_OPTIONAL[package]}"
    return None


def attempt(tool: Tool, job: Job) -> Attempt:
    """Run a tool, or say why it did not.

    Raises:
        InputError: our own tool does not accept the model or the images.
        RunError: our own tool failed.
    """
    missing = unavailable(tool)
    if missing is not None:
        return Attempt(skipped=missing)
    began = perf_counter()
    try:
        measurement = call_alone(measure, tool, job)
    except SegdeployError as error:
        if tool is not Tool.OURS:
            return Attempt(skipped=f"failed: {shown_text(str(error))}")
        if isinstance(error, RunError):
            raise RunError(f"{tool.value} failed: {error}") from error
        raise
    return Attempt(measurement=measurement, process_seconds=perf_counter() - began)
