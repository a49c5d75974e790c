"""The flags of ``segdeploy align``, and which of its actions takes which. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

from segdeploy.cli.flags import (
    RUNTIMES,
    Group,
    checkpoint_flags,
    count,
    not_negative,
    output_flag,
    positive,
    positive_int,
)

STEPS = ("inputs", "forward", "metric", "loss", "backward", "update", "training")
_COMMON = {"checkpoint", "arch", "recurrence", "preprocess", "data", "seed", "threads"}
_LAYERS = {"head", "logits", "model", "reference", "runtime", "num_samples", "tolerance", "perturb"}
_DUMP = {"output", "steps", "batch", "learning_rate", "device", "plain_kernels"}
FLAGS_OF: dict[str, frozenset[str]] = {
    "layers": frozenset(_COMMON | _LAYERS),
    "dump": frozenset(_COMMON | _DUMP),
    "compare": frozenset({"files", "tolerance"}),
    "curves": frozenset({"files", "column", "common", "plot", "max_relative", "max_absolute"}),
}
"""What each action takes; a flag of another is refused, and one not given is ``None``."""


def align_flags(verb: Group) -> None:
    """Everything ``segdeploy align`` takes."""
    verb.add_argument(
        "action",
        choices=tuple(FLAGS_OF),
        help="layers: PyTorch against runtimes, or two ONNX files, layer by layer; dump: write "
        "what a training computes, step by step; compare: two dumps; curves: two histories",
    )
    verb.add_argument(
        "files",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="compare: the reference's dump and another's; curves: the reference's history.csv and "
        "another's; both before any flag",
    )
    checkpoint_flags(verb, required=False)
    verb.add_argument(
        "--data",
        type=Path,
        help="prepared folder; layers takes its test split, dump its train split (default: bundled "
        "sample)",
    )
    verb.add_argument("--seed", type=count, help="which images (default: 0)")
    verb.add_argument("--threads", type=positive_int, help="default: all this process may use")
    verb.add_argument(
        "--tolerance",
        type=tolerance,
        nargs="+",
        metavar="[STEP=]NUMBER",
        help="layers: share of each layer's largest magnitude (default: 2e-5, for fp32); compare: "
        f"of a step's tensors, steps {', '.join(STEPS)}; metric in points of IoU (default: stated "
        "in the result)",
    )
    _layers_flags(verb.add_argument_group("layers"))
    _dump_flags(verb.add_argument_group("dump"))
    _curves_flags(verb.add_argument_group("curves"))


def _layers_flags(group: Group) -> None:
    group.add_argument(
        "-m", "--model", type=Path, help="ONNX file to check (default: an export of -c)"
    )
    group.add_argument(
        "--reference", type=Path, metavar="FILE.onnx", help="ONNX file to take as right, not -c"
    )
    group.add_argument(
        "--runtime", choices=RUNTIMES, nargs="+", help="default: those for the CPU that are here"
    )
    group.add_argument(
        "--num-samples", type=positive_int, help="images, drawn by seed (default: 4)"
    )
    group.add_argument(
        "--perturb",
        metavar="LAYER",
        help="test the check: scale this layer's weights by 1.001 first, and see it named",
    )


def _dump_flags(group: Group) -> None:
    output_flag(group, "folder to write")
    group.add_argument("--steps", type=positive_int, help="of the short training (default: 5)")
    group.add_argument("--batch", type=positive_int, help="images a step (default: 4)")
    group.add_argument("--learning-rate", type=positive, help="of AdamW (default: 0.001)")
    group.add_argument("--device", help="cpu, or PyTorch's cuda (not run on hardware)")
    group.add_argument(
        "--plain-kernels",
        action="store_true",
        default=None,
        help="PyTorch's own CPU kernels, not oneDNN's: another implementation to compare with",
    )


def _curves_flags(group: Group) -> None:
    group.add_argument("--column", help="default: train_loss")
    group.add_argument(
        "--common",
        action="store_true",
        default=None,
        help="compare the epochs or steps that both runs have (default: refuse other lengths)",
    )
    group.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw both curves, .png or .svg",
    )
    group.add_argument(
        "--max-relative", type=not_negative, help="mean relative error that passes (default: 0.05)"
    )
    group.add_argument(
        "--max-absolute",
        type=not_negative,
        help="mean absolute error that passes, either is enough (default: 0.0002)",
    )


def tolerance(text: str) -> tuple[str | None, float]:
    """``1e-4`` or ``forward=1e-4``: the step, if any, and the number."""
    step, equals, number = text.rpartition("=")
    if equals and step not in STEPS:
        raise argparse.ArgumentTypeError(f"{step!r} is not one of {', '.join(STEPS)}")
    return (step if equals else None), not_negative(number)
