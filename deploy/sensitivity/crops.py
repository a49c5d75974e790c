"""Layers of large images are compared on a crop of each, so that neither memory nor time grows.

What int8 costs at a layer is a share of its signal, alike all over an image. All activations of the
float and of the int8 model are held at a time, so a side is halved until those of one fit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import onnx

from segdeploy.deploy.onnx_model.activation_memory import activation_memory
from segdeploy.deploy.onnx_model.shapes import fixed_input, infer_shapes
from segdeploy.deploy.rewrites.any_size import any_size
from segdeploy.deploy.sensitivity.parts import Values
from segdeploy.deploy.system.errors import InputError

log = logging.getLogger(__name__)

MOST_BYTES = 400 << 20
"""Activations of the float model on one image, at most: UNet++ has 84 MB of them at 96x96 and
2,391 MB at 512x512, R2U-Net 184 and 5,222 MB."""


def cropped(
    models: tuple[onnx.ModelProto, onnx.ModelProto],
    images: Sequence[Values],
    *,
    most_bytes: int = MOST_BYTES,
) -> tuple[tuple[onnx.ModelProto, onnx.ModelProto], Sequence[Values]]:
    """Both models for smaller images, and the middle of each image; what was given if that fits.

    Args:
        models: the float and the int8 model, not modified.
        images: (C, H, W), all of one size.
        most_bytes: activations of the float model on one image, at most.

    Returns:
        Models whose height and width are open, and crops; or the models and images themselves,
        where they fit or where a model may fix the size.
    """
    whole = (int(images[0].shape[-2]), int(images[0].shape[-1]))
    try:
        if activation_memory(models[0], size=whole).all <= most_bytes:
            return models, images
        freed = (any_size(models[0]).model, any_size(models[1]).model)
    except InputError:
        return models, images
    size = whole
    while activation_memory(freed[0], size=size).all > most_bytes:
        smaller = next((s for s in _halved(size) if _keeps_size(freed[0], s)), None)
        if smaller is None:
            break
        size = smaller
    if size == whole:
        return models, images
    top, left = ((side - kept) // 2 for side, kept in zip(whole, size, strict=True))
    log.info("layers are compared on the middle %dx%d of each %dx%d image", *size, *whole)
    return freed, [image[:, top : top + size[0], left : left + size[1]] for image in images]


def _halved(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Half of the longer side, else of the other; of those that can be halved."""
    height, width = size
    halves = [(height // 2, width)] if height > 1 and height % 2 == 0 else []
    halves += [(height, width // 2)] if width > 1 and width % 2 == 0 else []
    return sorted(halves, key=max)


def _keeps_size(model: onnx.ModelProto, size: tuple[int, int]) -> bool:
    """Whether the model's output has the size of its input, as its poolings may not divide it."""
    try:
        shapes = infer_shapes(
            model, [fixed_input(value, size) for value in model.graph.input], strict=True
        )
        return shapes[model.graph.output[0].name][-2:] == size
    except InputError:
        return False
