"""Public key families: which network a state dict belongs to, told by its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.system.errors import InputError, one_line

SHOWN_KEYS = 6
"""How many keys of a kind an error message lists before it counts the rest."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types that weights are read from; float64 is rounded, the others are exact in float32."""

_NESTED_UNET_LAYER = {"conv1": "conv.0", "bn1": "conv.1", "conv2": "conv.3", "bn2": "conv.4"}
_NESTED_UNET_KEY = re.compile(r"^(conv\d_\d)\.(conv1|bn1|conv2|bn2)\.")


class Family(str, Enum):
    """Public projects whose state-dict keys are understood.

    ``SHARED`` are the networks that two projects have under the same keys.
    """

    UNET_ZOO = "UNET-ZOO"
    NESTED_UNET = "pytorch-nested-unet"
    IMAGE_SEGMENTATION = "LeeJunHyun Image_Segmentation"
    SHARED = "UNET-ZOO or LeeJunHyun Image_Segmentation"


FIRST_LAYERS = (
    "conv0_0.conv.0.weight",
    "conv0_0.conv1.weight",
    "RRCNN1.Conv_1x1.weight",
    "Conv1.conv.0.weight",
)
"""The weight of each family's first convolution, by which its networks are found in a file."""


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What the keys and shapes of a state dict tell.

    ``logits`` is whether the family's own network returns logits; ``None`` where two families
    share the same keys and differ in exactly this.
    """

    arch: Architecture
    family: Family
    in_channels: int
    num_classes: int
    width: int
    deep_supervision: bool
    logits: bool | None


def to_own_keys(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Family | None]:
    """Rename pytorch-nested-unet keys to ours; other keys pass unchanged.

    Returns:
        The state dict under our names, and the family; ``None`` if it looks like no known one.
    """
    if any(_NESTED_UNET_KEY.match(key) for key in tensors):
        return {
            _NESTED_UNET_KEY.sub(
                lambda match: f"{match[1]}.{_NESTED_UNET_LAYER[match[2]]}.", key
            ): value
            for key, value in tensors.items()
        }, Family.NESTED_UNET
    if any(key.startswith("conv0_0.conv.") for key in tensors):
        return dict(tensors), Family.UNET_ZOO
    if any(key.startswith(("RRCNN1.", "Up_RRCNN")) for key in tensors):
        gated = any(key.startswith("Att5.") for key in tensors)
        return dict(tensors), Family.IMAGE_SEGMENTATION if gated else Family.SHARED
    if any(key.startswith(("Conv1.conv.", "Up_conv5.conv.")) for key in tensors):
        gated = any(key.startswith("Att5.") for key in tensors)
        return dict(tensors), Family.SHARED if gated else Family.IMAGE_SEGMENTATION
    return dict(tensors), None


def detect(tensors: Mapping[str, Tensor], *, source: str) -> tuple[dict[str, Tensor], Detected]:
    """Tell the network from a state dict.

    Args:
        tensors: as ``state_dicts`` finds it.
        source: the file, for the error message.

    Returns:
        The state dict under our key names, and what was detected.

    Raises:
        InputError: the keys belong to no known family, or the first or last layer is missing.
    """
    own, family = to_own_keys(tensors)
    if family is None:
        raise InputError(
            f"{source} is neither R2U-Net nor UNet++ nor another known U-Net: its keys are "
            f"{shown(own)}; expected keys like RRCNN1.RCNN.0.conv.0.weight (R2U-Net), "
            "conv0_0.conv.0.weight or conv0_0.conv1.weight (UNet++), or Conv1.conv.0.weight (U-Net)"
        )
    arch = _architecture(own)
    deep_supervision = False
    if arch.recurrent:
        first, last = "RRCNN1.Conv_1x1.weight", "Conv_1x1.weight"
    elif arch in (Architecture.U_NET, Architecture.ATTENTION_U_NET):
        first, last = "Conv1.conv.0.weight", "Conv_1x1.weight"
    else:
        first = "conv0_0.conv.0.weight"
        deep_supervision = any(re.match(r"final\d\.", key) for key in own)
        last = "final4.weight" if deep_supervision else "final.weight"
    for key in (first, last):
        if key not in own or own[key].ndim != 4 or not own[key].numel():
            raise InputError(
                f"{source} looks like {family.value} {arch.value} but lacks the convolution weight "
                f"{key!r}; is the checkpoint complete?"
            )
    return own, Detected(
        arch=arch,
        family=family,
        in_channels=own[first].shape[1],
        num_classes=own[last].shape[0],
        width=own[first].shape[0],
        deep_supervision=deep_supervision,
        logits={
            Family.UNET_ZOO: False,
            Family.NESTED_UNET: True,
            Family.IMAGE_SEGMENTATION: True,
            Family.SHARED: None,
        }[family],
    )


def _architecture(own: Mapping[str, Tensor]) -> Architecture:
    """Which network keys of a known family are of."""

    def has(*starts: str) -> bool:
        return any(key.startswith(starts) for key in own)

    if any(re.match(r"conv\d_\d\.", key) for key in own):
        nested = has("conv0_1.", "conv1_1.", "conv0_2.") or not has("conv3_1.", "conv0_4.")
        return Architecture.UNET_PLUS_PLUS if nested else Architecture.U_NET_BILINEAR
    if has("RRCNN1.", "Up_RRCNN"):
        return Architecture.R2_ATTENTION_U_NET if has("Att5.") else Architecture.R2U_NET
    return Architecture.ATTENTION_U_NET if has("Att5.") else Architecture.U_NET


def describe_misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """What keeps a state dict from loading: missing and unexpected keys, shapes and types.

    Returns:
        One part for each kind, between semicolons, or ``None`` when it fits. BatchNorm's
        ``num_batches_tracked`` may be missing: it plays no part in evaluation.
    """
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = [key for key in expected if key not in found and key not in counters]
    unexpected = [key for key in found if key not in expected]
    differing = [
        f"{key} is {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in found and found[key].shape != expected[key].shape
    ]
    types = [
        f"{key} is {str(found[key].dtype).removeprefix('torch.')}, expected float64, float32, "
        "float16 or bfloat16"
        for key in expected
        if key in found and not _converts(found[key], expected[key])
    ]
    parts = [
        f"{len(keys)} {kind}: {shown(keys)}"
        for kind, keys in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("differing shapes", differing),
            ("differing types", types),
        )
        if keys
    ]
    return "; ".join(parts) or None


def _converts(found: Tensor, expected: Tensor) -> bool:
    """Whether a type says by itself what its values are: integers need a scale to be weights."""
    if expected.is_floating_point():
        return found.dtype in FLOATS
    return not found.is_complex()


def shown(keys: Iterable[object]) -> str:
    """The first few of many names, with a count of the rest."""
    names = list(keys)
    rest = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(one_line(name, limit=100) for name in names[:SHOWN_KEYS]) + rest
