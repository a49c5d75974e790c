"""Whether what a model gave are the probabilities that its output contract says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.system.errors import InputError, RunError

PROBABILITY_SLACK = 0.01
"""How far a quantized sigmoid may step outside [0, 1] and still count as a probability."""

QUANTIZED_STEP = 1 / 255
"""How far rounding to 8 bits may move the sum of a pixel's probabilities, for each class."""


def require_probabilities(values: NDArray[np.floating[Any]], contract: OutputContract) -> None:
    """Refuse values that are no probabilities of the contract's classes.

    Example:
        >>> one = np.array([0.2, 0.9, 1.004], np.float32).reshape(1, 1, 1, 3)  # 8 bits round up
        >>> require_probabilities(one, OutputContract())

    Args:
        values: (N, channels, h, w), or (channels, h, w) of one image.
        contract: the model's.

    Raises:
        InputError: other channels, values outside 0 to 1, or a Softmax whose channels do not add
            up to 1; a quantized output may miss both by its rounding.
        RunError: values that are not finite.
    """
    if values.shape[-3] != contract.channels:
        raise InputError(
            f"predictions have {values.shape[-3]} channels; expected {contract.channels}: "
            f"{', '.join(contract.classes)}"
        )
    broken = values.size - int(np.count_nonzero(np.isfinite(values)))
    if broken:
        raise RunError(
            f"{broken} of {values.size} predicted values are NaN or infinite: the model "
            "overflowed, as fp16 can; keep the overflowing layers in fp32"
        )
    low, high = float(values.min()), float(values.max())
    if low < -PROBABILITY_SLACK or high > 1 + PROBABILITY_SLACK:
        raise InputError(
            f"predictions range from {low:.3g} to {high:.3g}; expected probabilities in 0 to 1. To "
            "a model that ends in logits, `segdeploy adopt` appends its Sigmoid or Softmax"
        )
    if contract.exclusive:
        off = np.abs(values.sum(axis=-3, dtype=np.float64) - 1)
        if off.max() > PROBABILITY_SLACK + contract.channels * QUANTIZED_STEP:
            found = float(values.sum(axis=-3, dtype=np.float64).ravel()[off.argmax()])
            raise InputError(
                f"the probabilities of a pixel add up to {found:.3g}; expected 1 of classes that "
                "exclude each other. `segdeploy adopt` takes a model whose labels may overlap"
            )
