"""One model from image files to mask files, measured in the process it has to itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TypeVar

from segdeploy.benchmarks.speed.subjects import (
    Request,
    import_packages,
    output_contract,
    read_request,
)
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import interface_of
from segdeploy.deploy.prediction.flow import Flow, partial_folder
from segdeploy.deploy.prediction.image import Job, Outcome, Prepared
from segdeploy.deploy.prediction.journal import Status
from segdeploy.deploy.prediction.settings import Settings
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.executed import Executed
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.system.errors import InputError, RunError
from segdeploy.deploy.system.memory import peak_bytes
from segdeploy.deploy.system.progress import ShareProgress

T = TypeVar("T")

MIN_IMAGES = 10
"""Fewest images after the warm-up."""

FEW = 32
"""Images of which each stage is timed alone."""

ALONE_S = 1.0
"""Longest time each stage is timed alone, seconds."""


@dataclass(frozen=True, kw_only=True)
class EndToEnd:
    """What one model took from image files to mask files.

    Attributes:
        written_s: when each mask was written, in seconds since the start, rising.
        warmup: images at the start that the rate leaves out.
        processor_s: processor time of ``decode``, ``encode`` and, the rest, ``inference``.
        alone_images_per_s: rate of each stage when it has the machine to itself, and ``in_turn``
            that of one batch after the other, decoded, run and encoded without overlap.
        most_at_once: images held at once, at most.
        bound: how many the flow allows.
        peak_bytes: largest resident memory of the process.

    Example:
        >>> measured = EndToEnd(
        ...     written_s=(0.3, 0.4, 0.5, 0.6), warmup=2, most_at_once=3, bound=8, peak_bytes=9,
        ...     processor_s={"decode": 0.6, "inference": 0.3, "encode": 0.1},
        ...     alone_images_per_s={"decode": 20.0, "inference": 40.0, "in_turn": 7.0})
        >>> round(measured.images_per_s, 6)  # 2 images between 0.4 s and 0.6 s
        10.0
        >>> measured.processor_share["decode"]
        0.6

    Raises:
        RunError: figures that cannot be.
    """

    written_s: tuple[float, ...]
    warmup: int
    processor_s: dict[str, float]
    alone_images_per_s: dict[str, float]
    most_at_once: int
    bound: int
    peak_bytes: int

    def __post_init__(self) -> None:
        rising = list(self.written_s) == sorted(self.written_s)
        if not 0 < self.warmup < len(self.written_s) or not rising:
            raise RunError(f"{len(self.written_s)} masks, {self.warmup} of warm-up: no rate")
        if self.most_at_once > self.bound:
            raise RunError(f"{self.most_at_once} images at once; at most {self.bound} should be")

    @property
    def images_per_s(self) -> float:
        """Sustained rate: masks written after the warm-up over the time they took."""
        spent = self.written_s[-1] - self.written_s[self.warmup - 1]
        return (len(self.written_s) - self.warmup) / spent

    @property
    def processor_share(self) -> dict[str, float]:
        """Share of the processor time that each stage took, 0 to 1."""
        total = math.fsum(self.processor_s.values())
        return {stage: seconds / total for stage, seconds in self.processor_s.items()}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a process measures.

    Attributes:
        subject: the model.
        execution: how it runs.
        preprocess: its input contract.
        output: folder for the masks, which exists.
        workers: threads that decode and encode.
        paths: of the images.
        warmup: calls at the start that the rate leaves out.
        duration_s: shortest measurement; the images are taken again until it has passed.
    """

    subject: Request
    execution: Execution
    preprocess: Preprocess
    output: Path
    workers: int
    paths: tuple[Path, ...]
    warmup: int
    duration_s: float


def masks_flow(
    runtime: Runtime,
    *,
    preprocess: Preprocess,
    output: Path,
    workers: int,
    contract: OutputContract | None = None,
) -> Flow:
    """What ``segdeploy predict`` does for masks alone: each image resized to the model's input.

    Args:
        runtime: with one image as input, one probability or mask as output.
        preprocess: its input contract.
        output: folder for the masks, which exists.
        workers: threads that decode and encode.
        contract: its output contract; ``None`` is one label.

    Raises:
        InputError: the model has other inputs or outputs.
    """
    interface = interface_of(runtime.inputs, runtime.outputs)
    job = Job(
        preprocess=preprocess,
        output=contract or OutputContract(),
        interface=interface,
        settings=Settings(),
    )
    return Flow(runtime, job=job, output=output, workers=workers)


def measure(
    flow: Flow,
    sources: Sequence[ImageSource],
    *,
    warmup: int,
    duration_s: float,
    progress: ShareProgress,
) -> EndToEnd:
    """Time the stages alone, then overlapped.

    Args:
        flow: a fresh one.
        sources: images. All are taken, and again from the first until ``duration_s`` have passed.
        warmup: images at the start that the rate leaves out, 1 or more.
        duration_s: shortest duration of the overlapped run.
        progress: told the share done, 0 to 1.

    Raises:
        InputError: an image cannot be read.
        RunError: the runtime failed.
    """
    alone = rates_alone(
        flow,
        sources[:FEW],
        seconds=min(ALONE_S, duration_s),
        alive=lambda: progress(0.0),
    )
    flow.start_over()
    needed = max(len(sources), warmup + MIN_IMAGES)
    began, began_processor_s = time.perf_counter(), time.process_time()

    def wanted() -> Iterator[ImageSource]:
        for taken, source in enumerate(cycle(sources)):
            spent = time.perf_counter() - began
            if taken >= needed and spent >= duration_s:
                return
            progress(min(taken / needed, spent / duration_s if duration_s else 1.0))
            yield source

    for outcome in flow.outcomes(wanted()):
        _require_done(outcome)
    processor_s = time.process_time() - began_processor_s
    decode_s, encode_s = flow.decode_processor_s, flow.encode_processor_s
    return EndToEnd(
        written_s=tuple(sorted(stamp - began for stamp in flow.written_at)),
        warmup=warmup,
        processor_s={
            "decode": decode_s,
            "inference": max(0.0, processor_s - decode_s - encode_s),
            "encode": encode_s,
        },
        alone_images_per_s=alone,
        most_at_once=flow.most_at_once,
        bound=flow.bound,
        peak_bytes=peak_bytes(),
    )


def rates_alone(
    flow: Flow,
    sources: Sequence[ImageSource],
    *,
    seconds: float,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Images a second of each stage when the others rest, on a few images over and over.

    Args:
        flow: a fresh one.
        sources: images.
        seconds: for each stage.
        alive: called now and then.

    Raises:
        InputError: an image cannot be read.
        RunError: the runtime failed.
    """
    groups = [sources[at : at + flow.batch] for at in range(0, len(sources), flow.batch)]

    def repeated(items: Sequence[T]) -> Iterator[T]:
        """Items over and over until the time is up; each at least once."""
        end = time.perf_counter() + seconds
        for taken, item in enumerate(cycle(items)):
            if taken >= len(items) and time.perf_counter() >= end:
                return
            yield item

    def in_turn() -> Iterator[Outcome]:
        for group in repeated(groups):
            yield from map(flow.finish, flow.answers(map(flow.read, group)))

    def told(results: Iterable[T]) -> Iterator[T]:
        for result in results:
            alive()
            yield result

    with partial_folder(flow.output), ThreadPoolExecutor(flow.workers) as pool:
        images = [_readable(item) for item in flow.mapped(pool, flow.read, sources)]
        answers = list(told(flow.answers(images)))
        return {
            "decode": _rate(lambda: told(flow.mapped(pool, flow.read, repeated(sources)))),
            "inference": _rate(lambda: told(flow.answers(repeated(images)))),
            "encode": _rate(lambda: told(flow.mapped(pool, flow.finish, repeated(answers)))),
            "in_turn": _rate(lambda: told(in_turn())),
        }


def _readable(item: Prepared | Outcome) -> Prepared:
    """An image that was decoded; figures are those of all images or of none."""
    if isinstance(item, Outcome):
        raise InputError(item.row.error or "an image cannot be read")
    return item


def _require_done(outcome: Outcome) -> None:
    """Refuse an image that was not taken all the way."""
    if outcome.row.status is Status.UNREADABLE:
        raise InputError(outcome.row.error or "an image cannot be read")
    if outcome.row.status is Status.FAILED:
        raise RunError(outcome.row.error or "the runtime failed")


def _rate(results: Callable[[], Iterable[object]]) -> float:
    """Results a second, from the start to the last one."""
    began = time.perf_counter()
    count = sum(1 for _ in results())
    return count / (time.perf_counter() - began)


def measure_here(task: Task, *, progress: ShareProgress) -> tuple[EndToEnd, Executed]:
    """Measure in this process, which did nothing before.

    Args:
        task: what to do.
        progress: told the share done, 0 to 1.

    Returns:
        The figures, and what the runtime executed.

    Raises:
        InputError: the runtime does not accept the file, or an image cannot be read.
        RunError: the runtime failed.
    """
    import_packages(task.subject)
    progress(0.0)
    with read_request(task.subject).open(task.execution) as runtime:
        progress(0.0)
        flow = masks_flow(
            runtime,
            preprocess=task.preprocess,
            output=task.output,
            workers=task.workers,
            contract=output_contract(task.subject),
        )
        measured = measure(
            flow,
            [ImageSource(path=str(path), name=path.stem) for path in task.paths],
            warmup=max(1, task.warmup * task.execution.batch),
            duration_s=task.duration_s,
            progress=progress,
        )
        executed = runtime.executed
        progress(1.0)
    return measured, executed
