"""The two forms of a model's ends: normalised tensor to probability, or 8-bit image to mask."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Pixels, Preprocess
from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.system.errors import InputError, one_line

INPUT_NAME = "image"
OUTPUT_NAME = "probability"
"""Of the tensors that a network exported here takes and gives."""

METADATA_KEY = "interface"
"""Where a model file says that it is of another form than ``tensor-probability``."""


class Interface(str, Enum):
    """What a model takes and gives, by the words of ``metadata_props``.

    Attributes:
        TENSOR: float32 (N, channels, h, w), normalised, to probabilities, float32 (N, classes, h,
            w).
        IMAGE: uint8 (N, h, w, channels), resized, to the mask, uint8 (N, h, w) of 0 and 1, or of
            the class of each pixel.
    """

    TENSOR = "tensor-probability"
    IMAGE = "image-mask"

    def prepared(
        self, image: Pixels, preprocess: Preprocess
    ) -> NDArray[np.float32] | NDArray[np.uint8]:
        """One image as a model takes it, without the batch axis.

        Args:
            image: (H, W, channels), as decoded or already resized.
            preprocess: the model's input contract; an image model does all but its resize.

        Returns:
            (channels, h, w) float32 or (h, w, channels) uint8.
        """
        if self is Interface.TENSOR:
            return preprocess.apply(image)
        return preprocess.pixels(image)

    def probability(self, output: NDArray[Any], contract: OutputContract) -> NDArray[np.float32]:
        """The probability of each class, (N, classes, h, w); of a mask, 0 or 1.

        Example:
            >>> one = Interface.IMAGE.probability(np.array([[[0, 1]]], np.uint8), OutputContract())
            >>> one.shape, one.tolist()
            ((1, 1, 1, 2), [[[[0.0, 1.0]]]])

        Args:
            output: what the model gave for one batch.
            contract: the model's.

        Raises:
            InputError: values that are no probabilities of the contract's classes.
            RunError: values that are not finite.
        """
        if self is Interface.TENSOR:
            probability = output.astype(np.float32, copy=False)
        elif contract.exclusive:
            classes = np.arange(contract.channels).reshape(1, -1, 1, 1)
            probability = (output[:, None] == classes).astype(np.float32)
        else:
            probability = output[:, None].astype(np.float32)
        require_probabilities(probability, contract)
        return probability


def interface_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Interface:
    """The form of a loaded model, told by the types and ranks of its ends.

    Raises:
        InputError: neither of the two.
    """
    ends = [(spec.dtype, len(spec.shape)) for spec in (*inputs, *outputs)]
    if len(inputs) == len(outputs) == 1:
        if ends == [("uint8", 4), ("uint8", 3)] and isinstance(inputs[0].shape[3], int):
            return Interface.IMAGE
        if ends == [("float32", 4), ("float32", 4)]:
            return Interface.TENSOR
    raise InputError(
        f"the model has inputs {_shown(inputs)} and outputs {_shown(outputs)}; expected one image "
        "and one probability for each class, float32 (batch, classes, height, width), or one 8-bit "
        "image (batch, height, width, channels) and one mask (batch, height, width)"
    )


def _shown(specs: Sequence[TensorSpec]) -> str:
    return one_line([(spec.name, spec.dtype, spec.shape) for spec in specs], limit=160)
