"""What was found at each layer, as values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from segdeploy.calibration.json_record import Count, NotNegative, Percent, Text

Part = Literal["input", "weight", "bias"]
"""Of a convolution, what int8 rounds."""

FAULT_DB = 12.0
"""SQNR behind what 8 bits can give, two bits, from which a scale may be wrong and not just coarse.

Sharing a scale costs up to 3 dB, symmetric integers for values without sign 6, 7-bit weights 6.
A scale that is 8 times too large costs 18.
"""

FAULT_WIDTH = 3.0
FAULT_CLIPPED_PERCENT = 10.0
"""Beside ``FAULT_DB``, what no calibration does to an activation: integers for more than 3 times
its largest magnitude, or a tenth of the values clipped. The KL search gives up 20 dB now and then
for a few values in a hundred, on purpose."""

HARMLESS_DB = 40.0
"""SQNR of the network's output from which a layer alone does no harm, where it changes no pixel."""

BIAS_REACHABLE_DB = 30.0
"""What a bias in int32 has at the least, even one so small that its steps show."""

HISTOGRAM_BINS = 128


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Counts of values in equal bins from the smallest to the largest.

    Attributes:
        edges: one more than counts; equal widths from observed_min to observed_max.
        counts: values above an edge and at or below the next.
    """

    edges: Annotated[tuple[float, ...], Meta(min_length=2, max_length=HISTOGRAM_BINS + 1)]
    counts: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=HISTOGRAM_BINS)]


@dataclass(frozen=True, kw_only=True)
class RoundingError:
    """One rounding of an activation on the way to a layer.

    Attributes:
        tensor: that is rounded.
        sqnr_db: with the integers of the int8 model, of its float values; ``None`` where exact.
        sqnr_reachable_db: with 8 bits and the range of least squared error.
        observed_min: smallest value in the float model.
        observed_max: largest value.
        range_min: smallest number its integers stand for; ``None`` where they are not known.
        range_max: largest number.
        clipped_percent: values further outside than half a step, which is lost to clipping.
    """

    tensor: Text
    sqnr_db: float | None
    sqnr_reachable_db: float | None
    observed_min: float
    observed_max: float
    range_min: float | None
    range_max: float | None
    clipped_percent: Percent

    @property
    def shortfall_db(self) -> float:
        """How far it stays behind what 8 bits can give; 0 where it does not."""
        return _gap(self.sqnr_reachable_db, self.sqnr_db)

    @property
    def fault(self) -> bool:
        """Whether its scale is wrong: it loses two bits by a range that no calibration chooses."""
        if self.shortfall_db < FAULT_DB:
            return False
        if self.range_min is None or self.range_max is None:
            return True
        largest = max(-self.observed_min, self.observed_max)
        wide = max(-self.range_min, self.range_max) >= FAULT_WIDTH * largest
        return wide or self.clipped_percent >= FAULT_CLIPPED_PERCENT


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One convolution in int8, over all images. SQNRs are in dB; ``None`` where nothing changed.

    Attributes:
        name: of the node, as ``--exclude`` takes it.
        position: among the convolutions that are quantized, in the order they run, from 0.
        macs: multiply-adds for one image.
        sqnr_alone_db: of the network's output with this layer alone in int8.
        disagreement_alone_percent: pixels whose class that changes.
        sqnr_accumulated_db: of this layer's output in the whole int8 model; also ``None`` where
            that model does not hold it.
        sqnr_input_db: of what this layer reads, rounded alone.
        sqnr_weight_db: of its weight as the int8 model holds it.
        sqnr_weight_reachable_db: what s8 gives with as many scales as the int8 model uses for it.
        sqnr_bias_db: of its bias; also ``None`` where it has none.
        sqnr_weight_per_channel_db: of its weight in s8 with one scale for each output channel.
        sqnr_weight_per_tensor_db: with one scale for the whole weight.
        weight_range_spread: largest over smallest peak of an output channel.
        input: name of the tensor it reads.
        input_from: the convolutions that make it, or the image.
        observed_min: smallest value of it in the float model.
        observed_max: largest value.
        range_min: smallest number its integers stand for; ``None`` where they are not known.
        range_max: largest number.
        clipped_percent: its values further outside than half a step, which is lost to clipping.
        zero_percent: its values that are zero.
        histogram: of it.
        roundings: all between the convolutions before and this one, its input's first: a Concat
            or an Add may round more than once.
        cause: what adds most of the layer's own noise.
        fault: what has a wrong scale: 12 dB or more behind what int8 can give it, by no choice of
            a calibration; ``None`` where nothing has, or where it shows in no output. A bias whose
            sum with the products leaves int32 always is one.
        int32_percent: the largest sum of bias and products, of what int32 holds, where that is more
            than all: kernels wrap there, though the roundings measured here do not show it.
    """

    name: Text
    position: Count
    macs: Count
    sqnr_alone_db: float | None
    disagreement_alone_percent: Percent
    sqnr_accumulated_db: float | None
    sqnr_input_db: float | None
    sqnr_weight_db: float | None
    sqnr_weight_reachable_db: float | None
    sqnr_bias_db: float | None
    sqnr_weight_per_channel_db: float | None
    sqnr_weight_per_tensor_db: float | None
    weight_range_spread: Annotated[float, Meta(ge=1)] | None
    input: Text
    input_from: tuple[Text, ...]
    observed_min: float
    observed_max: float
    range_min: float | None
    range_max: float | None
    clipped_percent: Percent
    zero_percent: Percent
    histogram: Bins
    roundings: tuple[RoundingError, ...]
    cause: Part
    fault: Part | None
    int32_percent: NotNegative | None = None

    @property
    def faults(self) -> dict[Part, float]:
        """What has a wrong scale, and the dB that costs it."""
        return wrong_scales(
            weight_db=self.sqnr_weight_db,
            weight_reachable_db=self.sqnr_weight_reachable_db,
            bias_db=self.sqnr_bias_db,
            roundings=self.roundings,
        )

    @property
    def faulty_rounding(self) -> RoundingError | None:
        """The worst on the way to this layer with a wrong scale."""
        return faulty_rounding(self.roundings)

    @property
    def rank(self) -> tuple[bool, float, float, int]:
        """Sorts the worst first.

        Faults come before layers that int8 merely costs something, then the least SQNR of the
        network's output, the most pixels, the order they run in.
        """
        alone = math.inf if self.sqnr_alone_db is None else self.sqnr_alone_db
        return self.fault is None, alone, -self.disagreement_alone_percent, self.position


def wrong_scales(
    *,
    weight_db: float | None,
    weight_reachable_db: float | None,
    bias_db: float | None,
    roundings: Sequence[RoundingError],
) -> dict[Part, float]:
    """What of a layer is ``FAULT_DB`` or more behind what int8 can give it, and by how many dB.

    Example:
        >>> wrong_scales(weight_db=24.0, weight_reachable_db=43.5, bias_db=None, roundings=())
        {'weight': 19.5}

    Args:
        weight_db: SQNR of the weight as the int8 model holds it; ``None`` where nothing changed.
        weight_reachable_db: what s8 gives with as many scales.
        bias_db: SQNR of the bias; also ``None`` where there is none.
        roundings: of what the layer reads.
    """
    found: dict[Part, float] = {}
    if (gap := _gap(weight_reachable_db, weight_db)) >= FAULT_DB:
        found["weight"] = gap
    if (gap := _gap(BIAS_REACHABLE_DB, bias_db)) >= FAULT_DB:
        found["bias"] = gap
    if rounding := faulty_rounding(roundings):
        found["input"] = rounding.shortfall_db
    return found


def harmless(*, output_db: float | None, changed: int) -> bool:
    """Whether a layer alone shows in no output.

    Args:
        output_db: SQNR of the network's output; ``None`` where nothing changed.
        changed: pixels whose class changes.
    """
    return not changed and (output_db is None or output_db >= HARMLESS_DB)


def faulty_rounding(roundings: Sequence[RoundingError]) -> RoundingError | None:
    """The worst rounding with a wrong scale."""
    faulty = [each for each in roundings if each.fault]
    return max(faulty, key=lambda each: each.shortfall_db, default=None)


def noisier(*, input_db: float | None, weight_db: float | None) -> Part:
    """Which of the two adds most noise to a layer; ``None`` is without any."""
    read = math.inf if input_db is None else input_db
    return "input" if read <= (math.inf if weight_db is None else weight_db) else "weight"


def _gap(reachable: float | None, found: float | None) -> float:
    return max(reachable - found, 0.0) if reachable is not None and found is not None else 0.0
