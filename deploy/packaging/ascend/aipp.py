"""AIPP, the preprocessing of an Ascend processor, from our contract: a text protobuf.

AIPP computes ``(pixel - mean_chn_i - min_chn_i) * var_reci_chn_i`` on 8-bit pixels, after it has
swapped red and blue where it is told to. Ours is ``(scale * pixel - mean) / std`` after the swap,
so the offset is ``mean / scale``, its whole part an integer and the rest fp16, and the factor
``scale / std``, in fp16, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.packaging.text_protobuf import Schema, fields_of
from segdeploy.deploy.system.errors import InputError

FORMAT = "RGB888_U8"
WHOLE_MEANS = range(256)
"""What ``mean_chn_i`` holds: an unsigned byte."""

SCHEMA = Schema(
    messages={
        "File": {"aipp_op": "repeated Aipp"},
        "Aipp": {
            "aipp_mode": "Mode",
            "related_input_rank": "int32",
            "input_format": "Format",
            "src_image_size_w": "int32",
            "src_image_size_h": "int32",
            "crop": "bool",
            "csc_switch": "bool",
            "rbuv_swap_switch": "bool",
        }
        | {f"mean_chn_{index}": "int32" for index in range(3)}
        | {f"min_chn_{index}": "float" for index in range(3)}
        | {f"var_reci_chn_{index}": "float" for index in range(3)},
    },
    enums={
        "Mode": {"undefined": 0, "static": 1, "dynamic": 2},
        "Format": {"UNDEFINED": 0, "YUV420SP_U8": 1, "XRGB8888_U8": 2, FORMAT: 3, "YUV400_U8": 4},
    },
)
"""The fields of ``aipp_op`` written here."""


@dataclass(frozen=True, kw_only=True)
class Aipp:
    """A static AIPP operator for RGB images that already have the network's size.

    Attributes:
        size: (height, width).
        swap: red and blue change places first.
        whole: integer part of each channel's offset.
        rest: what is left of it, fp16.
        factor: fp16.
    """

    size: tuple[int, int]
    swap: bool
    whole: tuple[int, int, int]
    rest: tuple[float, float, float]
    factor: tuple[float, float, float]

    @classmethod
    def of(cls, preprocess: Preprocess) -> Aipp:
        """The operator that does what a contract says, as exactly as fp16 can.

        Example:
            >>> aipp = Aipp.of(Preprocess())
            >>> aipp.swap, aipp.whole, aipp.rest  # 0.5 * 255 = 127 + 0.5
            (True, (127, 127, 127), (0.5, 0.5, 0.5))

        Raises:
            InputError: a scale of 0, or a number beyond fp16.
        """
        if preprocess.scale == 0:
            raise InputError("the contract's scale is 0; AIPP multiplies pixels, so it must not be")
        offsets = [mean / preprocess.scale for mean in preprocess.mean]
        whole = [_whole(offset) for offset in offsets]
        factors = [preprocess.scale / std for std in preprocess.std]
        return cls(
            size=preprocess.size,
            swap=preprocess.channel_order == "BGR",
            whole=(whole[0], whole[1], whole[2]),
            rest=_halves([o - w for o, w in zip(offsets, whole, strict=True)]),
            factor=_halves(factors),
        )

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the processor makes of one RGB image (H, W, 3): float32 (3, H, W)."""
        ordered = image[..., ::-1] if self.swap else image
        offset = np.asarray(self.whole, np.float32) + np.asarray(self.rest, np.float32)
        values = (ordered.astype(np.float32) - offset) * np.asarray(self.factor, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1)).astype(np.float32)

    def text(self) -> str:
        """The configuration file of ``atc --insert_op_conf``."""
        height, width = self.size
        fields: list[tuple[str, object]] = [
            ("aipp_mode", "static"),
            ("related_input_rank", 0),
            ("input_format", FORMAT),
            ("src_image_size_w", width),
            ("src_image_size_h", height),
            ("crop", "false"),
            ("csc_switch", "false"),
            ("rbuv_swap_switch", str(self.swap).lower()),
        ]
        for key, values in (
            ("mean_chn", self.whole),
            ("min_chn", [np.float16(value) for value in self.rest]),  # in fp16's few digits
            ("var_reci_chn", [np.float16(value) for value in self.factor]),
        ):
            fields += [(f"{key}_{index}", value) for index, value in enumerate(values)]
        return "aipp_op {\n" + "".join(f"    {key}: {value}\n" for key, value in fields) + "}\n"


def read_aipp(text: str, *, source: str) -> Aipp:
    """Read a configuration file back.

    Args:
        text: its content.
        source: what to call it in an error.

    Raises:
        InputError: not one ``aipp_op`` of the fields written here.
    """
    blocks = fields_of(SCHEMA.read(text, source=source)).get("aipp_op", [])
    try:
        (fields,) = blocks
        aipp = Aipp(
            size=(fields["src_image_size_h"], fields["src_image_size_w"]),
            swap=fields["rbuv_swap_switch"],
            whole=_three(fields, "mean_chn"),
            rest=_halves(list(_three(fields, "min_chn"))),
            factor=_halves(list(_three(fields, "var_reci_chn"))),
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{source} is not one complete aipp_op ({error})") from error
    if aipp.text() != text:
        raise InputError(f"{source} does more than normalise and swap; it was written otherwise")
    return aipp


def _three(fields: dict[str, Any], key: str) -> tuple[Any, Any, Any]:
    first, second, third = (fields[f"{key}_{index}"] for index in range(3))
    return first, second, third


def _whole(offset: float) -> int:
    """The part of an offset that ``mean_chn_i`` takes; none where it is out of a byte's range."""
    floor = math.floor(offset)
    return floor if floor in WHOLE_MEANS else 0


def _halves(values: list[float]) -> tuple[float, float, float]:
    with np.errstate(over="ignore"):  # infinity is refused below
        halves = [float(np.float16(value)) for value in values]
    if not all(math.isfinite(half) for half in halves) or any(
        value != 0 and half == 0 for value, half in zip(values, halves, strict=True)
    ):
        raise InputError(f"the contract needs the numbers {values}, which fp16 does not hold")
    return halves[0], halves[1], halves[2]
