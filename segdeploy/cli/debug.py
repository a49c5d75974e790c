"""The verb that says why int8 hurts, layer by layer: debug."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from segdeploy.cli.inputs import Options, Result, calibration_in

if TYPE_CHECKING:
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
    from segdeploy.api.debug import debug

    found = debug(
        options.model,
        table=options.calibration,
        reference=options.reference,
        target=options.target,
        exclude=options.exclude or (),
        data=calibration_in(options),
        threads=options.threads,
        out=options.output,
        overwrite=options.overwrite,
    )
    section = found.section
    made_for = f" for {section.target}" if section.target else ""
    _say(found.layers, f"{section.file}{made_for}, {section.images} calibration images")
    _advise(found.layers)
    if options.output:
        log.info("%s: %d layers", options.output, len(found.layers))
    return 0, section


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
    if not chosen:
        log.info("int8 shows in no output here: nothing to keep in float")
    else:
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
    if layer.int32_percent is not None:
        return (
            f"{layer.name}: its bias and the sum of its products reach {layer.int32_percent:.4g} % "
            "of what int32 holds, so that kernels wrap; quantize the float model again"
        )
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
