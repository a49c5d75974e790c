"""Quantize: write the int8 model of a target from a calibration table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segdeploy.api.calibration_tables import calibration_table_of, file_of, table_sha256
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of
from segdeploy.api.outputs import AnyPath, output_file
from segdeploy.api.recovery import folder_of, images_for, methods_of, recovered, workshop_of
from segdeploy.api.targets import int8_path, profile_of
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.recovery.candidate import Candidate
from segdeploy.deploy.recovery.methods import Recovery
from segdeploy.deploy.system.errors import RunError, UsageError
from segdeploy.deploy.system.only_writer import writing_file
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel


def quantize(
    model: AnyOnnx,
    table: CalibrationTable | AnyPath,
    *,
    target: TargetProfile | str = ORT_X86,
    exclude: Sequence[str] = (),
    recover: Sequence[Recovery | str] | Recovery | str | None = None,
    out: AnyPath | None = None,
    max_drop: float | None = None,
    reference: AnyModel | None = None,
    data: Data | AnyPath | None = None,
    tune: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write an int8 model: QuantizeLinear and DequantizeLinear around every quantized tensor.

    With ``recover`` what int8 lost is won back first: channels scaled alike, biases corrected,
    weights rounded by what they do on calibration images, ranges chosen by the output's error.

    With ``max_drop`` these are tried one by one, and then as few layers as possible stay in float,
    so that what is returned keeps the budget; ``segdeploy.mixed_precision`` is the same search with
    all its settings and figures.
    With ``tune`` Q and DQ stand where this machine runs the file fastest; see ``segdeploy.tune``.

    Args:
        model: the float32 file that was calibrated.
        table: its ranges, or the file that holds them.
        target: what the model is made for, by name: ort-x86, openvino-cpu, tensorrt, ...
        exclude: layers to keep in float.
        recover: methods to apply, in their own order: equalise, biases, rounding, ranges; with
            ``max_drop`` those that may be tried, ``None`` all of them.
        out: file to write; by default ``NAME.int8.TARGET.onnx`` beside the model.
        max_drop: the largest loss of IoU against the reference, percentage points, whose whole
            95 % interval must keep it.
        reference: with ``max_drop``: checkpoint or ONNX file that accuracy is compared with.
        data: with ``max_drop``: a prepared folder with a val split, to choose on; with
            ``recover``: with a train split, to learn from; with ``tune`` alone: one whose images
            outputs are compared on.
        tune: seconds for finding the fastest placement of Q and DQ on this machine. It starts from
            the file as it is rounded, so it does not go together with ``recover``.
        seed: of the images that recovery learns from, and of the search's bootstrap.
        threads: ``None`` takes every processor of this process.
        overwrite: replace the file that is there.

    Raises:
        InputError: the model is not float32, or the table is of another model.
        UsageError: the file exists, another process writes it, an unknown target or layer, or
            ``max_drop`` or ``recover`` without what it needs.
        RunError: no choice of float layers that was tried keeps the budget; the best one is in
            place.
        OSError: the file cannot be written.
    """
    if tune is not None:
        if recover:
            raise UsageError("--recover and --tune do not go together; choose one")
        from segdeploy.benchmarks.tune.run import require_timed_here

        require_timed_here(profile_of(target))
        recover = ()
    if max_drop is not None:
        from segdeploy.api.mixed_precision import mixed_precision

        if reference is None or data is None:
            raise UsageError("--max-drop needs --data and --reference to measure the loss with")
        output = int8_path(artifact_of(model), profile_of(target), out)
        begun = tune is not None and output.with_name(f"{output.name}.tune.json").is_file()
        found = mixed_precision(
            model,
            table,
            max_drop=max_drop,
            reference=reference,
            data=data,
            target=target,
            exclude=exclude,
            recover=recover,
            out=out,
            seed=seed,
            threads=threads,
            overwrite=overwrite or begun,
        )
        if not found.within:
            raise RunError(
                f"no choice of float layers that was tried keeps the budget of {max_drop:g} "
                f"points ({found.chosen.words()}); the best is in {found.artifact.path}. Raise "
                "max_drop, or search longer with mixed_precision"
            )
        if tune is None:
            return found.artifact
        exclude, overwrite = found.exclude, True  # what is there is this call's
    if tune is not None:
        from segdeploy.api.tune import tune as fastest

        return fastest(
            model,
            table,
            target=target,
            exclude=exclude,
            out=out,
            time_budget_s=tune,
            max_drop=max_drop,
            reference=reference,
            data=data,
            seed=seed,
            threads=threads,
            overwrite=overwrite,
        ).artifact
    methods = methods_of(recover or ())
    _require_images_for(methods, data, reference)
    source, profile = artifact_of(model), profile_of(target)
    output = int8_path(source, profile, out)
    output_file(output, source.path, *file_of(table), overwrite=overwrite)
    with writing_file(output):
        if methods:
            plain = Candidate(source=source, table=calibration_table_of(table))
            workshop = workshop_of(
                source,
                images_for(Data.of(data), plain.table, seed=seed),
                folder_of(output),
                profile=profile,
                exclude=exclude,
                table_sha256=table_sha256(table),
                seed=seed,
                threads=threads,
            )
            return recovered(plain, methods, workshop, output)
        return to_int8(
            source,
            output,
            table=calibration_table_of(table),
            table_sha256=table_sha256(table),
            profile=profile,
            exclude=exclude,
        )


def _require_images_for(
    methods: Sequence[Recovery], data: Data | AnyPath | None, reference: AnyModel | None
) -> None:
    """Refuse recovery without images, and images or a reference without what takes them."""
    if methods and data is None:
        raise UsageError("--recover needs --data, whose train split it learns from")
    if reference is not None or (data is not None and not methods):
        raise UsageError(
            "--data, --reference: only --recover or a search, with --max-drop or --tune, takes them"
        )
