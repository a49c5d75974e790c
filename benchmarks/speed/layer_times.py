"""Time per layer of every model that was timed, for the report."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.records import LayerTime, LayerTimeRow, OperatorTime
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.executed import file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, call_isolated
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, LayerTimes
from segdeploy.deploy.runtimes.peak import most_macs_per_s
from segdeploy.deploy.runtimes.registry import time_layers
from segdeploy.deploy.system.errors import SegdeployError
from segdeploy.deploy.system.isa import processor
from segdeploy.deploy.system.shown_command import shown_text

FP32 = Precision.FP32

MICROSECOND = 1e-6

NOT_BELIEVED = "layers whose time is not theirs"
"""Among everything else, where a layer's time is beyond what the processor can do."""


def layer_time_section(
    entries: Iterable[Entry],
    *,
    images: NDArray[np.float32],
    execution: Execution,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[LayerTimeRow, ...]:
    """Profile a few calls of each entry.

    Args:
        entries: what to profile.
        images: real images, float32 (N, 3, H, W); the first ``execution.batch`` are taken.
        execution: how each runs.
        time_limit_s: longest time for loading a model, and for each call.

    Returns:
        One row for each entry. A runtime that
        cannot be profiled, or crashes when it is, is a skipped row with its reason.
    """
    feeds = np.ascontiguousarray(images[: execution.batch])
    return tuple(_row(entry, feeds, execution, time_limit_s) for entry in entries)


def _row(
    entry: Entry, feeds: NDArray[np.float32], execution: Execution, time_limit_s: float
) -> LayerTimeRow:
    try:
        skipped = entry.skipped or _unfit(entry)
        found = None
        if skipped is None:
            inputs = {entry.artifact.inputs[0].name: feeds}
            found = call_isolated(
                partial(
                    time_layers, entry.runtime, entry.artifact, execution=execution, feeds=inputs
                ),
                limit_s=time_limit_s * (1 + WARMUP_CALLS + PROFILED_CALLS),
                doing="in profiling",
            )
    except SegdeployError as error:  # a report without this table is worth having
        found, skipped = None, shown_text(str(error), entry.artifact.path)
    identity = entry.identity()
    layers, others, faults = _believed(entry, found, execution) if found else (None, None, ())
    return LayerTimeRow(
        name=identity.name,
        file=entry.artifact.path.name,
        runtime=identity.runtime,
        batch=execution.batch,
        threads=execution.threads,
        calls=found.calls if found else None,
        layers=layers,
        others=others,
        faults=faults,
        skipped=skipped,
    )


def _unfit(entry: Entry) -> str | None:
    takes_pixels = interface_of(entry.artifact.inputs, entry.artifact.outputs) is Interface.IMAGE
    return "takes 8-bit pixels; profile the file it was made from" if takes_pixels else None


def _believed(
    entry: Entry, found: LayerTimes, execution: Execution
) -> tuple[tuple[LayerTime, ...], tuple[OperatorTime, ...], tuple[str, ...]]:
    """Layers with times that this processor can have, everything else, and what it cannot."""
    bound = most_macs_per_s(
        execution.precision if entry.artifact.precision is FP32 else entry.artifact.precision,
        threads=execution.threads,
        machine=platform.machine(),
        isa=processor()[1],
    )
    macs = {layer.name: layer.macs for layer in file_layers(entry.artifact.path)}
    layers, faults = [], []
    others = dict(found.others)
    for name, times in found.layers.items():
        rate = _rate(macs[name] * execution.batch, times)
        fault = beyond(name, rate, bound)
        if fault is not None and times is not None:
            faults.append(fault)
            before = others.get(NOT_BELIEVED, (0.0,) * len(times))
            others[NOT_BELIEVED] = tuple(map(sum, zip(before, times, strict=True)))
        layers.append(LayerTime(name=name, macs=macs[name], times_us=None if fault else times))
    listed = (OperatorTime(op=op, times_us=times) for op, times in sorted(others.items()))
    return tuple(layers), tuple(listed), tuple(faults)


def _rate(macs: int, times_us: Sequence[float] | None) -> float | None:
    """Multiply-adds in a second; ``None`` where no time is known or none is told."""
    middle = median(times_us) if times_us else 0.0
    return macs / (middle * MICROSECOND) if middle else None


def beyond(name: str, rate: float | None, bound: float | None) -> str | None:
    """What is wrong with a rate, in words.

    Example:
        >>> beyond("conv1", 576e9, 416e9)
        'conv1: 576 GMAC/s, beyond the 416 of this processor; its time is that of another layer'

    Args:
        name: of the layer.
        rate: multiply-adds in a second; ``None`` where not known.
        bound: what the processor can do; ``None`` where not known.
    """
    if rate is None or bound is None or rate <= bound:
        return None
    return (
        f"{name}: {rate / 1e9:.0f} GMAC/s, beyond the {bound / 1e9:.0f} of this processor; its "
        "time is that of another layer"
    )
