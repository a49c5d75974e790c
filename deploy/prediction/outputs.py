"""From the probabilities of one image to the bytes of the files that are written for it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segdeploy.deploy.data.output_contract import Colour, OutputContract
from segdeploy.deploy.prediction.settings import Write
from segdeploy.deploy.system.errors import RunError

COMPRESSION = 1
"""zlib level of the PNG files: two values compress well at any level, and 1 is the fastest."""

NEIGHBOURS = np.ones((3, 3), np.bool_)
"""Objects hang together over sides and corners."""

TINT = (255, 200, 0)
"""Amber: told apart from dark fluorescence and from stained tissue."""

TINT_PARTS = (1, 3)
"""Of a foreground pixel of an overlay: parts of the tint, and of the image."""

MOST_LABELS = 65535

BACKGROUND = 0
"""Index of the class that is no object, where classes exclude each other."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a model found in one image, at the image's size.

    Attributes:
        probability: float32 (classes, H, W), 0 to 1.
        output: what the classes are.
        members: bool (classes, H, W), which pixels belong to which; of classes that exclude each
            other the first, which is the background, to none.
    """

    probability: NDArray[np.float32]
    output: OutputContract
    members: NDArray[np.bool_]

    @classmethod
    def of(cls, probability: NDArray[np.float32], output: OutputContract | None = None) -> Finding:
        """Cut probabilities into classes.

        Example:
            >>> found = Finding.of(np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.1]], np.float32))
            >>> found.labels.tolist(), found.foreground_share
            ([[1, 0, 1], [0, 1, 0]], 0.5)

        Args:
            probability: float32 (classes, H, W), or (H, W) of one label.
            output: what the classes are; ``None`` is one label.
        """
        output = OutputContract() if output is None else output
        planes = probability[None] if probability.ndim == 2 else probability
        members = output.members(planes[None])[0]
        if output.exclusive:
            members[BACKGROUND] = False
        return cls(probability=planes, output=output, members=members)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Where any class is, bool (H, W)."""
        return np.asarray(self.members.any(axis=0), np.bool_)

    @cached_property
    def _objects(self) -> tuple[NDArray[np.int32], int]:
        labels = np.zeros(self.mask.shape, np.int32)
        if len(self.members) == 1:
            count = ndimage.label(self.mask, structure=NEIGHBOURS, output=labels)
            return labels, int(count)
        total = 0
        for plane in self.members:
            found, count = ndimage.label(plane, structure=NEIGHBOURS)
            labels[plane] = found[plane] + total
            total += int(count)
        return (_in_reading_order(labels) if self.output.exclusive else labels), total

    @property
    def labels(self) -> NDArray[np.int32]:
        """Int32 (H, W), 0 for the background, else the object's number."""
        return self._objects[0]

    @property
    def instances(self) -> int:
        """How many objects there are, of every class."""
        return self._objects[1]

    @property
    def foreground_share(self) -> float:
        """Share of the pixels that are foreground, 0 to 1, to six digits."""
        return round(float(np.count_nonzero(self.mask)) / self.mask.size, 6)


def _in_reading_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Objects numbered by their first pixel."""
    numbers, first = np.unique(labels, return_index=True)
    ordered = numbers[np.argsort(first)]
    renamed = np.zeros(int(numbers[-1]) + 1, np.int32)
    renamed[ordered[ordered > 0]] = np.arange(1, np.count_nonzero(ordered) + 1)
    return np.asarray(renamed[labels], np.int32)


def shown_mask(probability: NDArray[np.float32], output: OutputContract) -> NDArray[np.uint8]:
    """The pixels of a mask.

    Example:
        >>> shown_mask(np.array([[[0.5, 0.4]]], np.float32), OutputContract()).tolist()
        [[255, 0]]

    Args:
        probability: float32 (classes, H, W).
        output: what the classes are.

    Returns:
        uint8: (H, W), 255 where a probability is at least 0.5, else 0; of classes that exclude
        each other (H, W), their indices; of labels that may overlap (classes, H, W), 255 and 0.
    """
    if output.exclusive:
        return np.asarray(output.label_map(probability[None])[0], np.uint8)
    masks = _white(output.members(probability[None])[0])
    return np.asarray(masks[0] if output.binary else masks)


def _white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    shown: NDArray[np.uint8] = mask.view(np.uint8) * np.uint8(255)
    return shown


def encoded(
    write: Write,
    found: Finding,
    image: NDArray[np.uint8] | None,
    *,
    index: int | None = None,
    classes: tuple[int, ...] = (),
) -> bytes:
    """The bytes of one file.

    Args:
        write: which.
        found: in the image.
        image: RGB (H, W, 3); needed for an overlay.
        index: of the class, where each has a file.
        classes: whose probabilities one file holds; none for all.

    Raises:
        RunError: more objects than 16 bits can number.
        ValueError: an overlay without its image.
    """
    if write is Write.PROBABILITY_NPY:
        stream = io.BytesIO()
        planes = found.probability[list(classes)] if classes else found.probability
        stored = planes[0] if found.output.binary else planes
        np.save(stream, np.ascontiguousarray(stored), allow_pickle=False)
        return stream.getvalue()
    if write is Write.MASK and found.output.exclusive:
        return _png(shown_mask(found.probability, found.output), palette=found.output.palette)
    return _png(_pixels(write, found, image, index or 0))


def _pixels(
    write: Write, found: Finding, image: NDArray[np.uint8] | None, index: int
) -> NDArray[np.generic]:
    if write is Write.PROBABILITY:
        exact: NDArray[np.float64] = np.rint(found.probability[index].astype(np.float64) * 65535)
        return exact.clip(0, 65535).astype(np.uint16)
    if write is Write.LABELS:
        if found.instances > MOST_LABELS:
            raise RunError(
                f"{found.instances} objects, and 16-bit labels number {MOST_LABELS}; leave labels "
                "out of --write, or cut the image into parts"
            )
        return found.labels.astype(np.uint16)
    if write is Write.OVERLAY:
        if image is None:
            raise ValueError("an overlay needs its image")
        if found.output.binary:
            return overlay(image, found.mask)
        shown = image
        for colour, plane in zip(found.output.palette, found.members, strict=True):
            shown = overlay(shown, plane, colour)
        return shown
    return _white(found.members[index])


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], colour: Colour = TINT
) -> NDArray[np.uint8]:
    """An image (H, W, 3) with the foreground tinted and its outermost pixels in the plain tint."""
    shown: NDArray[np.uint8] = image.copy()
    tint, rest = TINT_PARTS
    mixed = image[mask].astype(np.uint16) * rest + np.array(colour, np.uint16) * tint
    shown[mask] = (mixed // (tint + rest)).astype(np.uint8)
    inner = ndimage.binary_erosion(mask, NEIGHBOURS, border_value=1)
    shown[mask & ~inner] = colour
    return shown


def _png(pixels: NDArray[np.generic], *, palette: tuple[Colour, ...] = ()) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(np.array(palette, np.uint8).tobytes())
    image.save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
