"""Where an image of any size lies in a network's input, and the way back to its own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.resizing import Size

Value = TypeVar("Value", bound=np.generic)

STRETCH = "stretch"
LONGER = "longer"
SHORTER = "shorter"
ASPECTS = (STRETCH, LONGER, SHORTER)
"""An image is stretched to the stated size, made as large as fits into it, or as small as covers
it; the last two keep its aspect.
"""

CENTRE = "centre"
START = "start"
ANCHORS = (CENTRE, START)
"""What is padded or cropped lies in the middle, or at the top left."""

MOST_OF_A_PIXEL = 0.5

CONSTANT = "constant"
REFLECT = "reflect"
PADS = (CONSTANT, REFLECT)
"""A padded pixel has a fixed value, or mirrors the image about its outermost pixels."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How one image, resized, lies in the frame that a network sees.

    Example:
        An image of 50x100 in a frame of 96x96, whole, with its aspect kept:

        >>> place = Placement(image=(50, 100), scaled=(48, 96), frame=(96, 96), offset=(24, 0))
        >>> place.pads, place.crops
        (True, False)

    Attributes:
        image: size of the image.
        scaled: size it is resized to.
        frame: size of the network's input.
        offset: row and column of the frame where the resized image starts; below zero where it is
            cropped.
    """

    image: Size
    scaled: Size
    frame: Size
    offset: tuple[int, int] = (0, 0)

    @classmethod
    def of(
        cls, image: Size, frame: Size, *, target: Size | None, aspect: str, anchor: str
    ) -> Placement:
        """The placement of an image of a size.

        Example:
            >>> Placement.of((50, 100), (96, 96), target=(96, 96), aspect=SHORTER, anchor=CENTRE)
            Placement(image=(50, 100), scaled=(96, 192), frame=(96, 96), offset=(0, -48))

        Args:
            image: its size.
            frame: size of the network's input.
            target: size that ``aspect`` refers to; ``None`` resizes nothing.
            aspect: one of ``ASPECTS``.
            anchor: one of ``ANCHORS``.
        """
        scaled = image if target is None else _scaled(image, target, aspect)
        free = [whole - has for whole, has in zip(frame, scaled, strict=True)]
        top, left = (0, 0) if anchor == START else (int(room / 2) for room in free)
        return cls(image=image, scaled=scaled, frame=frame, offset=(top, left))

    @property
    def shown(self) -> tuple[slice, slice]:
        """Rows and columns of the frame that show the image."""
        rows, columns = (
            slice(max(start, 0), min(start + has, whole))
            for start, has, whole in zip(self.offset, self.scaled, self.frame, strict=True)
        )
        return rows, columns

    @property
    def kept(self) -> tuple[slice, slice]:
        """Rows and columns of the resized image that the frame shows."""
        rows, columns = (
            slice(part.start - start, part.stop - start)
            for part, start in zip(self.shown, self.offset, strict=True)
        )
        return rows, columns

    @property
    def pads(self) -> bool:
        """Whether a part of the frame shows no pixel of the image."""
        return any(has < whole for has, whole in zip(self.scaled, self.frame, strict=True))

    @property
    def crops(self) -> bool:
        """Whether a part of the image is not in the frame."""
        return any(has > whole for has, whole in zip(self.scaled, self.frame, strict=True))

    def framed(
        self, scaled: NDArray[Value], *, pad: str = CONSTANT, value: int = 0
    ) -> NDArray[Value]:
        """The frame (*frame, ...) of a resized image (*scaled, ...), cropped and padded."""
        if not (self.pads or self.crops):
            return scaled
        kept = scaled[self.kept]
        missing = [
            (part.start, whole - part.stop)
            for part, whole in zip(self.shown, self.frame, strict=True)
        ]
        widths = [*missing, *[(0, 0)] * (scaled.ndim - 2)]
        if pad == REFLECT:
            return np.pad(kept, widths, mode="reflect")
        return np.pad(kept, widths, constant_values=value)

    def inside(self) -> NDArray[np.bool_]:
        """The pixels of the frame that show the image: bool (*frame)."""
        mask = np.zeros(self.frame, np.bool_)
        mask[self.shown] = True
        return mask

    def back(self, found: NDArray[np.float32], *, unseen: float = 0.0) -> NDArray[np.float32]:
        """What was found in the frame, at the image's own pixels.

        Resized bilinearly (half-pixel centres; where the image is smaller, over the pixels it
        covers).

        Example:
            >>> place = Placement(image=(1, 2), scaled=(2, 4), frame=(4, 4), offset=(1, 0))
            >>> frame = np.zeros((4, 4), np.float32)
            >>> frame[1:3, :2] = 1
            >>> place.back(frame).tolist()
            [[0.8571428656578064, 0.1428571492433548]]

        Args:
            found: float32 (*frame).
            unseen: of the pixels that were cropped away by more than half.

        Returns:
            float32 (*image).
        """
        if not self.crops:
            return resized_values(found[self.shown], self.image)
        canvas, seen = np.zeros((2, *self.scaled), np.float32)
        canvas[self.kept], seen[self.kept] = found[self.shown], 1
        share = resized_values(seen, self.image)
        values = resized_values(canvas, self.image)
        enough = share >= MOST_OF_A_PIXEL
        return np.where(enough, values / np.where(enough, share, 1), np.float32(unseen))


def resized_values(values: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Real values (h, w) at another size, bilinear.

    Example:
        >>> resized_values(np.array([[0.0, 1.0]], np.float32), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    if values.shape == size:
        return values
    image = Image.fromarray(np.ascontiguousarray(values))
    return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def _scaled(image: Size, target: Size, aspect: str) -> Size:
    """The size of the resized image: rounded as albumentations does, half to even."""
    if aspect == STRETCH:
        return target
    ratios = [asked / has for asked, has in zip(target, image, strict=True)]
    factor = min(ratios) if aspect == LONGER else max(ratios)
    height, width = (max(1, round(side * factor)) for side in image)
    return height, width
