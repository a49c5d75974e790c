"""Weights rounded so that a layer gives, on calibration data, what it gives in float.

Each integer may be the one below or the one above its weight. They are changed one at a time as
long as the squared error of the layer's output falls: coordinate descent on whole numbers, for all
output channels at once. Every product and sum is one of integers that float64 holds exactly, so
the result depends on no order of the data and on no number of threads.

Sources: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020,
for the objective (the output behind the activation, from the inputs that the quantized network
makes); Hubara et al., "Accurate Post Training Quantization With Small Calibration Sets", ICML
2021, for going layer by layer; both relax the choice, here it is searched as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.errors import CalibrationError

F64 = NDArray[np.float64]

BLOCK = 64
"""Weights of a kernel between two updates of the whole residual."""

MOST_SWEEPS = 5

RIDGE = 0.01
"""Share of the mean energy of the inputs that pulls towards the nearest integer: a few thousand
positions do not tell all weights of a wide layer apart."""

EXACT = float(2**53)


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A piecewise linear function behind a layer: ``slope * x`` below 0, x up to ``cap``.

    Attributes:
        slope: below zero: 0 of a ReLU, 1 where there is no activation.
        cap: the largest value, of each output channel or of all; infinite where there is none.
    """

    slope: float = 1.0
    cap: F64 | float = np.inf

    def __call__(self, values: F64) -> F64:
        """What comes behind it."""
        positive = np.minimum(values, self.cap)
        return np.asarray(np.where(values > 0, positive, self.slope * values))

    def wanted(self, values: F64, target: F64) -> F64:
        """What should stand in front of it, given what does.

        The square of the distance from it bounds that of the outputs, up to a constant, and touches
        it at ``values``: making one smaller makes the other smaller. Where the outputs are the same
        already nothing is wanted; a value on the flat part that should not be there is called back.
        """
        now, goal = self(values), self(target)
        if 0 < self.slope < 1:
            back = np.where(values > 0, goal, values - self.slope * (now - goal))
            return np.asarray(np.rint(back))
        return np.asarray(np.where(now == goal, values, goal))


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A layer's integers, and what they leave of its error.

    Attributes:
        integers: int8 (O, K).
        before: squared error of the output behind the activation with the integers given, for each
            output channel, in steps of its sums.
        after: with these; nowhere larger.
    """

    integers: NDArray[np.int8]
    before: F64
    after: F64


def learnt_rounding(
    exact: F64,
    start: NDArray[np.int8],
    inputs: NDArray[np.float32],
    *,
    bias: F64,
    target: F64,
    activation: Activation,
    limit: int,
) -> Rounded:
    """Choose for each weight the integer below or above it.

    Example:
        Both inputs are always alike, so one weight may be rounded down for the other.

        >>> found = learnt_rounding(
        ...     np.array([[0.5, 0.4]]), np.array([[1, 1]], np.int8),
        ...     np.array([[10, 10], [20, 20]], np.float32),
        ...     bias=np.zeros((2, 1)), target=np.array([[9.0], [18.0]]),
        ...     activation=Activation(), limit=127,
        ... )
        >>> found.integers, found.before, found.after
        (array([[0, 1]], dtype=int8), array([605.]), array([5.]))

    Args:
        exact: (O, K), weights in steps of their scales.
        start: (O, K), their integers so far.
        inputs: (N, K), what N outputs are computed from: whole numbers, as the layer's integers.
        bias: (N, O), what is added to the sums of products, in their steps: whole numbers.
        target: (N, O), the float layer's output in front of its activation, in the same steps:
            whole numbers.
        activation: what comes behind the layer, its ``cap`` in the same steps.
        limit: largest magnitude of an integer.

    Raises:
        CalibrationError: values too large for sums to be exact.
    """
    held = inputs.astype(np.float64)
    _require_exact(held, target, bias, limit)
    integers = start.astype(np.float64)
    below = np.clip(np.floor(exact), -limit, limit)
    above = np.clip(np.ceil(exact), -limit, limit)
    sums = held @ integers.T + bias
    goal = activation(target)
    before = _squares(activation(sums) - goal)
    ridge = RIDGE * float(np.square(held).sum()) / held.shape[1]
    parts = [held[:, k : k + BLOCK] for k in range(0, held.shape[1], BLOCK)]
    energies = [part.T @ part for part in parts]
    for _ in range(MOST_SWEEPS):
        wanted = activation.wanted(sums, target)
        residual = sums - wanted
        moved = _sweep(exact, integers, below, above, held, residual, ridge, energies)
        sums = residual + wanted
        if not moved:
            break
    after = _squares(activation(sums) - goal)
    worse = after >= before
    integers[worse] = start[worse]
    return Rounded(
        integers=integers.astype(np.int8), before=before, after=np.where(worse, before, after)
    )


def _sweep(
    exact: F64,
    integers: F64,
    below: F64,
    above: F64,
    inputs: F64,
    residual: F64,
    ridge: float,
    energies: list[F64],
) -> int:
    """Once over all weights, changing ``integers`` and ``residual``; how many were changed.

    ``energies`` are the products of each block of ``BLOCK`` inputs with itself.
    """
    moved = 0
    for first, energy in zip(range(0, exact.shape[1], BLOCK), energies, strict=True):
        read = inputs[:, first : first + BLOCK]
        slopes = read.T @ residual
        changes = np.zeros((energy.shape[0], len(exact)))
        for place in range(len(energy)):
            now, weight = integers[:, first + place], exact[:, first + place]
            other = np.where(now > weight, below[:, first + place], above[:, first + place])
            step = other - now
            pull = slopes[place] + ridge * (now - weight)
            gain = step * (2 * pull + step * (energy[place, place] + ridge))
            step[gain >= 0] = 0
            if step.any():
                changes[place] = step
                integers[:, first + place] += step
                slopes += energy[:, place, None] * step
                moved += int(np.count_nonzero(step))
        residual += read @ changes
    return moved


def _squares(errors: F64) -> F64:
    return np.asarray(np.square(errors).sum(axis=0))


def _require_exact(inputs: F64, target: F64, bias: F64, limit: int) -> None:
    """Every sum of products must be a whole number below 2**53, whatever is rounded where."""
    size = float(np.abs(inputs).max(initial=0))
    sums = size * limit * inputs.shape[1] + float(np.abs(target).max(initial=0))
    sums += float(np.abs(bias).max(initial=0))
    if not len(inputs) * size * sums < EXACT:
        raise CalibrationError(
            f"sums of {len(inputs)} products of {size:g} and {sums:g} are not exact in float64; "
            "give fewer or smaller values"
        )
