"""Load time, first inference and peak memory of one model, in a process that does nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import repeat
from time import perf_counter
from typing import Any

from segdeploy.benchmarks.speed.process import Progress, call_worker, peak_bytes, serve
from segdeploy.benchmarks.speed.random_feeds import random_feeds
from segdeploy.benchmarks.speed.subjects import Subject, import_packages, read_request
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.base import AHEAD
from segdeploy.deploy.runtimes.execution import Execution, Hint
from segdeploy.deploy.system.errors import RunError


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """What a fresh process took to answer.

    Attributes:
        load_s: from the model file to a runtime that is ready; imports are not in it.
        first_inference_s: of the first call of a whole batch.
        peak_bytes: largest resident memory of the process while it loaded and then kept every
            stream busy; imports included.
        imports_bytes: of it, what the process held at most before it opened the file.

    Raises:
        RunError: figures that cannot be.
    """

    load_s: float
    first_inference_s: float
    peak_bytes: int
    imports_bytes: int

    def __post_init__(self) -> None:
        if not (self.load_s > 0 and self.first_inference_s > 0):
            raise RunError(f"{self.load_s} s and {self.first_inference_s} s are no measurement")
        if not 0 < self.imports_bytes <= self.peak_bytes:
            raise RunError(f"{self.imports_bytes} of {self.peak_bytes} bytes is no measurement")


def cold_start(
    subject: Subject, execution: Execution, *, time_limit_s: float | None = None
) -> ColdStart:
    """Measure a subject in a fresh process; the model file is read from the system's cache.

    Args:
        subject: what is opened.
        execution: how.
        time_limit_s: longest time for loading and for each call; ``None`` waits.

    Raises:
        InputError: the runtime does not accept the file.
        RunError: the runtime failed.
    """
    asked = {"subject": subject.request(), "execution": asdict(execution)}
    return ColdStart(
        **call_worker("segdeploy.benchmarks.speed.cold_start", asked, silence_s=time_limit_s)
    )


def execution_of(fields: Mapping[str, Any]) -> Execution:
    """An execution that went through JSON."""
    enums = {"hint": Hint(fields["hint"]), "precision": Precision(fields["precision"])}
    return Execution(**{**fields, **enums})


def _work(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """The worker's part."""
    execution = execution_of(request["execution"])
    import_packages(request["subject"])
    progress(0.0)
    imports = peak_bytes()
    started = perf_counter()
    with read_request(request["subject"]).open(execution) as runtime:
        loaded = perf_counter()
        progress(0.0)
        feeds = random_feeds(runtime.inputs, execution.batch)
        begun = perf_counter()
        runtime.infer(feeds)
        answered = perf_counter()
        progress(0.0)
        for _ in runtime.infer_many(repeat(feeds, AHEAD * execution.streams)):
            progress(0.0)
    measured = ColdStart(
        load_s=loaded - started,
        first_inference_s=answered - begun,
        peak_bytes=peak_bytes(),
        imports_bytes=imports,
    )
    return asdict(measured)


if __name__ == "__main__":
    sys.exit(serve(_work))
