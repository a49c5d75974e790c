"""What a layer alone in int8 does to the network's output, in sums that add up over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segdeploy.calibration.noise import SILENCE, Noise
from segdeploy.deploy.onnx_model.interface import FOREGROUND_PROBABILITY
from segdeploy.deploy.sensitivity.one_layer import Alone


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Of one layer alone, over some images: noise at output and input, and pixels that change."""

    output: Noise = SILENCE
    input: Noise = SILENCE
    changed: int = 0
    pixels: int = 0

    def __add__(self, other: Effect) -> Effect:
        return Effect(
            output=self.output + other.output,
            input=self.input + other.input,
            changed=self.changed + other.changed,
            pixels=self.pixels + other.pixels,
        )


def effects_of(alone: Alone) -> dict[int, Effect]:
    """What one image shows, reduced to sums."""
    classes = alone.output >= FOREGROUND_PROBABILITY
    return {
        layer: Effect(
            output=Noise.between(alone.output, output),
            input=alone.inputs[layer],
            changed=int(np.count_nonzero(classes != (output >= FOREGROUND_PROBABILITY))),
            pixels=output.size,
        )
        for layer, output in alone.outputs.items()
    }
