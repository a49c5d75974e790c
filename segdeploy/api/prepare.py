"""Prepare an image set as its publisher ships it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.api.data import Data
from segdeploy.api.outputs import AnyPath
from segdeploy.deploy.data.layouts.division import Ratios
from segdeploy.deploy.data.layouts.pattern import pattern_layout
from segdeploy.deploy.data.layouts.registry import AUTO
from segdeploy.deploy.data.mask_files import Foreground
from segdeploy.deploy.data.prepare import prepare_raw
from segdeploy.deploy.data.raw_images import RawImages
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import require_new_in
from segdeploy.deploy.system.progress import bar

SPLITS_FILE = "splits.csv"
"""Written last."""


def prepare(
    raw: AnyPath,
    out: AnyPath,
    *,
    layout: str = AUTO,
    seed: int = 0,
    ratios: Ratios | None = None,
    images: str | None = None,
    masks: str | None = None,
    foreground: Sequence[str] | None = None,
    label_maps: bool = False,
    levels: tuple[float, float] | None = None,
    percentiles: tuple[float, float] | None = None,
    page: int | None = None,
    overwrite: bool = False,
) -> Data:
    """Write ``images/``, ``masks/``, ``splits.csv`` and where the set has them ``fov/``.

    Args:
        raw: the folder of the dataset, unpacked.
        out: the folder to write.
        layout: dsb2018, isic2018, split-folders, drive or paired; "auto" is told from the folders.
        seed: of the split.
        ratios: shares of train, val and test, where the dataset does not give the splits.
        images: of any other layout, a pattern of the images inside the folder: ``*`` and ``?``
            stand for parts of a name, ``**/`` for folders.
        masks: a pattern of the masks; what its wildcards match pairs them with the images.
        foreground: which values of masks are foreground: ``any`` but 0, numbers, ranges such as
            125-255, colours such as ff0000, or ``alpha``; ``None`` tells from the values, and
            refuses where they leave it open.
        label_maps: masks hold the class of each pixel, and stay what they are.
        levels: of images of 16 bits, which levels become 0 and 255: the set has 8 bits then;
            ``None`` keeps the bits that files have.
        percentiles: the levels below which these shares of all pixels of the set lie, in percent;
            computed once, and logged as the ``levels`` they are.
        page: of files of several pages, which is the image, from 0.
        overwrite: replace the set that the folder holds.

    Returns:
        The prepared set.

    Raises:
        InputError: no such layout, an image without a mask, or a file that cannot be decoded.
        UsageError: ratios that are no shares, patterns that do not go together, words that name no
            foreground, or a folder that holds a set or other images.
        OSError: the folder cannot be written.
    """
    require_new_in(Path(out), SPLITS_FILE, overwrite=overwrite)
    if (images is None) != (masks is None) or (images is not None and layout != AUTO):
        raise UsageError(
            "images and masks are two patterns that go together, in the place of a layout"
        )
    try:
        stated = None if foreground is None else Foreground.parse(foreground)
    except ValueError as error:
        raise UsageError(f"--foreground {' '.join(foreground or ())}: {error}") from error
    if levels is not None and percentiles is not None:
        raise UsageError("levels beside percentiles, which compute them; drop one")
    prepare_raw(
        Path(raw),
        Path(out),
        layout=layout if images is None or masks is None else pattern_layout(images, masks),
        seed=seed,
        ratios=ratios,
        foreground=stated,
        label_maps=label_maps,
        images=RawImages(levels=levels, page=page),
        percentiles=percentiles,
        progress=lambda sources: bar(sources, "prepare", unit="image"),
    )
    return Data(out)
