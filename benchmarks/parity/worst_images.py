"""The images that lost most, as pictures: input, truth, both masks, and where they disagree."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdeploy.benchmarks.parity.answers import classes_of
from segdeploy.benchmarks.parity.records import ParityRow, ParitySection, PicturedImage
from segdeploy.benchmarks.speed.entries import Entry
from segdeploy.deploy.data.image_set import SegmentationSet, Truth
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.runtimes.base import Execution, Runtime, infer_in_turn
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S, open_isolated
from segdeploy.deploy.system.errors import RunError

log = logging.getLogger(__name__)

SHOWN = 6
"""Images that are shown."""

LONGEST_SIDE = 384
"""Pixels of a picture; larger images are reduced by a whole factor: a report stays small."""

LOST, GAINED = (214, 39, 40), (31, 119, 180)
"""Colours of disagreement: foreground that only the reference sees, and only the candidate."""

IGNORED = (128, 128, 128)
"""Colour of pixels that are of no class, or that count nowhere."""

GREY = 0.35
"""How bright the image stays under the colours."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An image to show, and the candidate that lost most on it, by name."""

    image: str
    candidate: str


def choose(rows: Iterable[ParityRow], count: int = SHOWN) -> list[Chosen]:
    """Which images to show, each with the candidate that lost most on it.

    Args:
        rows: of parity.
        count: how many at most.

    Returns:
        The largest loss first.
    """
    ranked = sorted(
        (
            (image.change, Chosen(image=image.name, candidate=row.name))
            for row in rows
            for image in row.worst_images
        ),
        key=lambda found: found[0],
    )
    chosen: dict[str, Chosen] = {}
    for _, found in ranked:
        chosen.setdefault(found.image, found)
    return list(chosen.values())[:count]


def worst_images(
    section: ParitySection,
    reference: Runtime,
    entries: Sequence[Entry],
    images: SegmentationSet,
    *,
    preprocess: Preprocess,
    output: OutputContract,
    execution: Execution,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[PicturedImage, ...]:
    """Draw the images that lost most; both models run on them once more.

    Args:
        section: what parity found.
        reference: an open runtime.
        entries: where the candidates come from.
        images: the evaluation set.
        preprocess: the input contract.
        output: the output contract.
        execution: how each entry runs.
        time_limit_s: longest time for loading an entry, and for each of its calls.

    Returns:
        The largest loss first; without those of a candidate whose runtime fails now.

    Raises:
        InputError: an image or a model cannot be read.
        RunError: the reference failed.
    """
    by_name = {entry.name: entry for entry in entries}
    chosen = [found for found in choose(section.rows) if found.candidate in by_name]
    samples = {sample.name: sample for sample in images}
    if not chosen:
        return ()
    shown = replace(images, samples=tuple(samples[found.image] for found in chosen))
    pictures, truths = shown.pictures(preprocess), shown.truths(preprocess, output)
    inputs = shown.inputs(preprocess)
    expected = [classes_of(found, output) for found in infer_in_turn(reference, inputs, output)]
    drawn: dict[int, Truth] = {}
    for name in dict.fromkeys(found.candidate for found in chosen):
        which = [index for index, found in enumerate(chosen) if found.candidate == name]
        entry = by_name[name]
        takes = interface_of(entry.artifact.inputs, entry.artifact.outputs)
        fed = shown.pixels(preprocess)[which] if takes is Interface.IMAGE else inputs[which]
        try:
            with open_isolated(
                entry.runtime, entry.artifact, execution=execution, time_limit_s=time_limit_s
            ) as runtime:
                found = infer_in_turn(runtime, fed, output)
                masks = [classes_of(each, output) for each in found]
        except RunError as error:
            log.warning("worst images of %s are not drawn: %s", name, error)
            continue
        drawn |= dict(zip(which, masks, strict=True))
    return tuple(
        pictured(image, pictures[i], truths[i], expected[i], drawn[i], output=output)
        for i, image in enumerate(chosen)
        if i in drawn
    )


def pictured(
    chosen: Chosen,
    image: NDArray[np.uint8],
    truth: Truth,
    reference: Truth,
    candidate: Truth,
    *,
    output: OutputContract = OutputContract(),  # noqa: B008 (frozen)
) -> PicturedImage:
    """The five pictures of one image.

    Args:
        chosen: which it is.
        image: uint8 (H, W, 3), RGB, as the network saw it.
        truth: as ``Sample.truth`` gives it.
        reference: likewise, the classes that the reference sees.
        candidate: likewise.
        output: the output contract.
    """
    return PicturedImage(
        name=chosen.image,
        candidate=chosen.candidate,
        input_png_base64=_png(_reduced(stretched(image))),
        truth_png_base64=_classes_png(truth, output),
        reference_png_base64=_classes_png(reference, output),
        candidate_png_base64=_classes_png(candidate, output),
        disagreement_png_base64=_png(disagreement(stretched(image), reference, candidate)),
    )


def stretched(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image from its darkest to its brightest value, so that a dim one can be seen.

    Example:
        >>> stretched(np.array([[[10, 10, 10], [60, 35, 10]]], np.uint8)).tolist()
        [[[0, 0, 0], [255, 128, 0]]]
    """
    low, high = int(image.min()), int(image.max())
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1))
    found: NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return found


def disagreement(image: NDArray[np.uint8], reference: Truth, candidate: Truth) -> NDArray[np.uint8]:
    """The dimmed image in grey with every pixel coloured whose class differs.

    Of one label in two colours: lost and gained. Of several classes in one.

    A picture that is reduced keeps the colour of every pixel that differs.
    """
    grey = np.repeat(image.mean(axis=2, keepdims=True) * GREY, 3, axis=2)
    drawn = _reduced(grey.astype(np.uint8))
    if reference.ndim == 3 or reference.dtype != np.bool_:
        differs = reference != candidate
        changed = [(differs.any(axis=0) if differs.ndim == 3 else differs, LOST)]
    else:
        changed = [(reference & ~candidate, LOST), (candidate & ~reference, GAINED)]
    for differs, colour in changed:
        drawn[_any(differs)] = colour
    return drawn


def _factor(shape: tuple[int, ...]) -> int:
    return -(-max(shape[:2]) // LONGEST_SIDE)


def _reduced(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(image).reduce(_factor(image.shape)))


def _any(mask: Mask) -> Mask:
    """True where any pixel of a block is."""
    factor = _factor(mask.shape)
    padded = np.pad(mask, [(0, -side % factor) for side in mask.shape])
    rows, columns = (side // factor for side in padded.shape)
    blocks = padded.reshape(rows, factor, columns, factor)
    return np.asarray(blocks.any(axis=(1, 3)), np.bool_)


def _classes_png(classes: Truth, output: OutputContract) -> str:
    """Black and white of one label, else each class in its colour; later labels lie on top."""
    if output.binary:
        return _mask_png(np.asarray(classes, np.bool_))
    factor = _factor(classes.shape[-2:])
    classes = classes[..., ::factor, ::factor]
    picture = np.full((*classes.shape[-2:], 3), IGNORED, np.uint8)
    for index, colour in enumerate(output.palette):
        picture[classes[index] if classes.ndim == 3 else classes == index] = colour
    return _png(picture)


def _mask_png(mask: Mask) -> str:
    return _png(_reduced(mask.astype(np.uint8) * np.uint8(255)), bits=1)


def _png(pixels: NDArray[np.uint8], *, bits: int = 8) -> str:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert("1", dither=Image.Dither.NONE) if bits == 1 else image).save(
        file, format="PNG", optimize=True
    )
    return base64.b64encode(file.getvalue()).decode("ascii")
