"""One calibration tool's turn: measured in a process of its own, or skipped with a reason."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from time import perf_counter

from segdeploy.benchmarks.peers.ranges import Range
from segdeploy.benchmarks.peers.tools import Job, Tool, load
from segdeploy.deploy.system.errors import RunError, SegdeployError
from segdeploy.deploy.system.memory import peak_bytes
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
class Measurement:
    """What one tool took and found.

    Attributes:
        seconds: of collection and search, from the model file and the image files on; imports
            are not in it.
        whole_seconds: of the call, which for a tool that also quantizes is more.
        peak_bytes: largest resident memory of the process, imports included.
        imports_bytes: of it, what the process held at most before the work began.
        candidates: thresholds compared for one tensor, at most.
        ranges: tensor name to lower and upper end.

    Raises:
        RunError: figures that cannot be.
    """

    seconds: float
    whole_seconds: float
    peak_bytes: int
    imports_bytes: int
    candidates: int
    ranges: dict[str, Range]

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= self.whole_seconds:
            raise RunError(f"{self.seconds} s of {self.whole_seconds} s is no measurement")
        if not 0 < self.imports_bytes <= self.peak_bytes:
            raise RunError(f"{self.imports_bytes} of {self.peak_bytes} bytes is no measurement")
        if not self.ranges or self.candidates < 0:
            raise RunError(f"{len(self.ranges)} ranges, {self.candidates} candidates: not a result")


def measure(tool: Tool, job: Job) -> Measurement:
    """Import a tool, run it once, and say what it took."""
    _limit_processors(job.threads)
    run = load(tool)
    imports = peak_bytes()
    started = perf_counter()
    found = run(job)
    whole = perf_counter() - started
    return Measurement(
        seconds=whole if found.seconds is None else found.seconds,
        whole_seconds=whole,
        peak_bytes=peak_bytes(),
        imports_bytes=imports,
        candidates=found.candidates,
        ranges=found.ranges,
    )


def _limit_processors(threads: int) -> None:
    """Confine this process and its runtime, whichever tool opens it, to a number of processors.

    ONNX Runtime's calibrators and NNCF let nobody choose, and a session's threads leave the
    processors of their process unless their number is stated.
    """
    import onnxruntime

    class Limited(onnxruntime.SessionOptions):  # type: ignore[misc]  # it has no type stubs
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = threads

    onnxruntime.SessionOptions = Limited
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


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
