"""The forms of a model that a package holds: batch dynamic or fixed, and their names."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from segdeploy.deploy.data.preprocess import BANDS, GREY, Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, TensorSpec
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.rewrites.image_interface import require_one_class_a_pixel
from segdeploy.deploy.system.errors import InputError

IMAGE_ENDING = "-image"
"""Ends the name of a model that takes 8-bit images."""


def fixed_batch(request: Request) -> int | None:
    """The batch of a device that sees only one; ``None`` leaves the models' batch dynamic.

    Example:
        Batches 4 4 4 are batch 4, batches 1 1 8 are dynamic.

    Raises:
        InputError: a model whose own batch is fixed to another, or of another size than its
            contract's.
    """
    low, _, high = request.batches
    batch = high if low == high else None
    for source in request.sources:
        _require_batch(source.artifact, batch)
        _require_size(source)
    return batch


def insides(source: PackagedModel, wanted: Preprocessing, *, mask: bool) -> list[bool]:
    """For each form of a model to write, whether it takes 8-bit images.

    Args:
        source: the model.
        wanted: which forms.
        mask: whether the form that takes images gives one class a pixel, which labels that may
            overlap have not: of these only the other form is written.

    Raises:
        InputError: the file takes images, and only models that take tensors are wanted; or there
            is no other form.
    """
    if source.interface is Interface.IMAGE:
        if not wanted.inside:
            raise InputError(
                f"{source.artifact.path} takes 8-bit images, and nothing takes its preprocessing "
                "out again; give the file it was made from"
            )
        return [True]
    if wanted.inside and not source.preprocess.eight_bit:
        if not wanted.outside:
            raise InputError(
                f"{source.artifact.path} takes levels of {source.preprocess.source_bits} bits in a "
                "range, and no model that takes 8-bit images is made of it; leave --preprocessing "
                "out"
            )
        return [False]
    if mask and wanted.inside and source.output.overlapping:
        if not wanted.outside:
            require_one_class_a_pixel(source.output)
        return [False]
    return [inside for inside in (False, True) if (wanted.inside if inside else wanted.outside)]


def images_words(contract: Preprocess) -> str:
    """What a model takes that does all but decode and resize.

    Example:
        >>> images_words(Preprocess())
        '8-bit RGB images'
    """
    kinds = {GREY: "8-bit grey images", BANDS: f"8-bit images of {contract.channels} bands"}
    return kinds.get(contract.channel_order, "8-bit RGB images")


def with_batch(model: onnx.ModelProto, batch: int | None) -> onnx.ModelProto:
    """A copy of a model with its batch axis fixed; for ``None`` as it is.

    Args:
        model: not changed; its batch is dynamic, or this.
        batch: the first axis of every input and output.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    if batch is not None:
        for value in [*changed.graph.input, *changed.graph.output]:
            value.type.tensor_type.shape.dim[0].dim_value = batch
        del changed.graph.value_info[:]  # they state the batch that was
    return changed


def sides(spec: TensorSpec) -> list[int]:
    """A shape as servers write it: -1 for a dynamic axis.

    Example:
        >>> sides(TensorSpec(name="image", shape=("batch", 3, 96, 96), dtype="float32"))
        [-1, 3, 96, 96]
    """
    return [side if isinstance(side, int) else -1 for side in spec.shape]


def served_name(source: PackagedModel, *parts: str, inside: bool) -> str:
    """A model's name on a server, which is its folder's, too.

    Example:
        ``unet_plus_plus-int8-image``.

    Args:
        source: gives the network's name.
        parts: what tells the models of the package apart.
        inside: whether it takes images.
    """
    return "-".join([source.network, *parts]) + (IMAGE_ENDING if inside else "")


def require_unique(names: Sequence[str]) -> None:
    """Refuse names that would write one model over another.

    Raises:
        InputError: naming the first that comes twice.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InputError(f"two models here would be called {name!r}; give one of them")


def _require_batch(artifact: Artifact, batch: int | None) -> None:
    """A file whose batch is fixed may hold constants that depend on it, so it stays fixed."""
    found = artifact.inputs[0].shape[0]
    if isinstance(found, int) and found != batch:
        wanted = "a dynamic one" if batch is None else f"batch {batch}"
        raise InputError(
            f"{artifact.path} has its batch fixed to {found}; the package was asked for {wanted}. "
            f"Export the model again, or say --batch {found}"
        )


def _require_size(source: PackagedModel) -> None:
    shape = source.artifact.inputs[0].shape
    found = shape[1:3] if source.artifact.inputs[0].dtype == "uint8" else shape[2:]
    if tuple(found) != source.preprocess.size:
        raise InputError(
            f"{source.artifact.path} takes images of {found}, its input contract says "
            f"{source.preprocess.size} (height, width); export the model again with that contract"
        )
