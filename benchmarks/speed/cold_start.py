"""Load time, first inference and peak memory of one model, in a process that does nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import repeat
from time import perf_counter

from segdeploy.benchmarks.speed.random_feeds import random_feeds
from segdeploy.benchmarks.speed.subjects import Request, Subject, import_packages, read_request
from segdeploy.deploy.runtimes.base import BATCHES_AHEAD
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.memory import peak_bytes
from segdeploy.deploy.system.progress import ShareProgress
from segdeploy.deploy.system.worker_process import call_alone


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
    return call_alone(
        measure_here,
        subject.request(),
        execution,
        subject.size,
        progress=lambda share: None,
        silence_s=time_limit_s,
    )


def measure_here(
    request: Request,
    execution: Execution,
    size: tuple[int, int] | None,
    *,
    progress: ShareProgress,
) -> ColdStart:
    """Measure in this process, which did nothing before.

    Args:
        request: what is opened.
        execution: how.
        size: height and width to feed, of a model that takes any.
        progress: told that each call came back.

    Raises:
        InputError: the runtime does not accept the file.
        RunError: the runtime failed.
    """
    import_packages(request)
    progress(0.0)
    imports = peak_bytes()
    started = perf_counter()
    with read_request(request).open(execution) as runtime:
        loaded = perf_counter()
        progress(0.0)
        feeds = random_feeds(runtime.inputs, execution.batch, size=size)
        begun = perf_counter()
        runtime.infer(feeds)
        answered = perf_counter()
        progress(0.0)
        for _ in runtime.infer_many(repeat(feeds, BATCHES_AHEAD * execution.streams)):
            progress(0.0)
    return ColdStart(
        load_s=loaded - started,
        first_inference_s=answered - begun,
        peak_bytes=peak_bytes(),
        imports_bytes=imports,
    )
