"""Why a layer hurts: what int8 costs at each convolution, worst first."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model, output_in, require_fp32
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.sensitivity.all_layers import Accumulated, SideBySide
from segdeploy.deploy.sensitivity.assemble import rows_of
from segdeploy.deploy.sensitivity.crops import cropped
from segdeploy.deploy.sensitivity.one_layer import Effect, OneLayerNetwork, effects_of
from segdeploy.deploy.sensitivity.pairs import pair_layers, rounding_parts
from segdeploy.deploy.sensitivity.parts import GraphView, Values
from segdeploy.deploy.sensitivity.rows import Bins, LayerError, RoundingError
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.look_ahead import run_ahead
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.deploy.targets.profiles import TargetProfile

__all__ = ["Bins", "LayerError", "RoundingError", "compare_layers", "layer_errors"]

VARIANT_BYTES = 128 << 20
"""Memory that the variants of one activation may take, all threads together."""

Work = tuple[Values, tuple[int, ...]]


def layer_errors(
    source: Artifact,
    *,
    table: CalibrationTable,
    profile: TargetProfile,
    images: Sequence[Values],
    exclude: Sequence[str] = (),
    threads: int | None = None,
    progress: ItemProgress[Work] = iter,
) -> tuple[LayerError, ...]:
    """What int8 would cost at each layer of a float model.

    Args:
        source: the float32 model that was calibrated.
        table: its ranges.
        profile: what the target wants.
        images: as for ``compare_layers``.
        exclude: layers that stay in float.
        threads: images worked on at once; ``None`` takes every processor of this process.
        progress: as for ``compare_layers``.

    Returns:
        One for each quantized convolution, worst first.

    Raises:
        InputError: see ``to_int8`` and ``compare_layers``.
        UsageError: likewise.
        RunError: ONNX Runtime failed.
    """
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        candidate = to_int8(
            source,
            Path(folder) / "int8.onnx",
            table=table,
            table_sha256="",
            profile=profile,
            exclude=exclude,
        )
        return compare_layers(source, candidate, images, threads=threads, progress=progress)


def compare_layers(
    reference: Artifact,
    candidate: Artifact,
    images: Sequence[Values],
    *,
    threads: int | None = None,
    progress: ItemProgress[Work] = iter,
) -> tuple[LayerError, ...]:
    """What int8 costs at each layer of a QDQ file, beside the float file it was made from.

    Everything runs on ONNX Runtime in float32 between the roundings, as the file states it, so
    that the result does not depend on a device's kernels, nor on the number of threads. Of large
    images a crop is taken, see ``crops``.

    Args:
        reference: the float32 file.
        candidate: the int8 file.
        images: at least one, normalised, float32 (C, H, W), all of one size; of the
            calibration set, never of the one that is reported on.
        threads: images worked on at once; ``None`` takes every processor of this process.
        progress: wraps the pieces of work, a sequence, for a progress bar; called twice.

    Returns:
        One for each quantized convolution, worst first.

    Raises:
        InputError: files that do not belong together, or that ONNX Runtime does not accept.
        UsageError: no image.
        RunError: ONNX Runtime failed, or an activation is not finite.
    """
    require_fp32(reference, "layers are compared")
    if len(images) == 0:
        raise UsageError("no image to compare layers on; give at least one")
    _require_same_input(reference, candidate)
    models, images = cropped((load_model(reference.path), load_model(candidate.path)), images)
    views = GraphView(models[0]), GraphView(models[1])
    pairs = pair_layers(*views)
    workers = min(threads or usable_cores(), len(images))
    batches = [image[None] for image in images]
    roundings = rounding_parts(views[1])
    accumulated = _accumulated(
        SideBySide(*views, pairs, roundings=roundings), batches, workers, progress
    )
    batched = not isinstance(reference.inputs[0].shape[0], int)
    network = OneLayerNetwork(*views, pairs, roundings=roundings, batched=batched)
    rows = max(1, VARIANT_BYTES // workers // accumulated.largest_bytes - 2)
    parts = [tuple(range(i, min(i + rows, len(pairs)))) for i in range(0, len(pairs), rows)]
    totals = _one_by_one(
        network,
        [(b, part) for part in parts for b in batches],
        workers,
        progress,
        output=output_in(views[0].model, source=str(reference.path)),
    )
    found = rows_of(*views, pairs, accumulated=accumulated, effects=totals, image=batches[0])
    return tuple(sorted(found, key=lambda layer: layer.rank))


def _accumulated(
    networks: SideBySide, images: Sequence[Values], workers: int, progress: ItemProgress[Work]
) -> Accumulated:
    """Both models whole, over all images."""
    work = [(image, ()) for image in images]
    found = run_ahead(lambda each: networks.run(each[0]), progress(work), workers=workers)
    total = next(found)
    for one in found:
        total += one
    return total


def _one_by_one(
    network: OneLayerNetwork,
    work: Sequence[Work],
    workers: int,
    progress: ItemProgress[Work],
    *,
    output: OutputContract,
) -> dict[int, Effect]:
    """Each layer alone, over all images, by its position."""
    totals: dict[int, Effect] = {}
    for effects in run_ahead(
        lambda each: effects_of(network.run(*each), output), progress(work), workers=workers
    ):
        for layer, effect in effects.items():
            totals[layer] = totals.get(layer, Effect()) + effect
    return totals


def _require_same_input(reference: Artifact, candidate: Artifact) -> None:
    """Refuse files that cannot be fed the same image.

    Raises:
        InputError: naming what each takes.
    """
    taken = [[(spec.dtype, len(spec.shape)) for spec in a.inputs] for a in (reference, candidate)]
    if taken[0] != taken[1]:
        raise InputError(
            f"{candidate.path} takes {[(s.dtype, s.shape) for s in candidate.inputs]}, "
            f"{reference.path} {[(s.dtype, s.shape) for s in reference.inputs]}; compare the int8 "
            "file with the float file it was quantized from, both without image interface"
        )
