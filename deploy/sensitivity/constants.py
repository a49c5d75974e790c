"""Noise of weights and biases as an int8 file holds them."""

from __future__ import annotations

from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.calibration.weight_spread import WeightSpread, weight_spread
from segdeploy.deploy.sensitivity.pairs import LayerPair, constants_of
from segdeploy.deploy.sensitivity.parts import GraphView


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

    def reachable_db(self, pair: LayerPair) -> float | None:
        """SQNR of the weight with as many scales as the int8 model gives it."""
        spread = self.spread(pair)
        maker = self._views[1].producer.get(pair.twin.input[1])
        scale = None if maker is None else self._views[1].constant(maker.input[1])
        one = scale is not None and scale.size == 1
        return spread.per_tensor_db if one else spread.per_channel_db
