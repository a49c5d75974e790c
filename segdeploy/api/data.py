"""Images to work on: the train split calibrates, the test split judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from segdeploy.api.outputs import AnyPath
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_levels import image_size
from segdeploy.deploy.data.image_set import SegmentationSet, open_set


@dataclass(frozen=True)
class Data:
    """A prepared folder, as ``segdeploy data prepare`` and ``segdeploy.prepare`` make it.

    A split is opened when it is asked for. No image of the train split may be in the test split:
    what would judge on images that calibrated is refused.

    Example:
        >>> import segdeploy as sd
        >>> data = sd.Data(num_samples=16)
        >>> len(data.train), len(data.calibration_images), len(data.test)
        (50, 16, 64)

    Attributes:
        folder: ``images/``, ``masks/`` and ``splits.csv``; ``None`` is the bundled sample.
        calibration: another folder whose train split calibrates; ``None`` is the same folder.
        num_samples: images to calibrate on, drawn by seed; ``None`` takes all.
        seed: of the draw.
        levels: of images of 16 bits, which levels become 0 and 255 for a network that takes 8;
            ``None`` expects images as the network's input contract says.
        page: of files of several pages, which is the image, from 0; one for each band of a
            network that takes bands.
    """

    folder: AnyPath | None = None
    calibration: AnyPath | None = field(default=None, kw_only=True)
    num_samples: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    levels: tuple[float, float] | None = field(default=None, kw_only=True)
    page: int | Sequence[int] | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, given: Data | AnyPath | None) -> Data:
        """Images that are given as such, by their folder, or not at all: the bundled sample."""
        return given if isinstance(given, Data) else cls(given)

    @property
    def root(self) -> Path:
        """The folder.

        Raises:
            InputError: the installation lacks the bundled sample.
        """
        return bundled.sample() if self.folder is None else Path(self.folder)

    def _opened(self, folder: Path, split: str) -> SegmentationSet:
        return open_set(folder, split).of_source(self.levels, pages_of(self.page))

    @cached_property
    def train(self) -> SegmentationSet:
        """The train split, all of it.

        Raises:
            InputError: see ``segdeploy.deploy.data.image_set.open_set``; likewise the others.
        """
        return self._opened(self.root, "train")

    @cached_property
    def val(self) -> SegmentationSet:
        """The validation split."""
        return self._opened(self.root, "val")

    @cached_property
    def test(self) -> SegmentationSet:
        """The test split: it judges, and nothing is ever chosen on it."""
        return self._opened(self.root, "test")

    def image_sizes(self) -> Iterator[tuple[int, int]]:
        """Height and width of every image of the folder, in name order."""
        return (image_size(sample.image_path) for sample in open_set(self.root, None))

    @cached_property
    def calibration_images(self) -> SegmentationSet:
        """What calibrates: ``num_samples`` images of the train split, drawn by seed."""
        whole = (
            self.train
            if self.calibration is None
            else self._opened(Path(self.calibration), "train")
        )
        return whole.take(self.num_samples, seed=self.seed)


def pages_of(page: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """Page numbers, of one or of several.

    Example:
        >>> pages_of(3), pages_of([0, 2])
        ((3,), (0, 2))
    """
    if page is None or isinstance(page, int):
        return None if page is None else (page,)
    return tuple(page)
