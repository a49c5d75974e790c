"""Published figures of the two networks, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.benchmarks.published.rules import PUBLISHED_RULES

NETWORKS = {"unet_plus_plus": "UNet++", "r2u_net": "R2U-Net"}
PRECISIONS = ("fp32", "fp16", "int8", "unstated")
"""Of a published IoU; ``unstated`` is on a device whose precision the source does not give."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a row stands: the page, and the place on it."""

    title: str
    url: str
    where: str


@dataclass(frozen=True, kw_only=True)
class PublishedSpeed:
    """One published timing: images a second with so many in one call."""

    device: str
    batch: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row of a source; ``None`` is what the source does not state.

    Attributes:
        name: unique in the file.
        arch: key of ``NETWORKS``.
        variant: how the network differs from this project's.
        source: where every figure of the row stands.
        dataset: what it was evaluated on.
        size: (height, width) of the input.
        parameters_m: millions.
        gflops: as printed.
        fp32: IoU in percent of the network as trained.
        fp16: IoU in percent.
        int8: IoU in percent.
        unstated: IoU in percent on a device whose precision is not given.
        speed: timings, in the order printed.
        note: what a reader should know.
    """

    name: str
    arch: str
    variant: str | None
    source: Source
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

    @property
    def network(self) -> str:
        """The network's usual name."""
        return NETWORKS[self.arch]

    @property
    def rule(self) -> str:
        """What the published "GFLOPs" of this architecture count, in words."""
        return PUBLISHED_RULES[self.arch].words()
