"""Names under which servers offer the models of a package."""

from __future__ import annotations

from segdeploy.deploy.packaging.base import PackagedModel

IMAGE_ENDING = "-image"
"""Ends the name of a model that takes 8-bit images."""


def served_name(source: PackagedModel, *parts: str, inside: bool) -> str:
    """A model's name on a server, which is its folder's, too.

    Example:
        ``unet_plus_plus-int8-image``.

    Args:
        source: gives the network's name.
        parts: what tells the models of the package apart.
        inside: whether it takes images.
    """
    arch = source.metadata.get("arch", "model")
    return "-".join([arch, *parts]) + (IMAGE_ENDING if inside else "")
