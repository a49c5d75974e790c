"""The interval around a mean of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95
"""How often the interval holds the true mean."""

RESAMPLES = 9999
"""Bootstrap resamples behind the interval."""

AT_ONCE = 2_000_000
"""Values resampled at a time, so that memory does not grow with the number of images."""


def paired_interval(
    differences: Sequence[float], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the mean of paired differences: symmetric studentized bootstrap.

    Every resample is divided by its own standard error, so that one without the rare large losses
    of a quantized model, which looks certain of itself, counts for less. Intervals made of the
    resampled means alone (percentile, BCa) are too narrow for changes of that kind; how often this
    one holds the true mean is checked in ``tests/benchmarks/scores/``. It is never
    narrower than Student's t, which is what few images, or few that changed, leave.

    Example:
        Identical differences have no spread to resample: their interval is the value itself. Two
        images prove nothing.

        >>> paired_interval([0.0, 0.0, 0.0], seed=0)
        (0.0, 0.0)
        >>> low, high = paired_interval([-1.0, 0.0], seed=0)
        >>> round(low, 2), round(high, 2)
        (-6.85, 5.85)

    Args:
        differences: two or more, one for each image, candidate minus reference.
        seed: of the resampling.
        resamples: how many.

    Source: Hall, "On Symmetric Bootstrap Confidence Intervals", JRSS B 1988.
    """
    values = np.asarray(differences, np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    mean = math.fsum(values) / len(values)
    reach = float(_standard_error(values)) * max(
        float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)),  # Student's t
        _studentized_quantile(values - mean, seed=seed, resamples=resamples),
    )
    return mean - reach, mean + reach


def _studentized_quantile(centred: NDArray[np.float64], *, seed: int, resamples: int) -> float:
    """How many of its own standard errors a resampled mean is off, but in 5 % of resamples.

    Resamples of one value repeated have no standard error and are left out.
    """
    generator = np.random.default_rng(seed)
    batch = max(1, AT_ONCE // len(centred))
    found = [np.zeros(0)]
    for start in range(0, resamples, batch):
        shape = (min(batch, resamples - start), len(centred))
        drawn = centred[generator.integers(len(centred), size=shape)]
        drawn = drawn[np.ptp(drawn, axis=1) > 0]
        found.append(np.abs(drawn.mean(axis=1)) / _standard_error(drawn))
    off = np.concatenate(found)
    return float(np.quantile(off, CONFIDENCE)) if off.size else 0.0


def _standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the mean along the last axis."""
    return np.asarray(values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1]))
