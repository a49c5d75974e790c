"""What a finished run measured, in the terms of the published tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segdeploy.benchmarks.literature.rows import NETWORKS
from segdeploy.benchmarks.parity.records import ParityRow
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.rows import compared_rows, timed_rows
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.deploy.system.errors import InputError


@dataclass(frozen=True, kw_only=True)
class OurSpeed:
    """One timing of a run: ``precision`` is what the file asks for, ``fps`` images a second."""

    candidate: str
    precision: str
    executed: str | None
    hint: str
    batch: int
    threads: int
    streams: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class OurRow:
    """One runtime of one run.

    Attributes:
        name: of the run.
        arch: of its network.
        runtime: what executed.
        data: evaluation set, split and number of images.
        size: (height, width) of the input.
        parameters: of the checkpoint.
        macs: true multiply-adds of one forward pass; ``None`` where they were not counted.
        gflops_reproduced: the published count of the network, where it is the published one.
        iou: percent for each precision a file asks for, a value for each candidate.
        speed: timings, in the order measured.
        device: the processor.
    """

    name: str
    arch: str
    runtime: str
    data: str
    size: tuple[int, int]
    parameters: int
    macs: int | None
    gflops_reproduced: float | None
    iou: dict[str, tuple[float, ...]]
    speed: tuple[OurSpeed, ...]
    device: str


def our_rows(report: Report, *, source: str) -> tuple[OurRow, ...]:
    """One row for each runtime of a report, in the order of its tables.

    Args:
        report: of a finished run.
        source: the file, for messages.

    Raises:
        InputError: the report is of another network, or lacks what the table needs.
    """
    if report.model.arch not in NETWORKS:
        raise InputError(
            f"{source} is of network {report.model.arch!r}; expected {' or '.join(NETWORKS)}"
        )
    compared = [shown.row for shown in compared_rows(report.parity)]
    timed = timed_rows(report.benchmark)
    return tuple(
        _row(
            report,
            runtime,
            [row for row in compared if row.runtime == runtime],
            [row for row in timed if row.runtime == runtime],
            source=source,
        )
        for runtime in dict.fromkeys(row.runtime for row in [*compared, *timed])
    )


def _row(
    report: Report,
    runtime: str,
    compared: Sequence[ParityRow],
    timed: Sequence[BenchmarkRow],
    *,
    source: str,
) -> OurRow:
    model, cost, data = report.model, report.cost, report.data.evaluation
    if data is None:
        raise InputError(f"{source} lacks data.evaluation, the images that it was scored on")
    iou: dict[str, tuple[float, ...]] = {}
    for row in compared:
        if row.precision_requested:
            precision = row.precision_requested.value
            iou[precision] = (*iou.get(precision, ()), row.iou)
    return OurRow(
        name=model.name,
        arch=model.arch,
        runtime=runtime,
        data=f"{data.root} {data.split}, {data.images} images",
        size=_size(model.preprocess, source=source),
        parameters=model.parameters,
        macs=cost.macs if cost else None,
        gflops_reproduced=cost.published_gflops_reproduced if cost else None,
        iou=iou,
        speed=tuple(_speed(row) for row in timed),
        device=report.environment.cpu or "unknown processor",
    )


def _size(contract: dict[str, Any], *, source: str) -> tuple[int, int]:
    """(height, width) of the input contract.

    Raises:
        InputError: it states none.
    """
    size = contract.get("size")
    sides = size if isinstance(size, list) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InputError(
            f"{source} lacks what the table needs: model.preprocess.size is {size!r:.60}; expected "
            "[height, width]"
        )
    return sides[0], sides[1]


def _speed(row: BenchmarkRow) -> OurSpeed:
    return OurSpeed(
        candidate=row.name,
        precision=row.precision_requested.value,
        executed=row.precision_executed,
        hint=row.hint.value,
        batch=row.batch,
        threads=row.threads,
        streams=row.streams,
        fps=row.rate,
    )
