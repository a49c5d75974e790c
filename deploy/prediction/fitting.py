"""From an image of any size to a model's inputs, and from their probabilities back to its size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.placement import Placement, resized_values
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Pixels, Preprocess
from segdeploy.deploy.data.resizing import Size
from segdeploy.deploy.prediction.settings import Fit, Settings


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one image becomes pieces, and their probabilities one again.

    Attributes:
        image: size of the image.
        scaled: size it is resized to first.
        piece: size of every piece; the scaled image is filled up to at least this.
        rows: first row of the pieces, from the top.
        columns: first column of the pieces, from the left; there is a piece for each row and
            column.
        place: of the whole image in the contract's input, where it is resized to that.
    """

    image: Size
    scaled: Size
    piece: Size
    rows: tuple[int, ...] = (0,)
    columns: tuple[int, ...] = (0,)
    place: Placement | None = None

    @property
    def filled(self) -> Size:
        """Size of the scaled image, filled up where it is smaller than a piece."""
        height, width = (max(pair) for pair in zip(self.scaled, self.piece, strict=True))
        return height, width

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self.rows) * len(self.columns)

    def filled_image(self, image: Pixels, contract: Preprocess) -> Pixels:
        """The scaled and filled image (*filled, channels) of an image (H, W, channels).

        Args:
            image: of the plan's size, as the contract takes it.
            contract: the model's input contract; resizes as it says.
        """
        if self.place is not None:
            return contract.resized(image)
        scaled = contract.rescaled(image, self.scaled)
        missing = [whole - has for whole, has in zip(self.filled, self.scaled, strict=True)]
        if not any(missing):
            return scaled
        return np.pad(scaled, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="reflect")

    def pieces(self, filled: Pixels) -> Iterator[Pixels]:
        """The pieces of what ``filled_image`` gave, in reading order."""
        height, width = self.piece
        for row in self.rows:
            for column in self.columns:
                yield filled[row : row + height, column : column + width]


def plan_of(
    image: Size, settings: Settings, contract: Preprocess, *, multiple: int = SIZE_MULTIPLE
) -> Plan:
    """How an image of a size is taken.

    Args:
        image: its size.
        settings: of the prediction; tiles overlap by less than their size.
        contract: the model's input contract; its size has no meaning for ``Fit.PAD``.
        multiple: what height and width of the model's input must divide by, for ``Fit.PAD``.

    Example:
        >>> plan_of((20, 50), Settings(fit=Fit.PAD), Preprocess()).piece
        (32, 64)
        >>> tiled = plan_of((150, 96), Settings(fit=Fit.TILE, overlap=24), Preprocess())
        >>> tiled.rows, tiled.columns
        ((0, 54), (0,))
    """
    model = contract.size
    if settings.fit is Fit.RESIZE:
        return Plan(image=image, scaled=model, piece=model, place=contract.placement(image))
    height, width = (max(1, round(side * settings.scale)) for side in image)
    if settings.fit is Fit.PAD:
        piece = (_upward(height, multiple), _upward(width, multiple))
        return Plan(image=image, scaled=(height, width), piece=piece)
    whole = Plan(image=image, scaled=(height, width), piece=model).filled
    rows, columns = (
        tile_starts(side, tile, settings.overlap) for side, tile in zip(whole, model, strict=True)
    )
    return Plan(image=image, scaled=(height, width), piece=model, rows=rows, columns=columns)


class Canvas:
    """The probabilities of one image, put together from those of its pieces.

    Each pixel is the mean of the pieces that show it, weighted so that every piece fades out
    towards its neighbours: the weights are products of those along rows and columns, and sum to
    one.
    """

    def __init__(self, plan: Plan, channels: int = 1) -> None:
        self.plan = plan
        self._found = 0
        self._down = tile_weights(plan.filled[0], plan.piece[0], plan.rows)
        self._across = tile_weights(plan.filled[1], plan.piece[1], plan.columns)
        self._sum = np.zeros((channels, *plan.filled), np.float32)

    @property
    def full(self) -> bool:
        """Whether every piece was added."""
        return self._found == self.plan.count

    def add(self, probability: NDArray[np.float32]) -> None:
        """Take the probabilities of the next piece, float32 (channels, *piece)."""
        down, across = divmod(self._found, len(self.plan.columns))
        row, column = self.plan.rows[down], self.plan.columns[across]
        weights = self._down[down][:, None] * self._across[across]
        height, width = self.plan.piece
        self._sum[:, row : row + height, column : column + width] += weights * probability
        self._found += 1

    def probability(self) -> NDArray[np.float32]:
        """The probabilities at the image's size, float32 (channels, H, W), when the canvas is full.

        Where the model saw another size, resized bilinearly (half-pixel centres; where the image
        is smaller, over the pixels it covers). Resizing them, and not the mask, keeps the boundary
        smooth. What the contract cropped away belongs to no class.
        """
        if self.plan.place is not None:
            return np.stack([self.plan.place.back(plane) for plane in self._sum])
        height, width = self.plan.scaled
        return np.stack(
            [resized_values(plane[:height, :width], self.plan.image) for plane in self._sum]
        )


def _upward(side: int, multiple: int) -> int:
    """The nearest multiple that is not below."""
    return -(-side // multiple) * multiple


def tile_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixel of each tile: the fewest that overlap by at least ``overlap``, evenly spread.

    Example:
        >>> tile_starts(100, 40, 10)  # three tiles 30 apart reach 100 exactly
        (0, 30, 60)
        >>> tile_starts(90, 40, 10)
        (0, 25, 50)

    Args:
        length: pixels of the axis, at least ``tile``.
        tile: pixels of a tile.
        overlap: pixels that neighbours share, at least; below ``tile``.
    """
    steps = -(-(length - tile) // (tile - overlap))
    return tuple(round(step * (length - tile) / steps) if steps else 0 for step in range(steps + 1))


def tile_weights(
    length: int, tile: int, starts: tuple[int, ...]
) -> tuple[NDArray[np.float32], ...]:
    """What each tile counts for in each of its pixels: in every pixel of the axis they sum to one.

    A tile's weight falls linearly towards each neighbour over the pixels they share, and is whole
    at the ends of the axis.

    Example:
        >>> [weights.tolist() for weights in tile_weights(6, 4, (0, 2))]
        [[1.0, 1.0, 0.75, 0.25], [0.25, 0.75, 1.0, 1.0]]

    Args:
        length: pixels of the axis.
        tile: pixels of a tile.
        starts: as ``tile_starts`` gives them; together the tiles cover the axis.

    Returns:
        One float32 array of ``tile`` weights for each tile.
    """
    inside = np.arange(tile) + 0.5
    total = np.zeros(length)
    raw = []
    for index, start in enumerate(starts):
        weights = np.ones(tile)
        if index > 0 and (shared := starts[index - 1] + tile - start) > 0:
            weights = np.minimum(weights, inside / shared)
        if index + 1 < len(starts) and (shared := start + tile - starts[index + 1]) > 0:
            weights = np.minimum(weights, inside[::-1] / shared)
        total[start : start + tile] += weights
        raw.append(weights)
    return tuple(
        (weights / total[start : start + tile]).astype(np.float32)
        for start, weights in zip(starts, raw, strict=True)
    )
