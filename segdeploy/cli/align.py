"""``segdeploy align``: whether two implementations compute the same."""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from segdeploy.cli.compare import require_same_inputs
from segdeploy.cli.flags import (
    RUNTIMES,
    Group,
    checkpoint_flag,
    checkpoint_flags,
    evaluation_data,
    network_flags,
    not_negative,
    output_flag,
    positive,
    positive_int,
    seed_flag,
    threads_flag,
)
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled
from segdeploy.deploy.data import bundled
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.deploy.data.preprocess import Preprocess
    from segdeploy.deploy.onnx_model.artifact import Artifact
    from segdeploy.deploy.runtimes.base import Execution
    from segdeploy.deploy.runtimes.registry import RuntimeName
    from segdeploy.training.align.compare import StepRow
    from segdeploy.training.align.dump import Step
    from segdeploy.training.align.layers import Layer, LayerAlignment, Reference
    from segdeploy.training.align.tolerance import Tolerance

log = logging.getLogger(__name__)

STEPS = ("inputs", "forward", "metric", "loss", "backward", "update", "training")
DEFAULT_SAMPLES = 4


def add_flags(verb: argparse.ArgumentParser) -> None:
    """One check a word, each with its own flags."""
    checks = verb.add_subparsers(
        dest="check", metavar="CHECK", required=True, parser_class=argparse.ArgumentParser
    )
    for name, (help_text, check_flags, _) in _CHECKS.items():
        description = f"{help_text[0].upper()}{help_text[1:]}."
        check_flags(checks.add_parser(name, help=help_text, description=description))


def _layers_flags(check: Group) -> None:
    checkpoint_flags(check, required=False)
    check.add_argument(
        "-m", "--model", type=Path, help="ONNX file to check (default: an export of -c)"
    )
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


def _dump_flags(check: argparse.ArgumentParser) -> None:
    checkpoint_flag(check, required=False)
    network_flags(check)
    check.set_defaults(head=None, logits=None)  # a training has all heads
    output_flag(check, "folder to write", required=True)
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


def _compare_flags(check: Group) -> None:
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


def _curves_flags(check: Group) -> None:
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


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Run one check; exit code 1 when something departs."""
    _, _, check = _CHECKS[options.check]
    return check(options)


def dump(options: Options) -> Result:
    """Write what a checkpoint's training computes, step by step."""
    import torch

    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.runtimes.registry import usable_cores
    from segdeploy.training.align.dump import write_dump
    from segdeploy.training.align.steps import StepsRecipe, checkpoint_dump

    torch.set_num_threads(options.threads or usable_cores())
    given = {
        name: value
        for name in ("steps", "batch", "learning_rate", "seed")
        if (value := getattr(options, name)) is not None
    }
    found = checkpoint_dump(
        given_or_bundled(options),
        open_set(options.data or bundled.sample(), "train"),
        StepsRecipe(**given),
        device=options.device,
        plain_kernels=options.plain_kernels,
    )
    write_dump(found, options.output)
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
    from segdeploy.training.align.compare import compare_dumps
    from segdeploy.training.align.dump import read_dump

    reference, candidate = (read_dump(path) for path in (options.reference, options.candidate))
    tolerances = _tolerances(options.tolerance)
    steps = compare_dumps(reference, candidate, tolerances=tolerances)
    for row in steps:
        log.info("%s", _step_line(row))
    first = next((row for row in steps if not row.passed), None)
    if first is None or first.first_departure is None:
        log.info("PASS: %d steps agree", len(steps))
    else:
        log.info("FAIL: %s departs first, tensor %s", first.step.value, first.first_departure.name)
    return 0 if first is None else GATE_FAILED, {
        "reference": {"source": reference.source, "environment": dict(reference.environment)},
        "candidate": {"source": candidate.source, "environment": dict(candidate.environment)},
        "steps": [row.as_json() for row in steps],
        "first_departure": first.step.value if first else None,
        "passed": first is None,
    }


def curves(options: Options) -> Result:
    """Compare a column of two training histories."""
    from segdeploy.training.align.curves import MAX_ABSOLUTE, MAX_RELATIVE, align_curves
    from segdeploy.training.align.history import read_curve
    from segdeploy.training.align.plot import require_plots, write_plot

    if options.plot:
        require_plots(options.plot)
    files = (options.reference, options.candidate)
    reference, candidate = (read_curve(path, options.column) for path in files)
    found = align_curves(
        reference,
        candidate,
        max_relative=_or(options.max_relative, MAX_RELATIVE),
        max_absolute=_or(options.max_absolute, MAX_ABSOLUTE),
        common=options.common,
    )
    if options.plot:
        write_plot(found, options.plot)
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
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.runtimes.base import Execution
    from segdeploy.deploy.runtimes.registry import usable_cores
    from segdeploy.training.align.layers import DEFAULT_TOLERANCE, align_layers
    from segdeploy.training.align.onnx import PERTURBATION, perturb

    execution = Execution(threads=options.threads or usable_cores())
    tolerance = DEFAULT_TOLERANCE if options.tolerance is None else options.tolerance
    runtimes, skipped = _runtimes(options)
    images = open_set(options.data or bundled.sample(), "test")
    images = images.take(options.num_samples, seed=options.seed)
    with (
        TemporaryDirectory(prefix="segdeploy-") as folder,
        _sides(options, Path(folder), execution) as (reference, candidate, preprocess),
    ):
        if options.perturb:
            faulty = Path(folder) / f"perturbed-{candidate.path.name}"
            candidate = perturb(candidate, faulty, layer=options.perturb)
            log.info("weights of %s scaled by %g on purpose", options.perturb, 1 + PERTURBATION)
        found = align_layers(
            reference,
            candidate,
            runtimes,
            list(images.inputs(preprocess)),
            tolerance=tolerance,
            execution=execution,
            progress=lambda items: bar(items, "align", unit="image"),
        )
    for alignment in found:
        _say_layers(alignment)
    for name, reason in skipped.items():
        log.info("%s: skipped, %s", name, reason)
    passed = all(alignment.passed for alignment in found)
    log.info("PASS" if passed else "FAIL")
    return 0 if passed else GATE_FAILED, {
        "alignments": [alignment.as_json() for alignment in found],
        "skipped": skipped,
        "passed": passed,
    }


@contextmanager
def _sides(
    options: Options, folder: Path, execution: Execution
) -> Iterator[tuple[Reference, Artifact, Preprocess]]:
    """The reference, the file to check, and the input contract they share.

    Raises:
        UsageError: flags that state no two sides, or sides that expect different inputs.
    """
    from segdeploy.deploy.onnx_model.file import contract_of, describe
    from segdeploy.deploy.runtimes.registry import RuntimeName
    from segdeploy.training.align.onnx import OnnxValues

    if options.reference:
        if options.checkpoint or not options.model:
            raise UsageError("--reference FILE.onnx goes with -m, and without -c")
        right, candidate = describe(options.reference), describe(options.model)
        preprocess = contract_of(candidate)
        require_same_inputs(options.reference, contract_of(right), preprocess)
        with OnnxValues(right, RuntimeName.ONNXRUNTIME, execution=execution) as values:
            yield values, candidate, preprocess
        return
    if options.model and not options.checkpoint:
        raise UsageError(
            f"-m {options.model} needs what it is compared with: -c CHECKPOINT or --reference "
            "FILE.onnx"
        )
    import torch

    from segdeploy.deploy.stages.export import export
    from segdeploy.training.align.pytorch import PyTorchValues

    torch.set_num_threads(execution.threads)
    checkpoint = given_or_bundled(options)
    if options.model:
        candidate = describe(options.model)
        if contract_of(candidate) != checkpoint.preprocess:
            raise UsageError(
                f"{options.model} expects {contract_of(candidate).to_json()}, {checkpoint.path} "
                f"{checkpoint.preprocess.to_json()}; give --preprocess as at the export"
            )
    else:
        candidate = export(checkpoint, folder / f"{checkpoint.path.stem}.onnx")
    yield PyTorchValues(checkpoint), candidate, checkpoint.preprocess


def _runtimes(options: Options) -> tuple[tuple[RuntimeName, ...], dict[str, str]]:
    """Those asked for; else those for the CPU that are here, and why the others are not."""
    from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, RuntimeName, availability

    if options.runtime:
        return tuple(RuntimeName(name) for name in options.runtime), {}
    states = {name: availability(name) for name in CPU_RUNTIMES}
    ready = tuple(name for name, state in states.items() if state.ready)
    return ready, {n.value: s.reason for n, s in states.items() if s.reason is not None}


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


_CHECKS: dict[
    str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[Options], Result]]
] = {
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
