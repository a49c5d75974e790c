"""ISIC 2018 Task 1, lesion boundary segmentation, as the challenge ships its training part.

2594 dermoscopic JPEG images and one grey PNG of 0 and 255 for each. The parts for validation and
test came without truth at the time, so published work divides the training part: 70/10/20 by
floor is 1815/259/520.
"""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, floored
from segdeploy.deploy.data.layouts.pairing import keyed, require_paired

IMAGES = "ISIC2018_Task1-2_Training_Input"
MASKS = "ISIC2018_Task1_Training_GroundTruth"


def _recognises(raw: Path) -> bool:
    return (raw / IMAGES).is_dir() and (raw / MASKS).is_dir()


def _sources(raw: Path, ratios: Ratios | None) -> tuple[RawSample, ...]:
    """The images, by name.

    Raises:
        InputError: an image without a mask, a mask without an image, or another name.
    """
    images = keyed(raw / IMAGES, r"(ISIC_\d+)", example="ISIC_0000000.jpg")
    masks = keyed(raw / MASKS, r"(ISIC_\d+)_segmentation", example="ISIC_0000000_segmentation.png")
    require_paired(images, masks, kind="mask", folder=raw / MASKS)
    return tuple(
        RawSample(name=name, image=images[name], masks=(masks[name],)) for name in sorted(images)
    )


LAYOUT = Layout(
    name="isic2018",
    expected=f"{IMAGES}/ with {MASKS}/",
    recognises=_recognises,
    sources=_sources,
    ratios=(0.7, 0.1, 0.2),
    sizes=floored,
)
