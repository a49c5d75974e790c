"""How far random views may depart from the images they are made of. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a random view may depart from the whole image as it is.

    Attributes:
        zoom: share of the image's side that a view shows, log-uniform between the two; above 1
            the border is reflected.
        anisotropy: largest stretch of one side against the other.
        tilt_radians: largest rotation beyond the random quarter turns.
        shift: largest shift, in half sides of the image, beyond what the zoom leaves free.
        elastic_std: standard deviation of the elastic field, in half sides.
        colour: strength of the colour changes; 1 is the full range, 0 none.
        stain: share of views whose light and dark change places, each channel with a gamma of its
            own, so that fluorescence looks like stained tissue and the other way round.
        mix: share of views into which a rectangle of another image's view is pasted.
    """

    zoom: tuple[float, float]
    anisotropy: float
    tilt_radians: float
    shift: float
    elastic_std: float
    colour: float
    stain: float = 0.0
    mix: float = 0.0


WIDE = Augmentation(
    zoom=(0.35, 1.4),
    anisotropy=0.25,
    tilt_radians=math.pi / 6,
    shift=0.2,
    elastic_std=0.03,
    colour=1.0,
    stain=0.2,
    mix=0.5,
)
STRONG = Augmentation(
    zoom=(0.6, 1.3),
    anisotropy=0.15,
    tilt_radians=math.pi / 12,
    shift=0.15,
    elastic_std=0.02,
    colour=1.0,
)
MILD = Augmentation(
    zoom=(0.85, 1.15),
    anisotropy=0.08,
    tilt_radians=math.pi / 36,
    shift=0.08,
    elastic_std=0.01,
    colour=0.4,
)
LIGHT = Augmentation(
    zoom=(0.95, 1.05),
    anisotropy=0.03,
    tilt_radians=math.pi / 90,
    shift=0.03,
    elastic_std=0.005,
    colour=0.25,
)
AUGMENTATIONS = {"wide": WIDE, "strong": STRONG, "mild": MILD, "light": LIGHT}
"""By their command-line names: wide for long trainings on few images, then closer to what is."""
