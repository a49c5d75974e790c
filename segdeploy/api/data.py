"""Images to work on: the train split calibrates, the test split judges."""

from __future__ import annotations

from collections.abc import Iterator
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
    """

    folder: AnyPath | None = None
    calibration: AnyPath | None = field(default=None, kw_only=True)
    num_samples: int | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)

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

    @cached_property
    def train(self) -> SegmentationSet:
        """The train split, all of it.

        Raises:
            InputError: see ``segdeploy.deploy.data.image_set.open_set``; likewise the others.
        """
        return open_set(self.root, "train")

    @cached_property
    def val(self) -> SegmentationSet:
        """The validation split."""
        return open_set(self.root, "val")

    @cached_property
    def test(self) -> SegmentationSet:
        """The test split: it judges, and nothing is ever chosen on it."""
        return open_set(self.root, "test")

    def image_sizes(self) -> Iterator[tuple[int, int]]:
        """Height and width of every image of the folder, in name order."""
        return (image_size(sample.image_path) for sample in open_set(self.root, None))

    @cached_property
    def calibration_images(self) -> SegmentationSet:
        """What calibrates: ``num_samples`` images of the train split, drawn by seed."""
        whole = (
            self.train if self.calibration is None else open_set(Path(self.calibration), "train")
        )
        return whole.take(self.num_samples, seed=self.seed)
