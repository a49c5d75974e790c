"""Preprocessing on a Vastai card: the parameters of its image unit (VDSP), from our contract."""

from __future__ import annotations

from typing import Any

import numpy as np

from segdeploy.deploy.data.preprocess import Preprocess

DIGITS = 9
"""Significant digits kept: more than float32 holds, and no trace of 1/255 in binary."""


def unit_range(preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """Mean and std after a division by 255, whatever the contract's own scale is.

    ``(scale x - mean) / std`` is ``(x / 255 - mean / k) / (std / k)`` with ``k = 255 scale``.

    Example:
        >>> unit_range(Preprocess())
        ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
        >>> unit_range(Preprocess(scale=1.0, mean=(51, 0, 0), std=(255, 255, 255)))
        ([0.2, 0.0, 0.0], [1.0, 1.0, 1.0])
    """
    factor = 255.0 * preprocess.scale
    return (
        [_short(value / factor) for value in preprocess.mean],
        [_short(value / factor) for value in preprocess.std],
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


OPERATOR = "FUSION_OP_RGB_RESIZE_CVTCOLOR_NORM_TENSOR"
OLDER_OPERATOR = "RGB_RESIZE_CVTCOLOR_NORMALIZATION_TENSORIZATION_U8"
COLOUR = {"BGR": "RGB2BGR", "RGB": "NO_CHANGE"}


def operator_json(preprocess: Preprocess) -> dict[str, Any]:
    """What VastStreamX and ``vamp --vdsp_params`` read: RGB planes in, the network's tensor out.

    Input and output have the contract's size, as in the published files: whoever feeds the card
    resizes first. ``Mean`` and ``Std`` are in the order of the channels the network gets.

    Example:
        The published models' contract gives ``"Mean": [0.5, 0.5, 0.5]`` and
        ``"ColorCvtCode": "RGB2BGR"``.
    """
    height, width = preprocess.size
    mean, std = unit_range(preprocess)
    return {
        "OpType": OPERATOR,
        "OpConfig": {
            "IimageFormat": "RGB_PLANAR",
            "IimageWidth": width,
            "IimageHeight": height,
            "OimageWidth": width,
            "OimageHeight": height,
            "IimageWidthPitch": width,
            "IimageHeightPitch": height,
            "Mean": mean,
            "Std": std,
            "NormaType": "DIV255_MINUSMEAN_DIVSTD",
            "ColorCvtCode": COLOUR[preprocess.channel_order],
            "ResizeType": "BILINEAR_CV",
        },
    }


def older_operator_json(preprocess: Preprocess) -> dict[str, Any] | None:
    """The form that earlier releases of ``vamp`` read: a list of properties, numbers as fp16 bits.

    ``None`` where channels differ and the network wants BGR: this form names its numbers after
    red, green and blue, and its document does not say before or after the swap.

    Example:
        0.5 is 0x3800 in fp16, so ``meanr`` is 14336.
    """
    mean, std = unit_range(preprocess)
    if preprocess.channel_order == "BGR" and len({*mean}) + len({*std}) > 2:
        return None
    height, width = preprocess.size
    sides = {"width": ("INT", width), "height": ("INT", height)}
    pitches = {"width_pitch": ("UINT_32", width), "height_pitch": ("UINT_32", height)}
    numbers = [*zip("rgb", mean, strict=True)], [*zip("rgb", std, strict=True)]
    rows: list[tuple[str, str, object]] = [("iimage_format", "UINT_32", "RGB_PLANAR")]
    rows += [(f"iimage_{key}", kind, value) for key, (kind, value) in (sides | pitches).items()]
    rows += [(f"oimage_{key}", kind, value) for key, (kind, value) in sides.items()]
    rows += [(f"mean{channel}", "UINT_16", half_bits(value)) for channel, value in numbers[0]]
    rows += [(f"std{channel}", "UINT_16", half_bits(value)) for channel, value in numbers[1]]
    code = COLOUR[preprocess.channel_order]
    rows += [
        ("norma_type", "INT", "DIV255_MINUSMEAN_DIVSTD"),
        ("resize_type", "INT", "BILINEAR_CV"),
        ("color_cvt_code", "UINT_16", "COLOR_RGB2BGR" if code == "RGB2BGR" else code),
        ("color_space", "UINT_16", "COLOR_SPACE_BT709"),
    ]
    return {
        "vdsp_op_type": OLDER_OPERATOR,
        "config": [
            {"Property": name, "DType": kind, "ParamType": "ELEMENT", "Value": value}
            for name, kind, value in rows
        ],
    }


def half_bits(value: float) -> int:
    """The bits of a number as fp16.

    Example:
        >>> half_bits(0.5)
        14336
    """
    return int(np.float16(value).view(np.uint16))
