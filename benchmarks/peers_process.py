"""Start one tool in a process of its own and bring back what it measured."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from dataclasses import dataclass
from time import perf_counter

from benchmarks.peers_tools import Job, Tool
from benchmarks.peers_worker import Measurement, write_request
from deploy.errors import InputError, RunError

COMMAND = (sys.executable, "-m", "benchmarks.peers_worker")

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
    code, reason, seconds = _run(tool, job)
    if code == 0:
        return Attempt(measurement=Measurement.read(job.folder), process_seconds=seconds)
    if tool is not Tool.OURS:
        return Attempt(skipped=f"failed: {reason}")
    if code == InputError.exit_code:
        raise InputError(reason)
    raise RunError(f"{tool.value} failed: {reason}")


def _run(tool: Tool, job: Job) -> tuple[int, str, float]:
    """The worker's exit code, its last words, and its wall time in seconds."""
    write_request(tool, job)
    started = perf_counter()
    finished = subprocess.run(
        [*COMMAND, str(job.folder)],
        check=False,
        capture_output=True,
        text=True,
        errors="replace",
    )
    seconds = perf_counter() - started
    code = finished.returncode
    if code < 0:
        return code, f"ended by {signal.Signals(-code).name}", seconds
    last_words = finished.stderr.strip().splitlines() or [f"exit code {code}"]
    return code, last_words[-1], seconds
