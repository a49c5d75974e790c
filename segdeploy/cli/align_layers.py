"""``segdeploy align layers``: a network against its ONNX file in each runtime, layer by layer."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from segdeploy.cli.compare import require_same_inputs
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, RuntimeName, availability, usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar
from segdeploy.training.align.layer_rows import Layer, LayerAlignment
from segdeploy.training.align.layers import DEFAULT_TOLERANCE, Reference, align_layers
from segdeploy.training.align.onnx import PERTURBATION, OnnxValues, perturb

log = logging.getLogger(__name__)

DEFAULT_SAMPLES = 4


def layers(options: Options) -> Result:
    """Compare layer by layer; exit code 1 when one departs."""
    execution = Execution(threads=options.threads or usable_cores())
    tolerance = _tolerance(options)
    runtimes, skipped = _runtimes(options)
    images = open_set(options.data or bundled.sample(), "test")
    images = images.take(options.num_samples or DEFAULT_SAMPLES, seed=options.seed or 0)
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
        _say(alignment)
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
    if options.runtime:
        return tuple(RuntimeName(name) for name in options.runtime), {}
    states = {name: availability(name) for name in CPU_RUNTIMES}
    ready = tuple(name for name, state in states.items() if state.ready)
    return ready, {n.value: s.reason for n, s in states.items() if s.reason is not None}


def _tolerance(options: Options) -> float:
    if not options.tolerance:
        return DEFAULT_TOLERANCE
    (step, number), *more = options.tolerance
    if more or step is not None:
        raise UsageError("align layers takes one --tolerance NUMBER, the same for every layer")
    return float(number)


def _say(alignment: LayerAlignment) -> None:
    log.info(
        "%s against %s, %d images, tolerance %g of each layer's largest magnitude",
        alignment.candidate,
        alignment.reference,
        alignment.images,
        alignment.output.tolerance,
    )
    for layer in (*alignment.layers, alignment.output):
        log.info("  %s", _line(layer))
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


def _line(layer: Layer) -> str:
    found = layer.difference
    return (
        f"{layer.name:<34} {layer.operator:<15} max {found.max_abs:.2e}  mean {found.mean_abs:.2e}"
        f"  relative {found.relative:.2e}  SQNR {found.sqnr_db:6.1f} dB  "
        f"{'DEPARTS' if layer.departs else 'ok'}"
    )
