"""What a prediction writes and how images of any size meet a model's input."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from segdeploy.deploy.data.output_contract import OutputContract
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
        MASK: 8-bit PNG, 255 where the probability is at least 0.5, else 0. Of classes that exclude
            each other the index of each pixel's class, with a palette; of labels that may overlap a
            mask for each.
        PROBABILITY: 16-bit PNG, the probability times 65535, rounded; 32768 and more is the mask.
            Of several classes one for each.
        PROBABILITY_NPY: the probability itself, float32, as NumPy stores it: (H, W), of several
            classes (classes, H, W).
        OVERLAY: 8-bit RGB PNG, the image with the foreground tinted and outlined, each class in
            its colour.
        LABELS: 16-bit PNG, 0 for the background and 1, 2, ... for the objects, which are
            8-connected components of the mask, of several classes of each, numbered in reading
            order.
    """

    MASK = "mask"
    PROBABILITY = "probability"
    PROBABILITY_NPY = "probability-npy"
    OVERLAY = "overlay"
    LABELS = "labels"

    def file(self, name: str, index: int | None = None) -> str:
        """Where it lies in the output folder, for an image of that name.

        Example:
            >>> Write.MASK.file("plate/a"), Write.LABELS.file("plate/a")
            ('plate/a.png', 'labels/plate/a.png')
            >>> Write.MASK.file("a", 1), Write.PROBABILITY.file("a", 1)
            ('1/a.png', 'probability/1/a.png')

        Args:
            name: of the image.
            index: of the class, where there is a file for each.
        """
        below = name if index is None else f"{index}/{name}"
        if self is Write.MASK:
            return f"{below}.png"
        if self is Write.PROBABILITY_NPY:
            return f"probability/{below}.npy"
        return f"{self.value}/{below}.png"


def files_of(
    name: str, writes: Sequence[Write], output: OutputContract, classes: Sequence[int] = ()
) -> list[tuple[Write, int | None, str]]:
    """What is written for an image: what it is, of which class where each has a file, and its file.

    Example:
        >>> files_of("a", [Write.MASK], OutputContract(classes=("cell", "nucleus")))
        [(<Write.MASK: 'mask'>, 0, '0/a.png'), (<Write.MASK: 'mask'>, 1, '1/a.png')]

    Args:
        name: of the image.
        writes: what is written.
        output: the model's output contract.
        classes: whose probabilities are written; none for all.
    """
    every = range(output.channels)
    found: list[tuple[Write, int | None, str]] = []
    for write in writes:
        indices: Sequence[int | None] = (None,)
        if write is Write.PROBABILITY and not output.binary:
            indices = classes or every
        elif write is Write.MASK and not output.binary and not output.exclusive:
            indices = every
        found += [(write, index, write.file(name, index)) for index in indices]
    return found


def is_own_file(file: str, name: str) -> bool:
    """Whether a file in the output folder can be one of an image's.

    Example:
        >>> is_own_file("probability/3/plate/a.png", "plate/a"), is_own_file("../a.png", "a")
        (True, False)
    """
    if any(file == write.file(name) for write in Write):
        return True
    found = re.match(r"(?:probability/)?(\d{1,3})/", file)
    return found is not None and file in {
        Write.MASK.file(name, int(found[1])),
        Write.PROBABILITY.file(name, int(found[1])),
    }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the output beside the model and the image.

    Attributes:
        fit: how an image meets the model's input.
        overlap: pixels of the scaled image that neighbouring tiles share, at least.
        scale: the image is resized by this before it is padded or tiled, and its probability back.
        writes: what is written for each image, in the order of ``Write``.
        classes: indices of those whose probabilities are written, of several; none for all.

    Raises:
        UsageError: nothing to write, or a number that does not fit.
    """

    fit: Fit = Fit.RESIZE
    overlap: int = 0
    scale: float = 1.0
    writes: tuple[Write, ...] = (Write.MASK,)
    classes: tuple[int, ...] = ()

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
