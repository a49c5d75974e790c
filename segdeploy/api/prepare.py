"""Prepare an image set as its publisher ships it."""

from __future__ import annotations

from pathlib import Path

from segdeploy.api.data import Data
from segdeploy.api.outputs import AnyPath
from segdeploy.deploy.data.layouts.division import Ratios
from segdeploy.deploy.data.layouts.registry import AUTO
from segdeploy.deploy.data.prepare import prepare_raw
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
    overwrite: bool = False,
) -> Data:
    """Write ``images/``, ``masks/``, ``splits.csv`` and where the set has them ``fov/``.

    Args:
        raw: the folder of the dataset, unpacked.
        out: the folder to write.
        layout: dsb2018, isic2018, split-folders or drive; "auto" is told from the folders.
        seed: of the split.
        ratios: shares of train, val and test, where the dataset does not give the splits.
        overwrite: replace the set that the folder holds.

    Returns:
        The prepared set.

    Raises:
        InputError: no such layout, an image without a mask, or a file that cannot be decoded.
        UsageError: ratios that are no shares, or a folder that holds a set or other images.
        OSError: the folder cannot be written.
    """
    require_new_in(Path(out), SPLITS_FILE, overwrite=overwrite)
    prepare_raw(
        Path(raw),
        Path(out),
        layout=layout,
        seed=seed,
        ratios=ratios,
        progress=lambda sources: bar(sources, "prepare", unit="image"),
    )
    return Data(out)
