"""``segdeploy align``: whether two implementations compute the same."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.cli.flags import (
    RUNTIMES,
    checkpoint_flag,
    checkpoint_flags,
    evaluation_data,
    network_flags,
    not_negative,
    output_flag,
    overwrite_flag,
    positive,
    positive_int,
    seed_flag,
    threads_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule
    from segdeploy.deploy.onnx_model.artifact import Artifact
    from segdeploy.pipeline.finished import FinishedRun
    from segdeploy.training.align.compare import StepRow
    from segdeploy.training.align.dump import Step
    from segdeploy.training.align.layers import Layer, LayerAlignment
    from segdeploy.training.align.tolerance import Tolerance

log = logging.getLogger(__name__)

STEPS = ("inputs", "forward", "metric", "loss", "backward", "update", "training")
DEFAULT_SAMPLES = 4


def add_flags(verb: Parser) -> None:
    """One check a word, each with its own flags."""
    checks = verb.add_subparsers(dest="check", metavar="CHECK", required=True, parser_class=Parser)
    for name, (help_text, check_flags, _) in _CHECKS.items():
        description = f"{help_text[0].upper()}{help_text[1:]}."
        check_flags(checks.add_parser(name, help=help_text, description=description))


def _layers_flags(check: Parser) -> None:
    checkpoint_flags(check, required=False)
    check.add_models("ONNX file to check (default: an export of -c)", many=False, required=False)
    check.add_argument(
        "--reference", type=Path, metavar="FILE.onnx", help="ONNX file to take as right, not -c"
    )
    check.add_argument(
        "--runtime", choices=RUNTIMES, nargs="+", help="default: those for the CPU that are here"
    )
    evaluation_data(check)
    check.add_argument(
        "--num-samples",
        type=positive_int,
        default=DEFAULT_SAMPLES,
        help=f"images, drawn by seed (default: {DEFAULT_SAMPLES})",
    )
    seed_flag(check)
    threads_flag(check)
    check.add_argument(
        "--tolerance",
        type=not_negative,
        metavar="NUMBER",
        help="share of each layer's largest magnitude (default: 2e-5, for fp32)",
    )
    check.add_argument(
        "--perturb",
        metavar="LAYER",
        help="test the check: scale this layer's weights by 1.001 first, and see it named",
    )


def _dump_flags(check: Parser) -> None:
    checkpoint_flag(check, required=False)
    network_flags(check)
    check.set_defaults(head=None, logits=None)  # a training has all heads
    check.set_defaults(classes=None, output_kind=None, ignore_index=None, output_contract=None)
    output_flag(check, "folder to write", required=True)
    overwrite_flag(check)
    check.add_argument(
        "--data", type=Path, help="prepared folder, its train split (default: bundled sample)"
    )
    check.add_argument("--steps", type=positive_int, help="of the short training (default: 5)")
    check.add_argument("--batch", type=positive_int, help="images a step (default: 4)")
    check.add_argument("--learning-rate", type=positive, help="of AdamW (default: 0.001)")
    seed_flag(check)
    threads_flag(check)
    check.add_argument(
        "--device", default="cpu", help="cpu, or PyTorch's cuda (not run on hardware)"
    )
    check.add_argument(
        "--plain-kernels",
        action="store_true",
        help="PyTorch's own CPU kernels, not oneDNN's: another implementation to compare with",
    )


def _compare_flags(check: Parser) -> None:
    check.add_argument("reference", type=Path, metavar="REFERENCE", help="dump to take as right")
    check.add_argument("candidate", type=Path, metavar="CANDIDATE", help="dump of another")
    check.add_argument(
        "--tolerance",
        type=tolerance,
        nargs="+",
        default=(),
        metavar="STEP=NUMBER",
        help=f"share of a step's tensors, steps {', '.join(STEPS)}; metric in points of IoU "
        "(default: stated in the result)",
    )


def _curves_flags(check: Parser) -> None:
    check.add_argument(
        "reference", type=Path, metavar="REFERENCE", help="history.csv to take as right"
    )
    check.add_argument("candidate", type=Path, metavar="CANDIDATE", help="history.csv of another")
    check.add_argument("--column", default="train_loss", help="default: train_loss")
    check.add_argument(
        "--common",
        action="store_true",
        help="compare the epochs or steps that both runs have (default: refuse other lengths)",
    )
    check.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw both curves, .png or .svg"
    )
    overwrite_flag(check, "the picture of --plot")
    check.add_argument(
        "--max-relative", type=not_negative, help="mean relative error that passes (default: 0.05)"
    )
    check.add_argument(
        "--max-absolute",
        type=not_negative,
        help="mean absolute error that passes, either is enough (default: 0.0002)",
    )


def tolerance(text: str) -> tuple[str, float]:
    """``forward=1e-4``: the step and the number."""
    step, _, number = text.rpartition("=")
    if step not in STEPS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not STEP=NUMBER, with a step of {', '.join(STEPS)}"
        )
    return step, not_negative(number)


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's export, which a checkpoint is compared with."""
    return [run.reference]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Run one check; exit code 1 when something departs."""
    _, _, check = _CHECKS[options.check]
    return check(options)


def dump(options: Options) -> Result:
    """Write what a checkpoint's training computes, step by step."""
    from segdeploy.api import align

    given = {
        name: value
        for name in ("steps", "batch", "learning_rate", "seed")
        if (value := getattr(options, name)) is not None
    }
    found = align.dump(
        given_or_bundled(options),
        options.data,
        out=options.output,
        device=options.device,
        plain_kernels=options.plain_kernels,
        threads=options.threads,
        overwrite=options.overwrite,
        **given,
    )
    losses = [float(loss) for loss in found.tensors["training/losses"]]
    log.info("%s: %d tensors, losses %s", options.output, len(found.tensors), _listed(losses))
    return 0, {
        "output": str(options.output),
        "tensors": len(found.tensors),
        "losses": losses,
        "settings": dict(found.settings),
        "environment": dict(found.environment),
    }


def compare(options: Options) -> Result:
    """Compare two dumps step by step."""
    from segdeploy.api import align

    found = align.compare(
        options.reference, options.candidate, tolerances=_tolerances(options.tolerance)
    )
    for row in found.steps:
        log.info("%s", _step_line(row))
    first = found.first_departure
    if first is None or first.first_departure is None:
        log.info("PASS: %d steps agree", len(found.steps))
    else:
        log.info("FAIL: %s departs first, tensor %s", first.step.value, first.first_departure.name)
    sides = {"reference": found.reference, "candidate": found.candidate}
    return 0 if found.passed else GATE_FAILED, {
        **{
            name: {"source": side.source, "environment": dict(side.environment)}
            for name, side in sides.items()
        },
        "steps": [row.as_json() for row in found.steps],
        "first_departure": first.step.value if first else None,
        "passed": found.passed,
    }


def curves(options: Options) -> Result:
    """Compare a column of two training histories."""
    from segdeploy.api import align
    from segdeploy.training.align.curves import MAX_ABSOLUTE, MAX_RELATIVE

    found = align.curves(
        options.reference,
        options.candidate,
        column=options.column,
        common=options.common,
        max_relative=_or(options.max_relative, MAX_RELATIVE),
        max_absolute=_or(options.max_absolute, MAX_ABSOLUTE),
        plot=options.plot,
        overwrite=options.overwrite,
    )
    if options.plot:
        log.info("plot: %s", options.plot)
    position, gap = found.largest
    log.info(
        "%s of %d %ss%s: mean relative error %.4g (limit %g), mean absolute error %.4g (limit %g; "
        "signed %+.4g), largest %.4g at %s %g",
        options.column,
        len(found.reference.positions),
        found.reference.key,
        f", {found.left_out} left out that one run lacks" if found.left_out else "",
        found.mean_relative,
        found.max_relative,
        found.mean_absolute,
        found.max_absolute,
        found.mean_signed,
        gap,
        found.reference.key,
        position,
    )
    log.info("PASS" if found.passed else "FAIL: neither mean error is within its limit")
    return 0 if found.passed else GATE_FAILED, found.as_json()


def _tolerances(given: Sequence[tuple[str, float]]) -> Mapping[Step, Tolerance]:
    """The defaults with the numbers of the command line in the place of their main part."""
    from segdeploy.training.align.compare import TOLERANCES
    from segdeploy.training.align.dump import Step

    tolerances = dict(TOLERANCES)
    for name, number in given:
        step = Step(name)
        part: dict[str, Any] = {"absolute" if step is Step.METRIC else "relative": number}
        tolerances[step] = replace(tolerances[step], **part)
    return tolerances


def _step_line(row: StepRow) -> str:
    whole, first = row.difference, row.first_departure
    noise = sum(tensor.noise for tensor in row.tensors)
    aside = f"; {noise} tensors lie below it" if noise else ""
    return (
        f"{row.step.value}: {len(row.tensors)} tensors, max {whole.max_abs:.3g}, mean "
        f"{whole.mean_abs:.3g}, relative {whole.relative_rms:.3g} (tolerance "
        f"{row.tolerance.words}{aside}): "
        f"{f'DEPARTS, first {first.name}' if first else 'ok'}"
    )


def _listed(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:.6f}" for loss in losses)


def _or(given: float | None, default: float) -> float:
    return default if given is None else given


def layers(options: Options) -> Result:
    """Compare layer by layer; exit code 1 when one departs."""
    from segdeploy.api import align
    from segdeploy.training.align.layers import DEFAULT_TOLERANCE
    from segdeploy.training.align.onnx import PERTURBATION

    found = align.layers(
        _right(options),
        options.model,
        data=options.data,
        num_samples=options.num_samples,
        seed=options.seed,
        runtimes=options.runtime,
        tolerance=_or(options.tolerance, DEFAULT_TOLERANCE),
        threads=options.threads,
        perturbed=options.perturb,
    )
    if options.perturb:
        log.info("weights of %s scaled by %g on purpose", options.perturb, 1 + PERTURBATION)
    for alignment in found.alignments:
        _say_layers(alignment)
    for name, reason in found.skipped.items():
        log.info("%s: skipped, %s", name, reason)
    log.info("PASS" if found.passed else "FAIL")
    return 0 if found.passed else GATE_FAILED, {
        "alignments": [alignment.as_json() for alignment in found.alignments],
        "skipped": dict(found.skipped),
        "passed": found.passed,
    }


def _right(options: Options) -> Checkpoint | LoadedModule | Artifact:
    """What is taken as right: the ONNX file of ``--reference``, else a checkpoint.

    Raises:
        UsageError: flags that state no two sides.
    """
    if options.reference:
        if options.checkpoint or not options.model:
            raise UsageError("--reference FILE.onnx goes with -m, and without -c")
        from segdeploy.deploy.onnx_model.file import describe

        return describe(options.reference)
    if options.model and not options.checkpoint:
        raise UsageError(
            f"-m {options.model} needs what it is compared with: -c CHECKPOINT or --reference "
            "FILE.onnx"
        )
    return given_or_bundled(options)


def _say_layers(alignment: LayerAlignment) -> None:
    log.info(
        "%s against %s, %d images, tolerance %g of each layer's largest magnitude",
        alignment.candidate,
        alignment.reference,
        alignment.images,
        alignment.output.tolerance,
    )
    for layer in (*alignment.layers, alignment.output):
        log.info("  %s", _layer_line(layer))
    for reason, number in Counter(alignment.left_out.values()).items():
        log.info("  %d more not compared, %s (--format json names them)", number, reason)
    first = alignment.first_departure
    log.info(
        "%s: %d of %d layers agree%s",
        alignment.candidate,
        len(alignment.layers) - alignment.departed,
        len(alignment.layers),
        f"; the first that departs is {first.name} ({first.operator})" if first else "",
    )


def _layer_line(layer: Layer) -> str:
    found = layer.difference
    return (
        f"{layer.name:<34} {layer.operator:<15} max {found.max_abs:.2e}  mean {found.mean_abs:.2e}"
        f"  relative {found.relative:.2e}  SQNR {found.sqnr_db:6.1f} dB  "
        f"{'DEPARTS' if layer.departs else 'ok'}"
    )


_CHECKS: dict[str, tuple[str, Callable[[Parser], None], Callable[[Options], Result]]] = {
    "layers": (
        "compare PyTorch with runtimes, or two ONNX files, layer by layer",
        _layers_flags,
        layers,
    ),
    "dump": ("write what a training computes, step by step", _dump_flags, dump),
    "compare": ("compare two dumps step by step", _compare_flags, compare),
    "curves": ("compare a column of two training histories", _curves_flags, curves),
}
"""Each check: what it does, its flags, and what runs."""
