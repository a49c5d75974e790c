"""From what was measured to one row for each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.calibration.baselines import reachable_noise
from segdeploy.calibration.histogram import TensorHistogram
from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.calibration.weight_spread import WeightSpread, weight_spread
from segdeploy.calibration.weights import INT32_LIMIT, largest_products
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.sensitivity.all_layers import Accumulated
from segdeploy.deploy.sensitivity.one_layer import Effect
from segdeploy.deploy.sensitivity.pairs import (
    BIAS,
    IntegerRange,
    LayerPair,
    Rounding,
    by_output_channel,
    constants_of,
    integer_range,
)
from segdeploy.deploy.sensitivity.parts import GraphView, Values
from segdeploy.deploy.sensitivity.rows import (
    HISTOGRAM_BINS,
    Bins,
    LayerError,
    Part,
    RoundingError,
    harmless,
    noisier,
    wrong_scales,
)


def rows_of(
    reference: GraphView,
    candidate: GraphView,
    pairs: Sequence[LayerPair],
    *,
    accumulated: Accumulated,
    effects: Mapping[int, Effect],
    image: Values,
) -> tuple[LayerError, ...]:
    """Everything about every layer, in the order they run.

    Args:
        reference: the float model.
        candidate: its int8 model.
        pairs: the layers.
        accumulated: both models whole, over all images.
        effects: of each layer alone, by its position.
        image: one of the images, (1, C, H, W), whose size the multiply-adds are for.

    Raises:
        InputError: a weight that the int8 model does not hold in the same shape.
    """
    macs, constants = _macs(reference, image), Constants(reference, candidate)
    sites = _rounding_errors(candidate, accumulated)
    return tuple(
        _layer_error(
            pair,
            position=position,
            macs=macs[pair.name],
            constants=constants,
            histogram=accumulated.inputs[pair.node.input[0]],
            ends=integer_range(candidate, pair.twin.input[0]),
            accumulated=accumulated.layers.get(pair.name, SILENCE),
            effect=effects[position],
            roundings=tuple(sites[site] for site in pair.roundings),
        )
        for position, pair in enumerate(pairs)
    )


def _rounding_errors(
    candidate: GraphView, accumulated: Accumulated
) -> dict[Rounding, RoundingError]:
    """Each rounding beside what 8 bits can give its tensor."""
    reachable = {
        name: reachable_noise(accumulated.inputs[name]).sqnr_db
        for name in dict.fromkeys(site.tensor for site in accumulated.roundings)
    }
    found = {}
    for site, noise in accumulated.roundings.items():
        histogram, ends = accumulated.inputs[site.tensor], integer_range(candidate, site.rounded)
        found[site] = RoundingError(
            tensor=site.tensor,
            sqnr_db=noise.sqnr_db,
            sqnr_reachable_db=reachable[site.tensor],
            observed_min=histogram.min,
            observed_max=histogram.max,
            range_min=ends.low if ends else None,
            range_max=ends.high if ends else None,
            clipped_percent=_clipped_percent(histogram, ends),
        )
    return found


def _layer_error(
    pair: LayerPair,
    *,
    position: int,
    macs: int,
    constants: Constants,
    histogram: TensorHistogram,
    ends: IntegerRange | None,
    accumulated: Noise,
    effect: Effect,
    roundings: tuple[RoundingError, ...],
) -> LayerError:
    """Everything about one layer."""
    spread = constants.spread(pair)
    read_db, weight_db = effect.input.sqnr_db, constants.noise(pair, 1).sqnr_db
    bias_db, reachable_db = constants.noise(pair, BIAS).sqnr_db, constants.reachable_db(pair)
    faults = wrong_scales(
        weight_db=weight_db,
        weight_reachable_db=reachable_db,
        bias_db=bias_db,
        roundings=roundings,
    )
    worst = max(faults, key=lambda part: faults[part], default=None)
    shows = not harmless(output_db=effect.output.sqnr_db, changed=effect.changed)
    wraps = constants.int32_percent(pair)
    fault: Part | None = "bias" if wraps is not None else worst if shows else None
    return LayerError(
        name=pair.name,
        position=position,
        macs=macs,
        sqnr_alone_db=effect.output.sqnr_db,
        disagreement_alone_percent=100 * effect.changed / effect.pixels,
        sqnr_accumulated_db=accumulated.sqnr_db,
        sqnr_input_db=read_db,
        sqnr_weight_db=weight_db,
        sqnr_weight_reachable_db=reachable_db,
        sqnr_bias_db=bias_db,
        sqnr_weight_per_channel_db=spread.per_channel_db,
        sqnr_weight_per_tensor_db=spread.per_tensor_db,
        weight_range_spread=spread.range_spread,
        input=pair.node.input[0],
        input_from=pair.origins,
        observed_min=histogram.min,
        observed_max=histogram.max,
        range_min=ends.low if ends else None,
        range_max=ends.high if ends else None,
        clipped_percent=_clipped_percent(histogram, ends),
        zero_percent=100 * histogram.zeros / histogram.total,
        histogram=_bins(histogram),
        roundings=roundings,
        cause=fault or noisier(input_db=read_db, weight_db=weight_db),
        fault=fault,
        int32_percent=wraps,
    )


def _clipped_percent(histogram: TensorHistogram, ends: IntegerRange | None) -> float:
    """Values that clipping moves further than rounding would."""
    if ends is None:
        return 0.0
    half = ends.step / 2
    low, high = min(ends.low - half, 0.0), max(ends.high + half, 0.0)
    return 100 * histogram.share_beyond(low, high)


def _bins(histogram: TensorHistogram) -> Bins:
    edges, counts = histogram.signed_uniform(HISTOGRAM_BINS)
    return Bins(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _macs(view: GraphView, image: Values) -> dict[str, int]:
    """Multiply-adds of each convolution, by the name it goes by here."""
    cost = onnx_cost(view.model, size=(image.shape[2], image.shape[3]))
    return {layer.name: layer.macs for layer in cost.layers}


class Constants:
    """Noise of weights and biases, each measured once however many layers share it."""

    def __init__(self, reference: GraphView, candidate: GraphView) -> None:
        self._views = reference, candidate
        self._spreads: dict[str, WeightSpread] = {}
        self._noise: dict[tuple[str, str], Noise] = {}

    def noise(self, pair: LayerPair, place: int) -> Noise:
        """Of the weight (``place`` 1) or bias (2) as the int8 model holds it."""
        if len(pair.node.input) <= place:
            return SILENCE
        key = pair.node.input[place], pair.twin.input[place]
        if key not in self._noise:
            self._noise[key] = Noise.between(*constants_of(*self._views, pair, place))
        return self._noise[key]

    def spread(self, pair: LayerPair) -> WeightSpread:
        """Of the weight in float."""
        name = pair.node.input[1]
        if name not in self._spreads:
            self._spreads[name] = weight_spread(constants_of(*self._views, pair, 1)[0])
        return self._spreads[name]

    def int32_percent(self, pair: LayerPair) -> float | None:
        """Of int32 the largest sum of bias and products, in percent; ``None`` where it fits."""
        weight, bias = self._integers(pair, 1), self._integers(pair, BIAS)
        if weight is None or bias is None or weight.dtype != np.int8 or bias.dtype != np.int32:
            return None
        sums = np.abs(bias.astype(np.float64)) + largest_products(
            by_output_channel(pair.node, weight)
        )
        percent = 100 * float(sums.max()) / INT32_LIMIT
        return percent if percent > 100 else None

    def _integers(self, pair: LayerPair, place: int) -> NDArray[Any] | None:
        """What a DequantizeLinear in front of the int8 file's convolution reads, if a constant."""
        if len(pair.twin.input) <= place:
            return None
        maker = self._views[1].producer.get(pair.twin.input[place])
        return None if maker is None else self._views[1].constant(maker.input[0])

    def reachable_db(self, pair: LayerPair) -> float | None:
        """SQNR of the weight with as many scales as the int8 model gives it."""
        spread = self.spread(pair)
        maker = self._views[1].producer.get(pair.twin.input[1])
        scale = None if maker is None else self._views[1].constant(maker.input[1])
        one = scale is not None and scale.size == 1
        return spread.per_tensor_db if one else spread.per_channel_db
