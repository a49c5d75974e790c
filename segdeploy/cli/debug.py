"""The verb that says why int8 hurts, layer by layer: debug."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from segdeploy.cli.flags import (
    TARGETS,
    calibration_alone,
    output_flag,
    overwrite_flag,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, output_file
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.deploy.data.image_set import SegmentationSet
    from segdeploy.deploy.onnx_model.artifact import Artifact
    from segdeploy.deploy.sensitivity.layer_errors import LayerError
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


DEFAULT_SAMPLES = 16


def add_flags(verb: Parser) -> None:
    """Everything ``segdeploy debug`` takes."""
    verb.add_models(
        "the float ONNX file that was calibrated, with --calibration; an int8 file in QDQ form, "
        "with --reference",
        many=False,
    )
    verb.add_argument(
        "--calibration", type=Path, metavar="FILE.json", help="table from `calibrate`"
    )
    verb.add_argument(
        "--reference", type=Path, metavar="FILE.onnx", help="float file the int8 file was made from"
    )
    verb.add_argument(
        "--target",
        choices=TARGETS,
        help="with --calibration: what int8 is made for (default: ort-x86)",
    )
    verb.add_argument(
        "--exclude",
        nargs="+",
        metavar="LAYER",
        help="with --calibration: layers that stay in float",
    )
    calibration_alone(verb, count_help=f"default: {DEFAULT_SAMPLES}, or all where there are fewer")
    threads_flag(verb)
    output_flag(verb, "JSON file to write, histograms and all")
    overwrite_flag(verb)


T = TypeVar("T")

DEFAULT_TARGET = "ort-x86"


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's int8 model: beside --reference its file, else what it was made from."""
    if options.reference:
        return [run.int8(target) for target in run.targets[:1]] or [run.calibrated]
    options.calibration = options.calibration or run.table
    options.target = options.target or next(iter(run.targets), DEFAULT_TARGET)
    options.exclude = options.exclude or list(run.exclude)
    return [run.calibrated]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Rank the layers of an int8 model by what they do to its output."""
    from segdeploy.calibration.files import write_atomic
    from segdeploy.calibration.json_record import json_of
    from segdeploy.calibration.table import CalibrationTable
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.sensitivity.layer_errors import compare_layers, layer_errors
    from segdeploy.deploy.sensitivity.section import debug_section
    from segdeploy.deploy.targets.profiles import profile_named

    model = describe(options.model)
    _require_one_question(options, model)
    given = [options.model, *filter(None, (options.calibration, options.reference))]
    output = output_file(options, *given) if options.output else None
    reference = describe(options.reference) if options.reference else model
    images = _images(options)
    inputs = list(images.inputs(contract_of(reference)))
    if options.reference:
        target = model.target
        layers = compare_layers(
            reference, model, inputs, threads=options.threads, progress=_progress
        )
    else:
        target = options.target or DEFAULT_TARGET
        layers = layer_errors(
            model,
            table=CalibrationTable.read(options.calibration),
            profile=profile_named(target),
            images=inputs,
            exclude=options.exclude or (),
            threads=options.threads,
            progress=_progress,
        )
    name = options.model.name if options.reference else f"{options.model.name} in int8"
    section = debug_section(
        layers, file=name, reference=reference.path.name, target=target, images=len(images)
    )
    plain = json_of(section)
    _say(layers, f"{name}{f' for {target}' if target else ''}, {len(images)} calibration images")
    _advise(layers)
    if output:
        write_atomic(output, (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode())
        log.info("%s: %d layers", output, len(layers))
    return 0, plain


def _require_one_question(options: Options, model: Artifact) -> None:
    """Refuse flags that state no int8 model, or two.

    Raises:
        UsageError: naming them and what to give.
    """
    from segdeploy.deploy.onnx_model.artifact import Precision

    if bool(options.calibration) == bool(options.reference):
        raise UsageError(
            "give -m FLOAT.onnx --calibration TABLE.json, or -m INT8.onnx --reference FLOAT.onnx"
        )
    if options.reference and (options.target or options.exclude):
        raise UsageError("--target and --exclude go with --calibration; an int8 file has its own")
    if options.reference and model.precision is not Precision.INT8:
        raise UsageError(
            f"-m {options.model} is {model.precision.value}; with --reference give an int8 file in "
            "QDQ form, as `segdeploy quantize` writes it"
        )
    if options.calibration and model.precision is Precision.INT8:
        raise UsageError(
            f"-m {options.model} is int8 already; give the float file it was made from as "
            "--reference, not --calibration"
        )


def _images(options: Options) -> SegmentationSet:
    """Of the train split only: the test split is for reports."""
    from segdeploy.deploy.data.image_set import open_set

    images = open_set(options.calib_data or bundled.sample(), "train")
    count = options.num_samples or min(DEFAULT_SAMPLES, len(images))
    return images.take(count, seed=options.seed)


def _progress(work: Iterable[T]) -> Iterable[T]:
    return bar(work, "debug", unit="step")


def _say(layers: Sequence[LayerError], title: str) -> None:
    """The table."""
    macs = sum(layer.macs for layer in layers) or 1
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    log.info("%s; SQNR in dB, worst layer first", title)
    log.info(
        "%-*s  %7s  %8s  %7s  %6s  %9s  %7s  %7s  %6s  %s",
        width,
        *("layer", "alone", "pixels %", "accum.", "input", "clipped %", "weight", "spread"),
        *("MACs %", "most from"),
    )
    for layer in layers:
        log.info(
            "%-*s  %7s  %8.3f  %7s  %6s  %9.4f  %7s  %7s  %6.2f  %s",
            width,
            layer.name,
            _figure(layer.sqnr_alone_db),
            layer.disagreement_alone_percent,
            _figure(layer.sqnr_accumulated_db),
            _figure(layer.sqnr_input_db),
            layer.clipped_percent,
            _figure(layer.sqnr_weight_db),
            _figure(layer.weight_range_spread),
            100 * layer.macs / macs,
            f"{layer.cause}: FAULT" if layer.fault else layer.cause,
        )
    log.info(
        "alone: the network's output with that layer alone in int8, and the pixels whose class it "
        "changes; accum.: the layer's output with all in int8; spread: largest over smallest "
        "channel of the weight"
    )


def _advise(layers: Sequence[LayerError]) -> None:
    """The faults, where the int8 model departs, and the line to paste."""
    from segdeploy.deploy.sensitivity.section import (
        DEPARTED_DB,
        first_departure,
        noise_power,
        worth_excluding,
    )

    for layer in layers:
        if layer.fault:
            log.info("%s", fault_line(layer))
    first = first_departure(layers)
    if first is not None and first.sqnr_accumulated_db is not None:
        log.info(
            "in the order they run, %s is the first below %.0f dB accumulated (%.1f dB)",
            first.name,
            DEPARTED_DB,
            first.sqnr_accumulated_db,
        )
    chosen = worth_excluding(layers)
    if chosen:
        log.info("--exclude %s", " ".join(layer.name for layer in chosen))
        log.info(
            "keeps %d of %d layers in float: %.0f %% of the noise, %.1f %% of the multiply-adds",
            len(chosen),
            len(layers),
            100 * sum(map(noise_power, chosen)) / (sum(map(noise_power, layers)) or 1),
            100 * sum(layer.macs for layer in chosen) / (sum(layer.macs for layer in layers) or 1),
        )


def fault_line(layer: LayerError) -> str:
    """What is wrong with a layer that loses more than int8 must, in words."""
    fault, rounding = layer.fault or layer.cause, layer.faulty_rounding
    behind = f"{layer.faults.get(fault, 0.0):.1f} dB less than int8 can give it"
    if fault != "input" or rounding is None:
        return f"{layer.name}: its {fault} has {behind}; look at the scale of its {fault}"
    stands = (
        f"integers for {rounding.range_min:.4g} to {rounding.range_max:.4g}"
        if rounding.range_min is not None and rounding.range_max is not None
        else "unknown integers"
    )
    return (
        f"{layer.name}: {rounding.tensor} on the way to it has {behind}: values from "
        f"{rounding.observed_min:.4g} to {rounding.observed_max:.4g}, {stands}, "
        f"{rounding.clipped_percent:.2f} % clipped; look at the scale of that tensor"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
