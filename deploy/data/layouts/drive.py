"""DRIVE, retinal vessels: ``training|test`` with ``images/``, ``1st_manual/`` and ``mask/``.

20 training and 20 test images (TIFF, 565x584) with one GIF of vessels and one of the field of
view each. The official test folder is the test split; the training folder is divided into train
and val, 16 and 4 unless told otherwise. The second observer (``2nd_manual``) is left out.
"""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.data.image_files import image_files
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, floored
from segdeploy.deploy.data.layouts.pairing import SOURCE_SUFFIXES, keyed, require_paired
from segdeploy.deploy.system.errors import InputError, UsageError


def _recognises(raw: Path) -> bool:
    return (raw / "training" / "images").is_dir() and (raw / "training" / "1st_manual").is_dir()


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images of both folders, by name; with a share for test, of the training folder alone.

    Raises:
        InputError: an image without vessels or field of view, one of these without an image,
            another name, or no truth for the test folder.
        UsageError: a share for test although the test folder has its truth.
    """
    truth = raw / "test" / "1st_manual"
    has_truth = bool(image_files(truth, suffixes=SOURCE_SUFFIXES))
    training = _folder(raw / "training", kind="training", split=None)
    if ratios is None or ratios[2] == 0:
        if not has_truth:
            raise InputError(
                f"{truth} holds no vessels: this download of DRIVE comes without the truth of its "
                "test images. Add the files 01_manual1.gif to 20_manual1.gif, or divide the "
                "training images in three with --ratios 0.6 0.2 0.2"
            )
        return (*training, *_folder(raw / "test", kind="test", split="test"))
    if has_truth:
        raise UsageError(
            f"ratios {ratios} keep {ratios[2]} of the training images for test, but {raw / 'test'} "
            "is the official test split; give a share of 0 for test"
        )
    return tuple(training)


def _folder(folder: Path, *, kind: str, split: str | None) -> list[RawSample]:
    number = "01" if split else "21"
    images = keyed(folder / "images", rf"(\d+)_{kind}", example=f"{number}_{kind}.tif")
    masks = keyed(folder / "1st_manual", r"(\d+)_manual1", example=f"{number}_manual1.gif")
    require_paired(images, masks, kind="vessel mask", folder=folder / "1st_manual")
    fields = keyed(folder / "mask", rf"(\d+)_{kind}_mask", example=f"{number}_{kind}_mask.gif")
    require_paired(images, fields, kind="field of view", folder=folder / "mask")
    return [
        RawSample(
            name=images[key].stem,
            image=images[key],
            masks=(masks[key],),
            split=split,
            field=fields[key],
        )
        for key in sorted(images)
    ]


LAYOUT = Layout(
    name="drive",
    expected="training/images/ with training/1st_manual/",
    recognises=_recognises,
    sources=_sources,
    ratios=(0.8, 0.2, 0.0),
    sizes=floored,
)
