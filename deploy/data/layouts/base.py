"""What a dataset layout is: it knows its folders, and pairs images with masks by name alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.layouts.division import Ratios, Sizes


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One image as a layout holds it.

    Attributes:
        name: what the image is called in the prepared set.
        image: its file.
        masks: one file, or with ``instances`` one for each object; none of an image without any.
        runs: likewise, where a row of a table stands and the run lengths of an object in it.
        instances: masks are merged by OR, and every value above 0 is foreground.
        class_masks: name of the folder and mask of each class, where there is one for each; the
            masks are then none.
        split: "train", "val" or "test" where the layout says so, ``None`` where it is drawn.
        field: the mask of its field of view.
    """

    name: str
    image: Path
    masks: tuple[Path, ...]
    runs: tuple[tuple[str, str], ...] = ()
    instances: bool = False
    class_masks: tuple[tuple[str, Path], ...] = ()
    split: str | None = None
    field: Path | None = None

    def __post_init__(self) -> None:
        if not self.instances and (len(self.masks) + bool(self.class_masks) != 1 or self.runs):
            raise ValueError(f"{self.name} has {len(self.masks)} masks")

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that it is made of."""
        field = () if self.field is None else (self.field,)
        return (self.image, *self.masks, *(path for _, path in self.class_masks), *field)


def _one_stratum(image: NDArray[np.uint8]) -> None:
    """Every image in the same stratum."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way a dataset lies on disk.

    Attributes:
        name: on the command line.
        expected: the folders it looks for, to follow "holds no".
        recognises: whether a folder is laid out so; reads names, opens nothing.
        sources: the images of a folder, given the shares asked for or ``None``. Reads names,
            opens no image, and raises InputError naming every kind of misfit.
        ratios: default shares of train, val and test for the images whose split is drawn.
        sizes: how many images of a stratum each split takes.
        fallback: of a form so loose that it is taken where no other layout fits.
        stratum: what an image (H, W, 3) uint8 is like, where each kind is to be divided alike.
    """

    name: str
    expected: str
    recognises: Callable[[Path], bool]
    sources: Callable[[Path, Ratios | None], tuple[RawSample, ...]]
    ratios: Ratios
    sizes: Sizes
    fallback: bool = False
    stratum: Callable[[NDArray[np.uint8]], str | None] = _one_stratum
