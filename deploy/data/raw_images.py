"""Images of a raw set: what of a file goes into the prepared set, and by which levels.

A picture of 8 bits becomes RGB. One of more bits or of bands stays the file it is, so that nothing
is lost, unless levels are stated that become 0 and 255.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_levels import decode, decode_whole, keeps_depth
from segdeploy.deploy.data.preprocess import RGB, Number, Pixels, Preprocess
from segdeploy.deploy.system.errors import InputError, UsageError

PLAIN = Preprocess(channel_order=RGB)
DEEP = Preprocess(channel_order=RGB, source_bits=16)

PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class RawImages:
    """How the images of a raw set are read.

    Attributes:
        levels: 16-bit levels that become 0 and 255, so that every image is one of 8 bits; ``None``
            keeps the bits that files have.
        page: which page of files that have several, from 0; ``None`` expects one.
    """

    levels: tuple[Number, Number] | None = None
    page: int | None = None

    def read(self, path: Path) -> Pixels:
        """An image: RGB uint8 (H, W, 3), or (H, W, channels) of a file that is kept.

        Raises:
            InputError: the file cannot be decoded, or levels are stated for one of 8 bits.
        """
        pages = None if self.page is None else (self.page,)
        if self.levels is not None:
            contract = DEEP.of_source(self.levels, pages)
            return contract.picture(decode(path, contract).pixels)
        if keeps_depth(path, page=self.page):
            return decode_whole(path, page=self.page)
        return decode(path, PLAIN.of_source(pages=pages)).pixels

    def suffix(self, path: Path) -> str | None:
        """Of a file whose bytes are kept, in lower case; ``None`` where it is written anew.

        Raises:
            InputError: the file is no image.
        """
        if self.levels is None and self.page is None and keeps_depth(path):
            return path.suffix.lower()
        return None


def shown(image: Pixels) -> NDArray[np.uint8]:
    """What ``RawImages.read`` gave, as people look at it: RGB uint8 (H, W, 3)."""
    return (PLAIN if image.dtype == np.uint8 else DEEP).picture(image)


def percentile_levels(
    paths: Iterable[Path], percentiles: Sequence[float], *, page: int | None = None
) -> tuple[int, int]:
    """The levels below which two shares of all pixels of a set lie, every channel counted.

    Computed once over the set and then stated as numbers: no image gets a range of its own.

    Args:
        paths: 16-bit images.
        percentiles: the lower and the upper one, 0 to 100.
        page: which page of files that have several.

    Raises:
        InputError: a file cannot be decoded or has 8 bits, or the two levels are one.
        UsageError: numbers that are no two percentiles.
    """
    low, high = percentiles
    if not 0 <= low < high <= PERCENT:
        raise UsageError(
            f"percentiles {low:g} and {high:g}; expected two from 0 to {PERCENT}, the lower one "
            "first"
        )
    contract = DEEP.of_source(pages=None if page is None else (page,))
    counts = np.zeros(DEEP.levels, np.int64)
    for path in paths:
        counts += np.bincount(decode(path, contract).pixels.reshape(-1), minlength=DEEP.levels)
    below = np.cumsum(counts)
    found = [int(np.searchsorted(below, share / PERCENT * below[-1])) for share in (low, high)]
    if found[0] >= found[1]:
        raise InputError(
            f"percentiles {low:g} and {high:g} of the set are both level {found[0]}; state the "
            "levels themselves: --range LOW HIGH"
        )
    return found[0], found[1]
