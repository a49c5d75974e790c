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

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts commonly nest the state dict."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""What DataParallel, torch.compile and wrapper modules put in front of every key."""

PREFIX_ROUNDS = 4
"""How often each prefix is looked for: wrappers in wrappers, but not without end."""

SHOWN_KEYS = 6
"""How many keys of a kind an error message lists before it counts the rest."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types that weights are read from; float64 is rounded, the others are exact in float32."""

_NESTED_UNET_LAYER = {"conv1": "conv.0", "bn1": "conv.1", "conv2": "conv.3", "bn2": "conv.4"}
_NESTED_UNET_KEY = re.compile(r"^(conv\d_\d)\.(conv1|bn1|conv2|bn2)\.")


class Family(str, Enum):
    """Public projects whose state-dict keys are understood."""

    UNET_ZOO = "UNET-ZOO"
    NESTED_UNET = "pytorch-nested-unet"
    R2U_NET = "UNET-ZOO or LeeJunHyun Image_Segmentation"


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


def unwrap(loaded: object, *, source: str) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint file holds and strip common key prefixes.

    Raises:
        InputError: there is no mapping from names to tensors.
    """
    for _ in range(2):
        if not isinstance(loaded, Mapping):
            break
        for wrapper in WRAPPERS:
            if isinstance(loaded.get(wrapper), Mapping):
                loaded = loaded[wrapper]
                break
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{source} holds a {type(loaded).__name__}, not a state dict; save the weights with "
            "torch.save(model.state_dict(), path)"
        )
    # A key that is no text is named by its type: it can be anything, its own words endless.
    names = (key if isinstance(key, str) else type(key).__name__ for key in loaded)
    tensors = {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        found = "tensors under keys that are no text" if tensors else "no tensors"
        raise InputError(
            f"{source} holds {found} (its keys: {shown(names)}); "
            "save the weights with torch.save(model.state_dict(), path)"
        )
    for _ in range(PREFIX_ROUNDS):
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in tensors):
                tensors = {key[len(prefix) :]: value for key, value in tensors.items()}
    return tensors


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
        return dict(tensors), Family.R2U_NET
    return dict(tensors), None


def detect(tensors: Mapping[str, Tensor], *, source: str) -> tuple[dict[str, Tensor], Detected]:
    """Tell the network from a state dict.

    Args:
        tensors: as ``unwrap`` returns it.
        source: the file, for the error message.

    Returns:
        The state dict under our key names, and what was detected.

    Raises:
        InputError: the keys belong to no known family, or the first or last layer is missing.
    """
    own, family = to_own_keys(tensors)
    if family is None:
        raise InputError(
            f"{source} is neither R2U-Net nor UNet++: its keys are {shown(own)}; expected keys "
            "like RRCNN1.RCNN.0.conv.0.weight (R2U-Net) or conv0_0.conv.0.weight or "
            "conv0_0.conv1.weight (UNet++)"
        )
    if family is Family.R2U_NET:
        arch, first, last = Architecture.R2U_NET, "RRCNN1.Conv_1x1.weight", "Conv_1x1.weight"
        deep_supervision = False
    else:
        arch, first = Architecture.UNET_PLUS_PLUS, "conv0_0.conv.0.weight"
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
        logits={Family.UNET_ZOO: False, Family.NESTED_UNET: True, Family.R2U_NET: None}[family],
    )


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
