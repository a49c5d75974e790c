"""The calibration tools that are compared, each behind one function.

A tool's function imports the tool and returns what runs it, so that the time and memory of imports
can be told apart. Nothing is imported before: a process that runs one tool holds no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.peers.ranges import Range, activation_ranges
from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess

Feeds = dict[str, NDArray[np.float32]]


class Tool(str, Enum):
    """What is compared, in the order of the table."""

    OURS = "segdeploy-entropy"
    ORT_ENTROPY = "onnxruntime-entropy"
    ORT_MINMAX = "onnxruntime-minmax"
    NNCF = "nncf"
    ORT_SEARCH = "onnxruntime-entropy-2048"


STANDARD = (Tool.OURS, Tool.ORT_ENTROPY, Tool.ORT_MINMAX, Tool.NNCF)
"""Each tool as its users call it; ``ORT_SEARCH`` is what they cannot ask for."""

SEARCH_BINS = 2048
"""Bins with which ONNX Runtime's entropy search has candidates to compare; they span both signs."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every tool is given.

    Attributes:
        model: a float32 ONNX file with one input.
        input_name: of that input.
        samples: the calibration images, read and decoded one by one by every tool.
        preprocess: the model's input contract.
        threads: of the runtime, for the tools that let one choose.
        folder: for a tool's own files; one that quantizes by itself writes ``int8.onnx``.
    """

    model: Path
    input_name: str
    samples: tuple[Sample, ...]
    preprocess: Preprocess
    threads: int
    folder: Path

    def feeds(self, sample: Sample) -> Feeds:
        """The model's input for one image, decoded now: float32 (1, 3, height, width)."""
        return {self.input_name: sample.input(self.preprocess)[None]}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a tool made of a job.

    Attributes:
        ranges: tensor name to the lower and upper end of its range.
        candidates: thresholds its search compares for one tensor, at most; 0 without a search.
        seconds: of collection and search, where the tool does more than these; ``None`` where
            the call did nothing else.
    """

    ranges: dict[str, Range]
    candidates: int
    seconds: float | None = None


Run = Callable[[Job], Found]


def load(tool: Tool) -> Run:
    """Import a tool and return what runs it."""
    return _LOADERS[tool]()


def candidates_searched(collector: Any) -> int:
    """Thresholds that ONNX Runtime's entropy search compares for one tensor, at most.

    It tries the symmetric windows around the middle of the histogram that reach from half the
    quantized bins to half the bins on each side. The histogram starts with ``num_bins``; its
    actual size counts, because merging can add bins.

    Args:
        collector: an ``onnxruntime.quantization.calibrate.HistogramCollector`` that has collected.
    """
    fewest = collector.num_quantized_bins // 2
    sizes = [len(histogram[0]) for histogram in collector.histogram_dict.values()]
    return int(max(size // 2 - fewest + 1 for size in sizes))


def _ours() -> Run:
    from segdeploy.calibration.estimate import Method
    from segdeploy.deploy.onnx_model.file import describe
    from segdeploy.deploy.quantize.calibrate import calibrate

    def run(job: Job) -> Found:
        table = calibrate(
            describe(job.model),
            SegmentationSet(root=job.folder, split="calibration", samples=job.samples),
            preprocess=job.preprocess,
            method=Method.ENTROPY,
            threads=job.threads,
        )
        return Found(
            ranges={name: (found.min, found.max) for name, found in table.ranges.items()},
            candidates=max(found.candidates for found in table.ranges.values()),
        )

    return run


class _Reader:
    """The images for ONNX Runtime's calibrators, which ask for one at a time."""

    def __init__(self, job: Job) -> None:
        self._feeds: Iterator[Feeds] = map(job.feeds, job.samples)

    def get_next(self) -> Feeds | None:
        """The next image, or ``None`` after the last."""
        return next(self._feeds, None)


def _onnxruntime(method_name: str, **options: int) -> Run:
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    from segdeploy.deploy.targets.profiles import ORT_X86

    def run(job: Job) -> Found:
        calibrator = create_calibrator(
            job.model,
            sorted(ORT_X86.kernels.integers),
            augmented_model_path=str(job.folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method_name],
            extra_options=options,
        )
        calibrator.collect_data(_Reader(job))
        tensors = calibrator.compute_data()
        collector = getattr(calibrator, "collector", None)
        return Found(
            ranges={
                name: _with_zero(*(end.item() for end in data.range_value))
                for name, data in tensors.items()
            },
            candidates=candidates_searched(collector) if collector else 0,
        )

    return run


def _nncf() -> Run:
    import nncf
    import nncf.onnx.quantization.quantize_model
    import onnx
    from nncf.onnx.statistics.aggregator import ONNXStatisticsAggregator

    collect = ONNXStatisticsAggregator.collect_statistics
    spent: list[float] = []

    def timed(*arguments: Any) -> None:
        started = perf_counter()
        collect(*arguments)
        spent.append(perf_counter() - started)

    ONNXStatisticsAggregator.collect_statistics = timed

    def run(job: Job) -> Found:
        quantized = nncf.quantize(
            onnx.load(job.model),
            nncf.Dataset(job.samples, job.feeds),
            subset_size=len(job.samples),
        )
        onnx.save(quantized, job.folder / "int8.onnx")
        ranges = activation_ranges(quantized.graph)
        return Found(ranges=ranges, candidates=0, seconds=sum(spent))

    return run


def _with_zero(low: float, high: float) -> Range:
    """The range widened to include zero, as every quantizer does with it."""
    return min(low, 0.0), max(high, 0.0)


_LOADERS: dict[Tool, Callable[[], Run]] = {
    Tool.OURS: _ours,
    Tool.ORT_ENTROPY: lambda: _onnxruntime("Entropy"),
    Tool.ORT_MINMAX: lambda: _onnxruntime("MinMax"),
    Tool.NNCF: _nncf,
    Tool.ORT_SEARCH: lambda: _onnxruntime("Entropy", num_bins=SEARCH_BINS),
}
