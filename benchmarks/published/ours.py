"""What a finished run measured, in the terms of the published tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segdeploy.benchmarks.literature.rows import NETWORKS
from segdeploy.benchmarks.report.rows import compared_rows, timed_rows
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


def our_rows(report: dict[str, Any], *, source: str) -> tuple[OurRow, ...]:
    """Read a report: one row for each runtime, in the order of its tables.

    Args:
        report: what ``report.schema.json`` describes.
        source: the file, for messages.

    Raises:
        InputError: the report is of another network, or lacks what the table needs.
    """
    try:
        arch = report["model"]["arch"]
        compared, timed = compared_rows(report), timed_rows(report)
        runtimes = dict.fromkeys(row["runtime"] for row in [*compared, *timed])
        rows = tuple(
            _row(
                report,
                runtime,
                [row for row in compared if row["runtime"] == runtime],
                [row for row in timed if row["runtime"] == runtime],
            )
            for runtime in runtimes
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{source} lacks what the table needs ({error!r}); "
            "benchmarks/report/report.schema.json describes a report, `segdeploy run` makes one"
        ) from error
    if arch not in NETWORKS:
        raise InputError(f"{source} is of network {arch!r}; expected {' or '.join(NETWORKS)}")
    return rows


def _row(
    report: dict[str, Any],
    runtime: str,
    compared: list[dict[str, Any]],
    timed: list[dict[str, Any]],
) -> OurRow:
    model, cost, data = report["model"], report["cost"], report["data"]["evaluation"]
    height, width = model["preprocess"]["size"]
    iou: dict[str, tuple[float, ...]] = {}
    for row in compared:
        precision = row["precision_requested"]
        iou[precision] = (*iou.get(precision, ()), row["scores"]["iou"])
    return OurRow(
        name=model["name"],
        arch=model["arch"],
        runtime=runtime,
        data=f"{data['root']} {data['split']}, {data['images']} images",
        size=(height, width),
        parameters=model["parameters"],
        macs=cost and cost["macs"],
        gflops_reproduced=cost and cost["published_gflops_reproduced"],
        iou=iou,
        speed=tuple(_speed(row) for row in timed),
        device=report["environment"]["cpu"] or "unknown processor",
    )


def _speed(row: dict[str, Any]) -> OurSpeed:
    return OurSpeed(
        candidate=row["name"],
        precision=row["precision_requested"],
        executed=row["precision_executed"],
        hint=row["hint"],
        batch=row["batch"],
        threads=row["threads"],
        streams=row["streams"],
        fps=row["images_per_s"],
    )
