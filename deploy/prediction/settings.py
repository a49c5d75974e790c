"""What a prediction writes and how images of any size meet a model's input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from segdeploy.deploy.system.errors import UsageError


class Fit(str, Enum):
    """How an image of any size meets the model's input.

    Attributes:
        RESIZE: the whole image, resized to the contract's input size; one call.
        PAD: the whole image at its own resolution, its sides filled up to multiples of 16 with its
            mirror image; one call of a model that takes any size.
        TILE: overlapping tiles of the contract's input size at the image's own resolution, blended.
    """

    RESIZE = "resize"
    PAD = "pad"
    TILE = "tile"


class Write(str, Enum):
    """What is written for each image, at the image's own size.

    Attributes:
        MASK: 8-bit PNG, 255 where the probability is at least 0.5, else 0.
        PROBABILITY: 16-bit PNG, the probability times 65535, rounded; 32768 and more is the mask.
        PROBABILITY_NPY: the probability itself, float32, as NumPy stores it.
        OVERLAY: 8-bit RGB PNG, the image with the foreground tinted and outlined.
        LABELS: 16-bit PNG, 0 for the background and 1, 2, ... for the objects, which are
            8-connected components of the mask, numbered in reading order.
    """

    MASK = "mask"
    PROBABILITY = "probability"
    PROBABILITY_NPY = "probability-npy"
    OVERLAY = "overlay"
    LABELS = "labels"

    def file(self, name: str) -> str:
        """Where it lies in the output folder, for an image of that name.

        Example:
            >>> Write.MASK.file("plate/a"), Write.LABELS.file("plate/a")
            ('plate/a.png', 'labels/plate/a.png')
        """
        if self is Write.MASK:
            return f"{name}.png"
        if self is Write.PROBABILITY_NPY:
            return f"probability/{name}.npy"
        return f"{self.value}/{name}.png"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the output beside the model and the image.

    Attributes:
        fit: how an image meets the model's input.
        overlap: pixels of the scaled image that neighbouring tiles share, at least.
        scale: the image is resized by this before it is padded or tiled, and its probability back.
        writes: what is written for each image, in the order of ``Write``.

    Raises:
        UsageError: nothing to write, or a number that does not fit.
    """

    fit: Fit = Fit.RESIZE
    overlap: int = 0
    scale: float = 1.0
    writes: tuple[Write, ...] = (Write.MASK,)

    def __post_init__(self) -> None:
        if not self.writes or list(self.writes) != [w for w in Write if w in self.writes]:
            raise UsageError(f"{[w.value for w in self.writes]}: name each thing to write once")
        if self.overlap and self.fit is not Fit.TILE:
            raise UsageError("--overlap is for --fit tile; other images are taken whole")
        if self.overlap < 0 or not 0 < self.scale < math.inf:
            raise UsageError(
                f"overlap {self.overlap} and scale {self.scale}: expected 0 or more pixels, and a "
                "number above 0"
            )
        if self.scale != 1.0 and self.fit is Fit.RESIZE:
            raise UsageError("--scale is for --fit pad or tile; --fit resize has the input's size")
