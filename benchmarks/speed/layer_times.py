"""Time per layer of every model that was timed, for the report."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.benchmarks.speed.records import LayerTime, LayerTimeRow, OperatorTime
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.executed import file_layers
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, call_isolated
from segdeploy.deploy.runtimes.layer_times import PROFILED_CALLS, WARMUP_CALLS, LayerTimes
from segdeploy.deploy.runtimes.registry import time_layers
from segdeploy.deploy.system.errors import SegdeployError
from segdeploy.deploy.system.shown_command import shown_text


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
    return LayerTimeRow(
        name=identity.name,
        file=entry.artifact.path.name,
        runtime=identity.runtime,
        batch=execution.batch,
        threads=execution.threads,
        calls=found.calls if found else None,
        layers=_times(entry, found) if found else None,
        others=(
            tuple(OperatorTime(op=op, times_us=times) for op, times in found.others.items())
            if found
            else None
        ),
        skipped=skipped,
    )


def _unfit(entry: Entry) -> str | None:
    takes_pixels = interface_of(entry.artifact.inputs, entry.artifact.outputs) is Interface.IMAGE
    return "takes 8-bit pixels; profile the file it was made from" if takes_pixels else None


def _times(entry: Entry, found: LayerTimes) -> tuple[LayerTime, ...]:
    macs = {layer.name: layer.macs for layer in file_layers(entry.artifact.path)}
    return tuple(
        LayerTime(name=name, macs=macs[name], times_us=times)
        for name, times in found.layers.items()
    )
