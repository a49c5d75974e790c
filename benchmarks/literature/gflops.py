"""The "GFLOPs" of the source tables, reproduced by the rule that explains them."""

from __future__ import annotations

from math import prod

from torch import nn

from segdeploy.benchmarks.literature.rows import PUBLISHED_RULES
from segdeploy.benchmarks.literature.torch_cost import torch_cost
from segdeploy.deploy.onnx_model.cost_formulas import FLOPS_PER_MAC, Shape
from segdeploy.deploy.system.errors import UsageError

PUBLISHED_INPUT: Shape = (1, 3, 96, 96)

PUBLISHED_DIVISOR = 0.9e9
"""The published "GFLOPs" are twice a calculator's total over this."""


def published_gflops(model: nn.Module, arch: str) -> float:
    """Reproduce the "GFLOPs" the source tables print, which are not the true ones.

    Twice a calculator's total over 0.9e9, at 1x3x96x96: the MACs of the convolutions plus, for each
    element, what ``PUBLISHED_RULES`` says of bias, BatchNorm and upsampling. The published
    R2U-Net gives 47.787, the published UNet++ with one head 10.897.

    Args:
        model: the network.
        arch: ``r2u_net`` or ``unet_plus_plus``.

    Raises:
        UsageError: no rule is known for ``arch``.
    """
    rule = PUBLISHED_RULES.get(arch)
    if rule is None:
        raise UsageError(
            f"no published figure for architecture {arch!r}; known: {', '.join(PUBLISHED_RULES)}"
        )
    cost = torch_cost(model, PUBLISHED_INPUT)
    total = cost.macs
    total += rule.per_bias * sum(prod(x.output_shape) for x in cost.layers if x.biased)
    total += rule.per_batch_norm * cost.elementwise.get("native_batch_norm", 0)
    total += rule.per_upsampled * sum(
        elements for op, elements in cost.elementwise.items() if op.startswith("upsample_")
    )
    return FLOPS_PER_MAC * total / PUBLISHED_DIVISOR
