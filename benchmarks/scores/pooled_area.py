"""Area under the ROC curve of all pixels of a set, exact, in memory that does not grow with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.distributed.shard import WHOLE, Shard

AT_ONCE = 1 << 16
"""Probabilities that are sorted at a time, and read from a file at a time."""

MOST_GROUPS = 256
"""Files that probabilities are spread over, for sets of any size."""

IN_MEMORY = 1 << 16
"""Bytes that a file may hold before it lies on the disk."""

HIGH = 1 << 16
"""Values of the upper 16 bits of a float32, and of the lower."""

Keys = NDArray[np.uint32]


def keys_of(values: NDArray[np.float32]) -> Keys:
    """Integers in the order of the values; equal where the values are, -0 and 0 too.

    Example:
        >>> keys = keys_of(np.array([-0.5, -0.0, 0.0, 0.25], np.float32))
        >>> (np.diff(keys.astype(np.int64)) > 0).tolist()
        [True, False, True]
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    below = bits >> np.uint32(31) != 0
    return np.asarray(np.where(below, ~bits, bits | np.uint32(1 << 31)), np.uint32)


Sides = tuple[Keys, Keys]
"""Keys of the true pixels of an image, and of the others."""


def sides_of(probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> Sides:
    """What ``PooledArea`` takes of an image.

    Args:
        probability: finite, any shape.
        truth: the same shape.
    """
    return keys_of(probability[truth].ravel()), keys_of(probability[~truth].ravel())


class PooledArea:
    """Takes images one by one; their probabilities lie in temporary files, 4 bytes a pixel.

    The value is that of ``area_under_roc`` over all of them: pairs are counted in integers, so it
    does not depend on how many pixels there are or in which order they came.

    Example:
        >>> with PooledArea() as area:
        ...     area.add(sides_of(np.float32([0.9, 0.4]), np.array([True, False])))
        ...     area.add(sides_of(np.float32([0.4, 0.1]), np.array([True, False])))
        ...     area.percent()
        87.5
    """

    def __init__(self) -> None:
        self._sides = (_spool(), _spool())
        self._high = np.zeros((2, HIGH), np.int64)

    def __enter__(self) -> PooledArea:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._sides:
            file.close()

    def add(self, sides: Sides) -> None:
        """Take the pixels of an image."""
        for side, keys in enumerate(sides):
            self._high[side] += np.bincount(keys >> np.uint32(16), minlength=HIGH)
            self._sides[side].write(keys.tobytes())

    def percent(self, shard: Shard = WHOLE) -> float | None:
        """The area in percent; ``None`` where the truth holds only one class.

        Args:
            shard: which share of the images was taken here; every process gets the area of all.

        Raises:
            RunError: another process ended before.
        """
        high = np.sum(shard.gathered(self._high), axis=0)
        positives, negatives = (int(side) for side in high.sum(axis=1))
        if positives == 0 or negatives == 0:
            return None
        groups, alike = _groups(high.sum(axis=0))
        lengths = np.stack([np.bincount(groups, side, len(alike)) for side in high]).astype(int)
        twice, below = 0, 0
        sides = (_spread(file, groups, len(alike)) for file in self._sides)
        for number, (true, false) in enumerate(zip(*sides, strict=True)):
            # The processes take turns; each has its share of every group in files of its own.
            told = _low_bits if alike[number] else _keys
            parts = shard.gathered_at(number % shard.size, (told(true), told(false)))
            length = [int(each) for each in lengths[:, number]]
            if parts:
                counted = _twice_by_low_bits if alike[number] else _twice_by_order
                trues, falses = zip(*parts, strict=True)
                twice += 2 * length[0] * below + (counted(trues, falses) if all(length) else 0)
            below += length[1]
        twice = sum(shard.gathered(twice))
        return 100.0 * (twice / 2) / (positives * negatives)


def _spool() -> BinaryIO:
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # type: ignore[return-value]  # bytes


def _groups(counts: NDArray[np.int64]) -> tuple[NDArray[np.int16], list[bool]]:
    """Neighbouring values of the upper bits together, about ``AT_ONCE`` probabilities a group.

    Returns:
        The group of each value, and of each group whether it has one value only, however many
        probabilities share it.
    """
    most = max(AT_ONCE, -(-int(counts.sum()) // (MOST_GROUPS // 2)))
    groups = np.zeros(HIGH, np.int16)
    alike: list[bool] = []
    held = most
    for value in np.flatnonzero(counts):
        begins = held + int(counts[value]) > most
        held = int(counts[value]) if begins else held + int(counts[value])
        alike = [*alike, True] if begins else [*alike[:-1], False]
        groups[value] = len(alike) - 1
    return groups, alike


def _spread(file: BinaryIO, groups: NDArray[np.int16], many: int) -> Iterator[BinaryIO]:
    """The keys of a file group by group, smallest first, each group in a file of its own."""
    if many == 1:
        yield file
        return
    parts = [tempfile.TemporaryFile(buffering=0) for _ in range(many)]  # noqa: SIM115 (closed below)
    try:
        for keys in _blocks(file):
            group = groups[keys >> np.uint32(16)]
            order = np.argsort(group, kind="stable")
            ends = np.searchsorted(group[order], np.arange(many + 1))
            for number in np.unique(group):
                part = order[ends[number] : ends[number + 1]]
                parts[number].write(keys[part].tobytes())
        for part_file in parts:
            yield part_file
            part_file.close()
    finally:
        for part_file in parts:
            part_file.close()


def _blocks(file: BinaryIO) -> Iterator[Keys]:
    file.seek(0)
    while block := file.read(4 * AT_ONCE):
        yield np.frombuffer(block, np.uint32)


def _keys(file: BinaryIO) -> Keys:
    keys, taken = np.empty(file.seek(0, 2) // 4, np.uint32), 0
    for block in _blocks(file):
        keys[taken : taken + len(block)] = block
        taken += len(block)
    return keys


def _low_bits(file: BinaryIO) -> NDArray[np.int64]:
    """How many keys have each value of the lower 16 bits, however many keys there are."""
    counts = (np.bincount(keys & np.uint32(0xFFFF), minlength=HIGH) for keys in _blocks(file))
    return sum(counts, np.zeros(HIGH, np.int64))


def _twice_by_order(trues: Sequence[Keys], falses: Sequence[Keys]) -> int:
    """Twice the pairs in which the true pixel is above the false one, ties counting once.

    Args:
        trues: of each process; put in order.
        falses: likewise.
    """
    ranked = falses[0] if len(falses) == 1 else np.concatenate(falses)
    ranked.sort()
    for keys in trues:
        keys.sort()  # in order, the look-ups stay near each other
    return sum(
        int(np.searchsorted(ranked, keys[start : start + AT_ONCE], side=side).sum())
        for keys in trues
        for start in range(0, len(keys), AT_ONCE)
        for side in ("left", "right")
    )


def _twice_by_low_bits(
    trues: Sequence[NDArray[np.int64]], falses: Sequence[NDArray[np.int64]]
) -> int:
    """The same of keys whose upper bits are all one, by how many have each lower value."""
    true, false = np.sum(trues, axis=0), np.sum(falses, axis=0)
    return int((true * (2 * np.cumsum(false) - false)).sum())
