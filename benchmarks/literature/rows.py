"""Published figures of the two networks, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from segdeploy.deploy.system.errors import InputError

NETWORKS = {"unet_plus_plus": "UNet++", "r2u_net": "R2U-Net"}
PRECISIONS = ("fp32", "fp16", "int8", "unstated")
"""Of a published IoU; ``unstated`` is on a device whose precision the source does not give."""

Text = Annotated[str, Meta(pattern=r"\S", description="text")]
Percent = Annotated[float, Meta(ge=1, le=100)]
"""A figure below it is a share where percent was meant."""
Figure = Annotated[float, Meta(ge=1e-3, le=1e7)]
Pixels = Annotated[int, Meta(ge=1)]


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

    title: Text
    url: Annotated[str, Meta(pattern="^https://", description="an https:// address")]
    where: Text


@dataclass(frozen=True, kw_only=True)
class PublishedIou:
    """IoU in percent; ``None`` is what the source does not state.

    Attributes:
        fp32: of the network as trained.
        fp16: in half precision.
        int8: quantized.
        unstated: on a device whose precision is not given.
    """

    fp32: Percent | None = None
    fp16: Percent | None = None
    int8: Percent | None = None
    unstated: Percent | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedSpeed:
    """One published timing: images a second with so many in one call."""

    device: Text
    batch: Annotated[int, Meta(ge=1, description="a whole number of images")]
    fps: Annotated[float, Meta(ge=1e-3, le=1e7, description="images a second")]


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
        iou: of each precision.
        speed: timings, in the order printed.
        note: what a reader should know.

    Raises:
        InputError: no figure at all.
    """

    name: Text
    arch: Literal["unet_plus_plus", "r2u_net"]
    variant: Text | None = None
    source: SourcePage
    dataset: Text
    size: Annotated[tuple[Pixels, Pixels], Meta(description="[height, width] in pixels")]
    parameters_m: Figure | None = None
    gflops: Figure | None = None
    iou: PublishedIou = PublishedIou()
    speed: tuple[PublishedSpeed, ...] = ()
    note: Text | None = None

    def __post_init__(self) -> None:
        if not any((self.parameters_m, self.gflops, self.iou != PublishedIou(), self.speed)):
            raise InputError("no figure; expected parameters_m, gflops, iou or speed")

    @property
    def network(self) -> str:
        """The network's usual name."""
        return NETWORKS[self.arch]

    @property
    def rule(self) -> str:
        """What the published "GFLOPs" of this architecture count, in words."""
        return PUBLISHED_RULES[self.arch].words()
