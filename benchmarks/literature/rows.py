"""Published figures of the two networks, each with its source."""

from __future__ import annotations

from dataclasses import dataclass

NETWORKS = {"unet_plus_plus": "UNet++", "r2u_net": "R2U-Net"}
PRECISIONS = ("fp32", "fp16", "int8", "unstated")
"""Of a published IoU; ``unstated`` is on a device whose precision the source does not give."""


@dataclass(frozen=True, kw_only=True)
class PublishedRule:
    """What the published figure counts besides convolutions, for each element."""

    per_bias: int
    per_batch_norm: int
    per_upsampled: int

    def words(self) -> str:
        """The rule for a reader.

        Example:
            >>> PublishedRule(per_bias=0, per_batch_norm=4, per_upsampled=1).words()
            'convolutions without bias, 4 per BatchNorm element, 1 per upsampled element'
        """
        bias = "with" if self.per_bias else "without"
        return (
            f"convolutions {bias} bias, {self.per_batch_norm} per BatchNorm element, "
            f"{self.per_upsampled} per upsampled element"
        )


PUBLISHED_RULES = {
    "r2u_net": PublishedRule(per_bias=0, per_batch_norm=4, per_upsampled=1),
    "unet_plus_plus": PublishedRule(per_bias=1, per_batch_norm=2, per_upsampled=11),
}
"""What the calculator behind the published "GFLOPs" counts, by architecture."""


@dataclass(frozen=True, kw_only=True)
class SourcePage:
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

    @property
    def network(self) -> str:
        """The network's usual name."""
        return NETWORKS[self.arch]

    @property
    def rule(self) -> str:
        """What the published "GFLOPs" of this architecture count, in words."""
        return PUBLISHED_RULES[self.arch].words()
