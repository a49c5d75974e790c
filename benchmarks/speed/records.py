"""The speed section of a report: a row for each candidate and setting, and the time by layer.

A field with a default was added to ``report.json`` later: files of older versions lack it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from segdeploy.benchmarks.speed.entries import RowIdentity
from segdeploy.calibration.json_record import (
    Count,
    NotNegative,
    Percent,
    Positive,
    Share,
    Text,
    require_measured,
)
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.runtimes.execution import Hint

Microseconds = Annotated[tuple[NotNegative, ...], Meta(min_length=1)]
"""Raw samples, in the order measured."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How candidates were run.

    Attributes:
        hint: latency: one call at a time; throughput: every stream busy.
        batch: images of one call.
        threads: in all, shared by the streams.
        streams: calls at once.
    """

    hint: Hint
    batch: Positive
    threads: Positive
    streams: Positive


@dataclass(frozen=True, kw_only=True)
class Condition(Setting):
    """How quiet the machine was while the rows of one setting were timed.

    Attributes:
        other_cpu_percent: what other processes had of the processors this one may use; ``None``
            where not known.
        resolution_percent: smallest difference of times that means something: the largest half of
            the 95 % intervals of the rows' ratios to the fastest, round by round; ``None`` where
            there are not two rows.
    """

    other_cpu_percent: Percent | None
    resolution_percent: NotNegative | None


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow(RowIdentity, Setting):
    """One candidate with one setting.

    Attributes:
        precision_executed: what really ran, in words.
        int8_mac_share: share of the multiply-adds that ran in int8, 0 to 1; ``None`` where unknown.
        float_layers: layers of an int8 file that did not run in int8, by name.
        p50_ms: percentiles of the wall time of one call of the whole batch; latency only.
        images_per_s: latency: images over time spent in calls. Throughput: images completed over
            wall time.
        speedup: times the speed of PyTorch eager with the same setting: by p50_ms, for throughput
            by images_per_s.
        noise_percent: spread between repetitions; a difference below it means nothing.
        load_s: from the model file to a runtime that is ready, in a fresh process, imports left
            out.
        first_inference_s: first call of a whole batch in that process.
        peak_bytes: largest resident memory of that process, every stream busy.
        imports_bytes: of peak_bytes, what the process held before it opened the file.
        latencies_s: raw samples in seconds, in the order measured; latency only.
        completions_s: when each result came, in seconds since its slice began, slice by slice;
            throughput only.
        skipped: why the row was not measured.
        failed: the runtime crashed, hung or failed, and skipped holds the reason. Always false in
            older reports.

    Raises:
        ValueError: a measured row without a rate, or a skipped one with one.
    """

    measured: ClassVar = ("images_per_s",)

    precision_requested: Precision
    precision_executed: Text | None
    int8_mac_share: Share | None
    float_layers: tuple[Text, ...] | None
    file_bytes: Count | None
    p50_ms: NotNegative | None
    p90_ms: NotNegative | None
    p99_ms: NotNegative | None
    images_per_s: NotNegative | None
    speedup: NotNegative | None
    noise_percent: NotNegative | None
    load_s: NotNegative | None
    first_inference_s: NotNegative | None
    peak_bytes: Count | None
    imports_bytes: Count | None
    latencies_s: tuple[NotNegative, ...] | None
    completions_s: tuple[Annotated[tuple[NotNegative, ...], Meta(min_length=1)], ...] | None
    skipped: Text | None
    failed: bool = False

    def __post_init__(self) -> None:
        require_measured(self, self.measured)

    @property
    def rate(self) -> float:
        """Images a second of a measured row.

        Raises:
            ValueError: the row was skipped.
        """
        if self.images_per_s is None:
            raise ValueError(f"{self.name} was not measured: {self.skipped}")
        return self.images_per_s


@dataclass(frozen=True, kw_only=True)
class BenchmarkSection:
    """Every candidate with every setting, those of one setting in turns.

    Attributes:
        duration_s: seconds for each row.
        warmup: calls before the first measured one.
        conditions: how quiet the machine was, one for each setting; empty in older reports.
    """

    duration_s: NotNegative
    warmup: Count
    conditions: tuple[Condition, ...] = ()
    rows: tuple[BenchmarkRow, ...]


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """A convolution or matrix product.

    Attributes:
        macs: for one image.
        times_us: of each call; ``None`` where the runtime does not show the layer.
    """

    name: Text
    macs: Count
    times_us: Microseconds | None


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """Everything of one kind that ran and is no layer.

    Attributes:
        op: the runtime's own operator.
        times_us: of each call.
    """

    op: Text
    times_us: Microseconds


@dataclass(frozen=True, kw_only=True)
class LayerTimeRow:
    """Where one runtime spends the time of a call, from its own profiler.

    Attributes:
        calls: how many were profiled.
        layers: convolutions and matrix products, in the order of the file. A profiled call is
            slower than one of the benchmark.
        others: everything else that ran, by the runtime's own operator.
        skipped: why there are no times.
        faults: layers whose time was not believed, and why; they have none, and it is in others.
            Empty in older reports.

    Raises:
        ValueError: a profiled row without times, or a skipped one with some.
    """

    measured: ClassVar = ("layers", "others")

    name: Text
    file: Text
    runtime: Text
    batch: Positive
    threads: Positive
    calls: Count | None
    layers: tuple[LayerTime, ...] | None
    others: tuple[OperatorTime, ...] | None
    skipped: Text | None
    faults: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        require_measured(self, self.measured)


@dataclass(frozen=True, kw_only=True)
class EndToEndRow(RowIdentity, Setting):
    """One candidate from image files to mask files; figures are ``None`` where it was skipped.

    Attributes:
        precision_executed: what really ran, in words.
        int8_mac_share: share of the multiply-adds that ran in int8, 0 to 1; ``None`` where unknown.
        masks: how many were written.
        warmup_masks: those at the start that the rate leaves out.
        images_per_s: masks written after the warm-up over the time they took.
        alone_images_per_s: rate of each stage when it has the machine to itself, and ``in_turn``
            that of one batch after the other, without overlap.
        processor_share: share of the processor time that each stage took, 0 to 1.
        most_at_once: images held at once, at most.
        bound: how many the flow allows.
        peak_bytes: largest resident memory of the process.
        written_s: when each mask was written, in seconds since the start, rising.
        skipped: why the row was not measured.
        failed: the runtime crashed, hung or failed, and skipped holds the reason.

    Raises:
        ValueError: a measured row without figures, or a skipped one with some.
    """

    measured: ClassVar = ("images_per_s", "alone_images_per_s", "processor_share", "written_s")

    file_bytes: Count | None
    precision_executed: Text | None = None
    int8_mac_share: Share | None = None
    masks: Count | None = None
    warmup_masks: Count | None = None
    images_per_s: NotNegative | None = None
    alone_images_per_s: dict[str, float] | None = None
    processor_share: dict[str, float] | None = None
    most_at_once: Count | None = None
    bound: Count | None = None
    peak_bytes: Count | None = None
    written_s: tuple[NotNegative, ...] | None = None
    skipped: Text | None = None
    failed: bool = False

    def __post_init__(self) -> None:
        require_measured(self, self.measured)


@dataclass(frozen=True, kw_only=True)
class EndToEndSection:
    """Every image of a folder through every candidate with every setting.

    Attributes:
        images: in the folder.
    """

    images: Count
    rows: tuple[EndToEndRow, ...]
