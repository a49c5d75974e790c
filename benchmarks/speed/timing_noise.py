"""Which differences between times of one run mean something, and what to say of those that do not.

Candidates take turns, so that each round gives a ratio of two of them from the same moment. The
rounds' ratios give an interval; a ranking inside it is a matter of luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_ind

from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.benchmarks.speed.records import BenchmarkRow, BenchmarkSection

BLOCKS = 40
"""Rounds are averaged to so many at most: neighbours share a slow moment and count once."""

OTHERS_PERCENT = 10.0
"""Share of the processors that others may have before it is said."""

COARSE_PERCENT = 5.0
"""Differences that must be told apart; a coarser run is said to be."""


def rounds_s(row: BenchmarkRow) -> list[float]:
    """Seconds of each round of a row, for the same work in each; none where it was not timed."""
    if row.latencies_s:
        return list(row.latencies_s)
    return [stamps[-1] / len(stamps) for stamps in row.completions_s or ()]


def ratio_interval(one_s: Sequence[float], other_s: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of how many times as long the other takes, over the rounds of one run.

    Example:
        The machine is half as fast in the second round, for both:

        >>> low, high = ratio_interval([1.0, 2.0, 1.0], [1.5, 3.0, 1.5])
        >>> round(low, 6), round(high, 6)
        (1.5, 1.5)

    Args:
        one_s: seconds of each round.
        other_s: of the same rounds.

    Returns:
        Low and high; ``None`` where there are not two rounds, or not as many of both.
    """
    if len(one_s) != len(other_s) or len(one_s) < 2:
        return None
    blocks = _block_means(np.log(np.asarray(other_s) / np.asarray(one_s)))
    low, high = paired_interval(blocks, seed=0)
    return math.exp(low), math.exp(high)


def ratio_interval_of_two_runs(
    one_s: Sequence[float], other_s: Sequence[float]
) -> tuple[float, float] | None:
    """95 % interval of how many times as long the other takes, where nothing pairs the rounds.

    Welch's, of the logarithms. How one run of the same model differs from the next is not in it.

    Example:
        >>> low, high = ratio_interval_of_two_runs([1.0, 1.1, 0.9], [2.0, 2.1, 1.9])
        >>> low < 2 < high
        True

    Args:
        one_s: seconds of each round.
        other_s: of the rounds of another run.

    Returns:
        Low and high; ``None`` where either has not two rounds.
    """
    if min(len(one_s), len(other_s)) < 2:
        return None
    one, other = (_block_means(np.log(np.asarray(each))) for each in (one_s, other_s))
    if np.ptp(one) == np.ptp(other) == 0:  # no spread, of which a t has no interval
        return (math.exp(other[0] - one[0]),) * 2
    ends = ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
    return math.exp(ends.low), math.exp(ends.high)


def _block_means(logs: NDArray[np.float64]) -> list[float]:
    return [float(block.mean()) for block in np.array_split(logs, min(BLOCKS, len(logs)))]


def resolution_percent(rows: Sequence[BenchmarkRow]) -> float | None:
    """The smallest difference that means something among rows of one setting, percent.

    Half the interval of each row's ratio to the fastest; the largest counts. PyTorch, which nobody
    chooses between, counts only beside a single candidate.
    """
    timed = [row for row in rows if rounds_s(row)]
    chosen = [row for row in timed if row.runtime != "pytorch"]
    timed = chosen if len(chosen) > 1 else timed
    if len(timed) < 2:
        return None
    first = min(timed, key=lambda row: float(np.median(rounds_s(row))))
    intervals = [
        ratio_interval(rounds_s(first), rounds_s(row)) for row in timed if row is not first
    ]
    found = [50.0 * math.log(ends[1] / ends[0]) for ends in intervals if ends]
    return max(found) if found else None


def within_noise(best: BenchmarkRow, others: Sequence[BenchmarkRow]) -> list[str]:
    """Names of the rows that cannot be told from the best: the interval of their ratio holds 1."""
    names = []
    for row in others:
        ends = ratio_interval(rounds_s(best), rounds_s(row))
        if ends and ends[0] <= 1.0:
            names.append(row.name)
    return names


def noise_words(*, other_cpu_percent: float | None, resolution_percent: float | None) -> str | None:
    """What is wrong with the conditions of a setting, in one line; ``None`` where nothing is.

    Example:
        >>> noise_words(other_cpu_percent=38.2, resolution_percent=8.6)
        'noise: other processes used 38 % of the CPU while this was timed; differences under 9 % \
mean nothing here'
        >>> noise_words(other_cpu_percent=2.0, resolution_percent=1.5)

    Args:
        other_cpu_percent: what others had of the processors; ``None`` where not known.
        resolution_percent: as the function of that name says.
    """
    others, resolution = other_cpu_percent, resolution_percent
    busy = others is not None and others >= OTHERS_PERCENT
    coarse = resolution is not None and resolution >= COARSE_PERCENT
    said = [f"other processes used {others:.0f} % of the CPU while this was timed"] if busy else []
    if (busy or coarse) and resolution is not None:
        said.append(f"differences under {max(1, math.ceil(resolution))} % mean nothing here")
    return f"noise: {'; '.join(said)}" if said else None


def noise_lines(section: BenchmarkSection | None) -> list[str]:
    """One line for each setting of a benchmark whose figures are to be doubted."""
    found = []
    for each in section.conditions if section else ():
        words = noise_words(
            other_cpu_percent=each.other_cpu_percent, resolution_percent=each.resolution_percent
        )
        if words:
            setting = f"batch {each.batch}, threads {each.threads}, streams {each.streams}"
            found.append(f"{setting}: {words}")
    return found
