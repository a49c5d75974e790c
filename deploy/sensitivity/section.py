"""The ``debug`` section of a report, and what to do about the layers that hurt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segdeploy.calibration.json_record import Positive, Text
from segdeploy.deploy.sensitivity.rows import LayerError

DEPARTED_DB = 20.0
"""Accumulated SQNR below which a layer has departed: noise above a tenth of the signal."""

NOISE_SHARE = 0.5
MOST_EXCLUDED = 5

SILENT_DB = 60.0
"""SQNR of the network's output from which all layers together are not worth a float one."""


@dataclass(frozen=True, kw_only=True)
class DebugSection:
    """What int8 costs layer by layer, on calibration images.

    Attributes:
        file: the int8 model, or what stands for it.
        reference: the float model it was made from.
        target: profile of the int8 model; ``None`` where it is not known.
        images: how many were run.
        layers: quantized convolutions, worst first: faults, then by sqnr_alone_db.
        exclude: layers to keep in float first, by name.
        first_departure: in the order they run, the first layer with sqnr_accumulated_db below 20;
            ``None`` where there is none.
    """

    file: Text
    reference: Text
    target: Text | None
    images: Positive
    layers: tuple[LayerError, ...]
    exclude: tuple[Text, ...]
    first_departure: Text | None


def debug_section(
    layers: Sequence[LayerError], *, file: str, reference: str, target: str | None, images: int
) -> DebugSection:
    """What was found, with what to do about it.

    Args:
        layers: worst first.
        file: name of the int8 model, or what stands for it.
        reference: name of the float model.
        target: profile of the int8 model; ``None`` where it is not known.
        images: how many were run.
    """
    first = first_departure(layers)
    return DebugSection(
        file=file,
        reference=reference,
        target=target,
        images=images,
        layers=tuple(layers),
        exclude=tuple(layer.name for layer in worth_excluding(layers)),
        first_departure=first.name if first else None,
    )


def worth_excluding(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """The layers to keep in float first: the faulty ones, else those that make half the noise.

    Noise powers of the layers alone add up, as far as they are small. At most ``MOST_EXCLUDED``
    layers without a fault; none where the noise of all of them shows in no output.

    Args:
        layers: worst first.
    """
    faulty = tuple(layer for layer in layers if layer.fault)
    if faulty:
        return faulty
    total, kept = sum(map(noise_power, layers)), 0.0
    shows = any(layer.disagreement_alone_percent for layer in layers)
    if total == 0 or (total < 10 ** (-SILENT_DB / 10) and not shows):
        return ()
    for count, layer in enumerate(layers, start=1):
        kept += noise_power(layer)
        if kept >= NOISE_SHARE * total or count == MOST_EXCLUDED:
            return tuple(layers[:count])
    return ()


def noise_power(layer: LayerError) -> float:
    """What a layer alone adds to the network's output, as a share of its power."""
    return 0.0 if layer.sqnr_alone_db is None else 10 ** (-layer.sqnr_alone_db / 10)


def first_departure(layers: Sequence[LayerError]) -> LayerError | None:
    """In the order they run, the first layer whose accumulated SQNR is below ``DEPARTED_DB``."""
    departed = [
        layer
        for layer in layers
        if layer.sqnr_accumulated_db is not None and layer.sqnr_accumulated_db < DEPARTED_DB
    ]
    return min(departed, key=lambda layer: layer.position, default=None)
