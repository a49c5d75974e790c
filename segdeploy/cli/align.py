"""The verb that proves two implementations compute the same: align."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from segdeploy.cli.align_flags import FLAGS_OF
from segdeploy.cli.align_layers import layers
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, given_or_bundled
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.align.compare import TOLERANCES, compare_dumps
from segdeploy.training.align.curves import MAX_ABSOLUTE, MAX_RELATIVE, align_curves
from segdeploy.training.align.dump import Step, read_dump, write_dump
from segdeploy.training.align.history import read_curve
from segdeploy.training.align.plot import require_plots, write_plot
from segdeploy.training.align.step_rows import StepRow
from segdeploy.training.align.tolerance import Tolerance

log = logging.getLogger(__name__)


def align(options: Options, arguments: Sequence[str]) -> Result:
    """Run one check; exit code 1 when something departs."""
    _require_own_flags(options)
    return _ACTIONS[options.action](options)


def dump(options: Options) -> Result:
    """Write what a checkpoint's training computes, step by step."""
    if options.output is None:
        raise UsageError("align dump needs -o FOLDER to write to")
    import torch

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
        device=options.device or "cpu",
        plain_kernels=bool(options.plain_kernels),
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
    reference, candidate = map(read_dump, options.files)
    tolerances = _tolerances(options.tolerance or ())
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
    if options.plot:
        require_plots(options.plot)
    column = options.column or "train_loss"
    reference, candidate = (read_curve(path, column) for path in options.files)
    found = align_curves(
        reference,
        candidate,
        max_relative=_or(options.max_relative, MAX_RELATIVE),
        max_absolute=_or(options.max_absolute, MAX_ABSOLUTE),
        common=bool(options.common),
    )
    if options.plot:
        write_plot(found, options.plot)
        log.info("plot: %s", options.plot)
    position, gap = found.largest
    log.info(
        "%s of %d %ss%s: mean relative error %.4g (limit %g), mean absolute error %.4g (limit %g; "
        "signed %+.4g), largest %.4g at %s %g",
        column,
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


_ACTIONS: dict[str, Callable[[Options], Result]] = {
    "layers": layers,
    "dump": dump,
    "compare": compare,
    "curves": curves,
}


def _require_own_flags(options: Options) -> None:
    """Refuse a flag that belongs to another action, and a wrong number of files.

    Raises:
        UsageError: naming it and the actions that take it.
    """
    own = FLAGS_OF[options.action]
    for name in sorted({*frozenset().union(*FLAGS_OF.values())} - own - {"files"}):
        if getattr(options, name) is not None:
            takers = [action for action, flags in FLAGS_OF.items() if name in flags]
            raise UsageError(
                f"--{name.replace('_', '-')} is for align {' and '.join(takers)}, not for "
                f"{options.action}"
            )
    expected = 2 if "files" in own else 0
    if len(options.files) != expected:
        raise UsageError(
            f"align {options.action} takes {expected} files, got "
            f"{[str(path) for path in options.files]}"
        )


def _tolerances(given: Sequence[tuple[str | None, float]]) -> Mapping[Step, Tolerance]:
    """The defaults with the numbers of the command line in the place of their main part.

    Raises:
        UsageError: a number without its step.
    """
    tolerances = dict(TOLERANCES)
    for name, number in given:
        if name is None:
            raise UsageError(f"--tolerance {number:g}: align compare takes STEP=NUMBER")
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
