"""Input contracts by name: what networks are commonly trained with."""

from __future__ import annotations

from dataclasses import replace

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.system.errors import UsageError

PRESETS: dict[str, Preprocess] = {
    "published": Preprocess(),
    "imagenet": Preprocess(
        channel_order="RGB", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "zero-one": Preprocess(channel_order="RGB", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "minus-one-one": Preprocess(channel_order="RGB"),
    "pixels": Preprocess(channel_order="RGB", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
}
"""Contract by name, at the size of the published models.

``published``: BGR, (x / 255 - 0.5) / 0.5. ``imagenet``: RGB, x / 255 and the mean and std of
torchvision's classifiers. ``zero-one`` and ``minus-one-one``: RGB, x / 255 in that range.
``pixels``: RGB, 0 to 255, for a network that normalises by itself.
"""


def preset(name: str, size: tuple[int, int]) -> Preprocess:
    """A contract by name, for a size.

    Example:
        >>> preset("zero-one", (64, 96)).size
        (64, 96)

    Args:
        name: one of ``PRESETS``.
        size: height and width of the network's input.

    Raises:
        UsageError: no such name; the message lists those there are.
        InputError: a size that no contract may have.
    """
    if name not in PRESETS:
        raise UsageError(
            f"preprocess {name!r} is neither a preset nor a file; choose from {', '.join(PRESETS)}"
        )
    return replace(PRESETS[name], size=size)
