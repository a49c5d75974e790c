"""Input contracts by name: what networks are commonly trained with, and what projects do."""

from __future__ import annotations

from dataclasses import replace

from segdeploy.deploy.data.preprocess import BANDS, GREY, RGB, Preprocess
from segdeploy.deploy.data.resizing import Size
from segdeploy.deploy.system.errors import InputError, UsageError

PRESETS: dict[str, Preprocess] = {
    "published": Preprocess(),
    "imagenet": Preprocess(
        channel_order=RGB, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "zero-one": Preprocess(channel_order=RGB, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "minus-one-one": Preprocess(channel_order=RGB),
    "pixels": Preprocess(channel_order=RGB, scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "unet-zoo": Preprocess(),
    "leejunhyun": Preprocess(size=(256, 256), channel_order=RGB, antialias=True),
    "4uiiurz1": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)),
}
"""Contract by name, at the size its project trains at where it states one.

``published``: BGR, (x / 255 - 0.5) / 0.5. ``imagenet``: RGB, x / 255 and the mean and std of
torchvision's classifiers. ``zero-one`` and ``minus-one-one``: RGB, x / 255 in that range.
``pixels``: RGB, 0 to 255, for a network that normalises by itself. The last three are what the
public projects of ``deploy.models.conventions`` do, read from their sources there.
"""

ANY_CHANNELS = ("zero-one", "minus-one-one", "pixels")
"""Presets that treat every channel alike, and so fit any number of them."""


def preset(name: str, size: Size | None = None, *, channels: int = 3) -> Preprocess:
    """A contract by name, for a size and a number of channels.

    Example:
        >>> preset("zero-one", (64, 96)).size
        (64, 96)
        >>> preset("zero-one", channels=1).channel_order
        'GREY'

    Args:
        name: one of ``PRESETS``.
        size: height and width of the network's input; ``None`` takes the preset's own.
        channels: of the network's input.

    Raises:
        UsageError: no such name; the message lists those there are.
        InputError: a size that no contract may have, or values for another number of channels.
    """
    if name not in PRESETS:
        raise UsageError(
            f"preprocess {name!r} is neither a preset nor a file; choose from {', '.join(PRESETS)}"
        )
    found = PRESETS[name]
    if size is not None:
        found = replace(found, size=size)
    if channels == found.channels:
        return found
    found = replace(
        found,
        channel_order=GREY if channels == 1 else BANDS,
        mean=found.mean[:1] * channels,
        std=found.std[:1] * channels,
    )
    if name not in ANY_CHANNELS:
        raise InputError(
            f"preprocess {name!r} has values for 3 channels, the network takes {channels}; choose "
            f"from {', '.join(ANY_CHANNELS)}, or state them in a file like {found.to_json()}"
        )
    return found
