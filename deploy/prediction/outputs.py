"""From the probability of one image to the bytes of the files that are written for it."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segdeploy.deploy.data.output_contract import FOREGROUND_PROBABILITY
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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a model found in one image, at the image's size.

    Attributes:
        probability: float32 (H, W), 0 to 1.
        mask: bool (H, W), where it is at least 0.5.
        labels: int32 (H, W), 0 for the background, else the object's number.
        instances: how many objects there are.
    """

    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]
    labels: NDArray[np.int32]
    instances: int

    @classmethod
    def of(cls, probability: NDArray[np.float32]) -> Finding:
        """Cut a probability and number its objects.

        Example:
            >>> found = Finding.of(np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.1]], np.float32))
            >>> found.labels.tolist(), found.foreground_share
            ([[1, 0, 1], [0, 1, 0]], 0.5)
        """
        mask = foreground(probability)
        labels = np.zeros(mask.shape, np.int32)
        instances = ndimage.label(mask, structure=NEIGHBOURS, output=labels)
        return cls(probability=probability, mask=mask, labels=labels, instances=int(instances))

    @property
    def foreground_share(self) -> float:
        """Share of the pixels that are foreground, 0 to 1, to six digits."""
        return round(float(np.count_nonzero(self.mask)) / self.mask.size, 6)


def foreground(probability: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a probability is at least 0.5."""
    found: NDArray[np.bool_] = probability >= FOREGROUND_PROBABILITY
    return found


def mask_of(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The pixels of a mask, (H, W): 255 where a probability is at least 0.5, else 0.

    Example:
        >>> mask_of(np.array([[0.5, 0.4]], np.float32)).tolist()
        [[255, 0]]
    """
    return _white(foreground(probability))


def _white(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    shown: NDArray[np.uint8] = mask.view(np.uint8) * np.uint8(255)
    return shown


def encoded(write: Write, found: Finding, image: NDArray[np.uint8] | None) -> bytes:
    """The bytes of one file.

    Args:
        write: which.
        found: in the image.
        image: RGB (H, W, 3); needed for an overlay.

    Raises:
        RunError: more objects than 16 bits can number.
        ValueError: an overlay without its image.
    """
    if write is Write.PROBABILITY_NPY:
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(found.probability), allow_pickle=False)
        return stream.getvalue()
    return _png(_pixels(write, found, image))


def _pixels(write: Write, found: Finding, image: NDArray[np.uint8] | None) -> NDArray[np.generic]:
    if write is Write.PROBABILITY:
        exact: NDArray[np.float64] = np.rint(found.probability.astype(np.float64) * 65535)
        return exact.astype(np.uint16)
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
        return overlay(image, found.mask)
    return _white(found.mask)


def overlay(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image (H, W, 3) with the foreground tinted and its outermost pixels in the plain tint."""
    shown: NDArray[np.uint8] = image.copy()
    tint, rest = TINT_PARTS
    mixed = image[mask].astype(np.uint16) * rest + np.array(TINT, np.uint16) * tint
    shown[mask] = (mixed // (tint + rest)).astype(np.uint8)
    inner = ndimage.binary_erosion(mask, NEIGHBOURS, border_value=1)
    shown[mask & ~inner] = TINT
    return shown


def _png(pixels: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=COMPRESSION)
    return stream.getvalue()
