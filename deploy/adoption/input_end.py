"""What a foreign model takes: where its channels, height and width are, and of which type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import specs_of
from segdeploy.deploy.system.errors import InputError, one_line

FEW_CHANNELS = 4
"""Of an image whose other axis is open: grey, colours, and colours beside opacity or infrared."""

FLOATS = ("float16", "float32", "float64")
PIXELS = "uint8"


@dataclass(frozen=True, kw_only=True)
class InputEnd:
    """The image input of a foreign model.

    Attributes:
        name: of the tensor.
        dtype: NumPy's name: a float type, or uint8 for a model that normalises by itself.
        channels: of the image; ``None`` where the file leaves them open.
        channels_last: (N, H, W, C) instead of (N, C, H, W).
        batch: images it takes at once; ``None`` where any number.
        height: ``None`` where the file leaves it open.
        width: likewise.
    """

    name: str
    dtype: str
    channels: int | None
    channels_last: bool
    batch: int | None
    height: int | None
    width: int | None

    def size(self, asked: tuple[int, int] | None = None) -> tuple[int, int]:
        """Height and width: those of the file, where it fixes them.

        Args:
            asked: what to take where the file leaves them open.

        Raises:
            InputError: the file fixes others, or neither states them.
        """
        found = (self.height, self.width)
        if asked is None:
            if self.height is None or self.width is None:
                raise InputError(
                    f"input {self.name!r} takes images of any size; state the one to deploy: "
                    "--size HEIGHT WIDTH"
                )
            return self.height, self.width
        if any(there not in (None, here) for there, here in zip(found, asked, strict=True)):
            raise InputError(
                f"input {self.name!r} takes images of {_side(self.height)}x{_side(self.width)} "
                f"(height x width), the input contract says {asked[0]}x{asked[1]}; give a contract "
                "of the model's size, or export the model for this one"
            )
        return asked

    def require_contract(self, contract: Preprocess) -> None:
        """Refuse a contract whose values the input cannot hold.

        Raises:
            InputError: other channels than the model's, or fractions for an input of whole pixels.
        """
        count = len(contract.mean)
        if self.channels not in (None, count):
            raise InputError(
                f"input {self.name!r} takes images of {self.channels} "
                f"channel{'s' * (self.channels != 1)}, the input contract makes {count}; give a "
                f"contract of {self.channels} (--preprocess)"
            )
        whole = contract.scale == 1 and set(contract.mean) == {0} and set(contract.std) == {1}
        if self.dtype == PIXELS and not whole:
            raise InputError(
                f"input {self.name!r} takes 8-bit pixels and normalises by itself, the input "
                "contract makes fractions of them; use --preprocess pixels"
            )

    def fed(self, image: NDArray[np.float32]) -> NDArray[np.generic]:
        """An image of our form as this input takes it, as often as its batch asks.

        Args:
            image: (channels, height, width), normalised by the contract.
        """
        turned = image.transpose(1, 2, 0) if self.channels_last else image
        batch = np.repeat(turned[None], self.batch or 1, axis=0)
        return np.ascontiguousarray(batch.astype(self.dtype))


def input_end(model: onnx.ModelProto) -> InputEnd:
    """The image input of a model.

    Args:
        model: in the one form of ``normalise``, so that no weight is an input.

    Raises:
        InputError: several inputs, or none that is an image.
    """
    specs = specs_of(model.graph.input)
    if len(specs) != 1:
        names = one_line([spec.name for spec in specs], limit=160)
        raise InputError(f"the model has the inputs {names}; expected one image: export it again")
    (spec,) = specs
    if len(spec.shape) != 4 or spec.dtype not in (*FLOATS, PIXELS):
        raise InputError(
            f"input {one_line(repr(spec.name), limit=80)} is {spec.dtype} "
            f"{one_line(spec.shape, limit=80)}; expected one image, float or uint8, (batch, "
            "channels, height, width) or (batch, height, width, channels)"
        )
    fixed = [axis if isinstance(axis, int) else None for axis in spec.shape]
    channels_last = _channels_last(fixed[1], fixed[3])
    channels = fixed[3] if channels_last else fixed[1]
    height, width = fixed[1:3] if channels_last else fixed[2:]
    return InputEnd(
        name=spec.name,
        dtype=spec.dtype,
        channels=channels,
        channels_last=channels_last,
        batch=fixed[0],
        height=height,
        width=width,
    )


def _channels_last(second: int | None, last: int | None) -> bool:
    """Whether the last of four axes holds the channels: it is the shorter one.

    Example:
        >>> _channels_last(3, 96), _channels_last(96, 3), _channels_last(None, 3)
        (False, True, True)
    """
    if last is None:
        return False
    return last <= FEW_CHANNELS if second is None else last < second


def _side(length: int | None) -> str:
    return "any" if length is None else str(length)
