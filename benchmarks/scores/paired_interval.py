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

RESAMPLED_AT_MOST = 20_000
"""Images; of more, those near the mean are resampled together (``large_quantile``)."""

FURTHEST = 2_000
"""Images that are still resampled one by one then."""

ROUNDED = 1e-9
"""Share of the variance that is none: what rounding leaves of resamples of one value repeated."""


def paired_interval(
    differences: Sequence[float] | NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % interval of the mean of paired differences: symmetric studentized bootstrap.

    Every resample is divided by its own standard error, so that one without the rare large losses
    of a quantized model, which looks certain of itself, counts for less. Intervals made of the
    resampled means alone (percentile, BCa) are too narrow for changes of that kind; how often this
    one holds the true mean is checked in ``tests/benchmarks/scores/``. It is never
    narrower than Student's t, which is what few images, or few that changed, leave. Of more than
    ``RESAMPLED_AT_MOST`` those near the mean are resampled together, which tests show to agree.

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
    quantile = _studentized_quantile if len(values) <= RESAMPLED_AT_MOST else large_quantile
    reach = float(_standard_error(values)) * max(
        float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)),  # Student's t
        quantile(values - mean, seed=seed, resamples=resamples),
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


def large_quantile(centred: NDArray[np.float64], *, seed: int, resamples: int) -> float:
    """``_studentized_quantile`` of many values, in time that hardly grows with their number.

    How often each value is drawn is close to a Poisson number of mean 1. It is drawn so for the
    ``FURTHEST`` from the mean, which make the quantile what it is; the sum, the sum of squares and
    the number of all others are normal, with the moments that their drawing has.

    Args:
        centred: differences less their mean.
        seed: of the resampling.
        resamples: how many.
    """
    generator = np.random.default_rng(seed)
    order = np.argpartition(np.abs(centred), -FURTHEST)
    near, far = centred[order[:-FURTHEST]], centred[order[-FURTHEST:]]
    moments = [float((near**power).sum()) for power in range(5)]
    spread = [[moments[i + j] for j in range(3)] for i in range(3)]
    found = []
    for start in range(0, resamples, AT_ONCE // FURTHEST):
        many = min(AT_ONCE // FURTHEST, resamples - start)
        rest = generator.multivariate_normal(moments[:3], spread, size=many, method="svd")
        drawn = generator.poisson(1.0, size=(many, FURTHEST)).astype(np.float64)
        count, total, squares = (rest[:, n] + drawn @ far**n for n in range(3))
        variance = (squares - total**2 / count) / (count - 1)
        told = variance > ROUNDED * centred.var()
        found.append(np.abs(total / count)[told] / np.sqrt((variance / count)[told]))
    return float(np.quantile(np.concatenate(found), CONFIDENCE))


def _standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the mean along the last axis."""
    return np.asarray(values.std(axis=-1, ddof=1) / math.sqrt(values.shape[-1]))
