"""Published rows and those of finished runs as one result, with what the networks truly cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from segdeploy.benchmarks.literature.rows import PublishedRow, PublishedSpeed, SourcePage
from segdeploy.benchmarks.published.ours import OurRow

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class CountedRow:
    """A published row, the IoU of each precision beside its other figures, and what was counted.

    Attributes:
        macs: true multiply-adds at the row's input size.
        gflops_reproduced: what its source's calculator would print; ``None`` where it printed
            nothing, or for another size.
    """

    name: str
    arch: str
    variant: str | None
    source: SourcePage
    dataset: str
    size: tuple[int, int]
    parameters_m: float | None
    gflops: float | None
    fp32: float | None
    fp16: float | None
    int8: float | None
    unstated: float | None
    speed: tuple[PublishedSpeed, ...]
    note: str | None
    macs: int
    gflops_reproduced: float | None


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What ``python -m segdeploy.benchmarks.published`` found; ``command`` makes it again."""

    schema_version: int
    command: str
    published: tuple[CountedRow, ...]
    ours: tuple[OurRow, ...]


def beside(published: Sequence[PublishedRow], ours: Sequence[OurRow], *, command: str) -> Beside:
    """Put both sides together, and count what the published networks truly cost.

    Args:
        published: rows of the data file.
        ours: rows of finished runs.
        command: what makes the table again.
    """
    return Beside(
        schema_version=SCHEMA_VERSION,
        command=command,
        published=tuple(_with_costs(row) for row in published),
        ours=tuple(ours),
    )


def _with_costs(row: PublishedRow) -> CountedRow:
    macs, gflops = _counted(row.arch, row.size)
    return CountedRow(
        name=row.name,
        arch=row.arch,
        variant=row.variant,
        source=row.source,
        dataset=row.dataset,
        size=row.size,
        parameters_m=row.parameters_m,
        gflops=row.gflops,
        fp32=row.iou.fp32,
        fp16=row.iou.fp16,
        int8=row.iou.int8,
        unstated=row.iou.unstated,
        speed=row.speed,
        note=row.note,
        macs=macs,
        gflops_reproduced=None if row.gflops is None else gflops,
    )


@cache
def _counted(arch: str, size: tuple[int, int]) -> tuple[int, float | None]:
    """True multiply-adds at an input size; the published count where it is the size of that."""
    from segdeploy.benchmarks.literature.gflops import PUBLISHED_INPUT, published_gflops
    from segdeploy.benchmarks.literature.torch_cost import torch_cost
    from segdeploy.deploy.models.architecture import Architecture
    from segdeploy.deploy.models.networks import build_network

    network = build_network(Architecture(arch), deep_supervision=False)
    macs = torch_cost(network, (1, 3, *size)).macs
    return macs, published_gflops(network, arch) if size == PUBLISHED_INPUT[2:] else None
