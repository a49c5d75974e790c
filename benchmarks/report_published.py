"""What the source tables print for the two networks, shown beside a run for orientation."""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """The source tables at 96x96: IoU in percent, and the "GFLOPs" their calculator printed."""

    network: str
    fp32: float
    fp16: float
    int8: float
    gflops: float
    rule: str


PUBLISHED = {
    "unet_plus_plus": Published(
        network="UNet++",
        fp32=84.164,
        fp16=83.179,
        int8=83.052,
        gflops=10.897,
        rule="convolutions with bias, 2 per BatchNorm element, 11 per upsampled element",
    ),
    "r2u_net": Published(
        network="R2U-Net",
        fp32=77.443,
        fp16=77.421,
        int8=77.417,
        gflops=47.787,
        rule="convolutions without bias, 4 per BatchNorm element, 1 per upsampled element",
    ),
}
PUBLISHED_NOTE = (
    "The published figures come from another split of the data and other weights: they say what "
    "to expect of the network, and no difference to this run can be read from them."
)
PUBLISHED_COST_NOTE = (
    "a calculator's total, which counts more than multiply-adds, times 2 and divided by 0.9e9."
)
