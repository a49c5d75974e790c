"""How each public project feeds and runs its networks: what comes with a family unless stated.

Read from the projects' own sources, named below. A contract stored in a checkpoint wins over its
family's, and what the caller states over both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Preprocess, require_multiple
from segdeploy.deploy.data.presets import PRESETS
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.families import Detected, Family
from segdeploy.deploy.models.networks import DEFAULT_RECURRENCE
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.yaml_text import read_yaml

ImageSizes = Callable[[], Iterable[tuple[int, int]]]
"""Height and width of each image that a network is going to see; called only where it matters."""

CONFIG = "config.yml"
"""What pytorch-nested-unet's ``train.py`` writes beside the weights."""

SHOWN_SIZES = 3
"""How many input sizes a message names before it counts the rest."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    """What a project's own code does with its networks.

    Attributes:
        origin: in words, for the plan of a run.
        preprocess: the input contract.
        recurrence: ``t`` of its recurrent networks.
        logits: whether its networks return logits, not probabilities.
        keeps_aspect: only the width is fixed: an image's height follows from its aspect.
    """

    origin: str
    preprocess: Preprocess
    recurrence: int = DEFAULT_RECURRENCE
    logits: bool
    keeps_aspect: bool = False


UNET_ZOO = Convention(
    origin="UNET-ZOO's, of the published models", preprocess=PRESETS["unet-zoo"], logits=False
)
"""``dataset.py``: OpenCV's BGR over 255; ``main.py``: ``Normalize`` by 0.5 and 0.5; ``r2unet.py``:
t = 2, and as all of its networks a sigmoid at the end. The size is that of the published models.
"""

IMAGE_SEGMENTATION = Convention(
    origin="LeeJunHyun Image_Segmentation's",
    preprocess=PRESETS["leejunhyun"],
    recurrence=3,
    logits=True,
    keeps_aspect=True,
)
"""``data_loader.py``: Pillow's RGB, torchvision's ``Resize`` (bilinear with antialiasing) to a
width of 256 and the height that keeps the aspect, rounded down to a multiple of 16, then
``Normalize`` by 0.5 and 0.5; before that a resize to a random width of 300 to 320, which no
contract can state.
``solver.py``: a sigmoid after the network; ``main.py``: t = 3 by default.
"""

NESTED_UNET = Convention(
    origin="pytorch-nested-unet's",
    preprocess=PRESETS["4uiiurz1"],
    logits=True,
)
"""``dataset.py``: OpenCV's BGR; ``train.py``: albumentations' ``Resize`` (``cv2.INTER_LINEAR``),
to 96x96 by default, and ``Normalize`` with its defaults, ImageNet's mean and standard deviation for
RGB on channels that are BGR; then ``dataset.py`` divides what came out by 255 once more, which the
standard deviation here holds. Networks return logits (``val.py``).
"""


def own_labels(count: int) -> tuple[str, ...]:
    """Names of classes where the weights alone are there: by number, from 0.

    All three projects train each channel as a label of its own, under a sigmoid (UNET-ZOO's
    networks end in one, ``solver.py`` and ``losses.py`` of the others apply it);
    pytorch-nested-unet calls the folders of their masks ``masks/0``, ``masks/1`` and so on.
    """
    return tuple(map(str, range(count)))


def convention_of(detected: Detected, path: Path) -> Convention:
    """What the project does that a checkpoint comes from.

    R2U-Net and attention U-Net have the same keys in two projects. The name of the file tells them
    apart as the projects write it: Image_Segmentation ``.pkl``, UNET-ZOO ``.pth``.
    """
    if detected.family is Family.NESTED_UNET:
        return NESTED_UNET
    if detected.family is Family.IMAGE_SEGMENTATION:
        return IMAGE_SEGMENTATION
    if detected.family is not Family.SHARED:
        return UNET_ZOO
    told = f"told by the suffix {path.suffix}"
    if path.suffix == ".pkl":
        return replace(IMAGE_SEGMENTATION, origin=f"{IMAGE_SEGMENTATION.origin}, {told}")
    other = " and --recurrence 3" if detected.arch.recurrent else ""
    return replace(
        UNET_ZOO,
        origin=f"{UNET_ZOO.origin}, {told}; LeeJunHyun Image_Segmentation's keys are the same: "
        f"--preprocess leejunhyun{other} where it is of that",
    )


def contract_of_family(
    convention: Convention, detected: Detected, path: Path, *, image_sizes: ImageSizes | None
) -> tuple[Preprocess, str]:
    """The input contract of a checkpoint that states none, and where it is from, in words.

    Args:
        convention: the project's.
        detected: what the weights tell.
        path: the checkpoint; pytorch-nested-unet's ``config.yml`` is looked for beside it.
        image_sizes: of the images it is for, where the contract depends on them.

    Raises:
        InputError: a ``config.yml`` that cannot be read or contradicts the weights; or the height
            depends on the images and they are unknown, or of several aspects.
    """
    if convention.keeps_aspect:
        size = _kept_aspect(convention.preprocess, path, image_sizes)
        words = f"{convention.origin}, height by the images' aspect"
        return replace(convention.preprocess, size=size), words
    if detected.family is Family.NESTED_UNET:
        return _of_config(convention, detected, path.parent / CONFIG)
    return convention.preprocess, convention.origin


def height_at(width: int, image: tuple[int, int]) -> int:
    """Image_Segmentation's height at a width, from an image's (height, width).

    Example:
        >>> height_at(256, (480, 640)), height_at(256, (1022, 767))
        (192, 336)
    """
    height = int(width * (image[0] / image[1]))
    return height - height % SIZE_MULTIPLE


def _kept_aspect(
    preprocess: Preprocess, path: Path, image_sizes: ImageSizes | None
) -> tuple[int, int]:
    """The one (height, width) that all images have at the contract's width.

    Raises:
        InputError: no images are known, or their heights differ.
    """
    width = preprocess.size[1]
    found = Counter(height_at(width, size) for size in (image_sizes or tuple)())
    if len(found) == 1 and min(found) > 0:
        return min(found), width
    names = [f"{height}x{width} ({count})" for height, count in found.most_common(SHOWN_SIZES)]
    rest = f" and {len(found) - SHOWN_SIZES} sizes more" if len(found) > SHOWN_SIZES else ""
    why = f"the images give {', '.join(names)}{rest}" if names else "no images are given here"
    tallest = max(found, key=lambda height: found[height]) if found else 0
    example = replace(preprocess, size=(tallest or 192, width))
    raise InputError(
        f"{path}: its project scales images to a width of {width} and keeps their aspect, so that "
        f"the height depends on the images, and {why}; expected one height. State it with "
        f"--preprocess FILE.json, height first in size: {example.to_json()}"
    )


def _of_config(convention: Convention, detected: Detected, config: Path) -> tuple[Preprocess, str]:
    """pytorch-nested-unet's contract, of the size that its ``config.yml`` states.

    Raises:
        InputError: the file cannot be read, states no size, or states another network.
    """
    if not config.is_file():
        origin = f"{convention.origin}, the size train.py's default: no {CONFIG} beside the weights"
        return convention.preprocess, origin
    stated = read_yaml(config, what=f"pytorch-nested-unet's {CONFIG}")
    if not isinstance(stated, Mapping):
        raise InputError(
            f"{config} holds a {type(stated).__name__}, not pytorch-nested-unet's settings; move "
            "it away from the weights, or state the contract with --preprocess"
        )
    expected: dict[str, Any] = {
        "arch": {
            Architecture.UNET_PLUS_PLUS: "NestedUNet",
            Architecture.U_NET_BILINEAR: "UNet",
        }.get(detected.arch),
        "input_channels": detected.in_channels,
        "num_classes": detected.num_classes,
        "deep_supervision": detected.deep_supervision,
    }
    if detected.arch is not Architecture.UNET_PLUS_PLUS:
        del expected["deep_supervision"]  # its UNet takes the setting and ignores it
    for key, value in expected.items():
        if key in stated and stated[key] != value:
            raise InputError(
                f"{config} states {key} {one_line(repr(stated[key]), limit=40)}, and the weights "
                f"beside it have {value!r}: it is of another training; put the right file there, "
                "or state the contract with --preprocess"
            )
    sides: Any = (stated.get("input_h"), stated.get("input_w"))
    try:
        contract = replace(convention.preprocess, size=sides)
        require_multiple(contract.size, SIZE_MULTIPLE, network=detected.arch.value)
    except InputError as error:
        raise InputError(
            f"{config}, input_h and input_w: {error}; or state the contract with --preprocess"
        ) from error
    return contract, f"{convention.origin}, the size that {CONFIG} states"
