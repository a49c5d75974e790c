"""Flags of ``segdeploy parity``. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from segdeploy.cli.flags import (
    Group,
    checkpoint_details,
    evaluation_data,
    max_drop_flag,
    models_flag,
    runtime_flag,
    seed_flag,
    threads_flag,
    time_limit_flag,
)

VALUES = ("probability", "logits")


def parity_flags(verb: Group) -> None:
    """Models, outputs that devices returned, and what both are compared with."""
    models_flag(verb, required=False)
    verb.add_argument(
        "--reference", type=Path, required=True, help="checkpoint or ONNX file to compare with"
    )
    checkpoint_details(verb)
    evaluation_data(verb)
    runtime_flag(verb, default="every runtime that is here and takes the file")
    max_drop_flag(verb)
    seed_flag(verb)
    threads_flag(verb)
    time_limit_flag(verb)
    _prediction_flags(verb)


def _prediction_flags(verb: Group) -> None:
    group = verb.add_argument_group(
        "outputs of a device",
        "scored like a model: one file for each evaluation image, NAME.npz or NAME.npy (one float\n"
        "array, the network's output) or NAME.png (a mask of the network's size)",
    )
    group.add_argument(
        "--predictions", type=Path, nargs="+", default=(), metavar="DIR", help="folders of outputs"
    )
    group.add_argument(
        "--predictions-name",
        nargs="+",
        metavar="NAME",
        help="of the device, for the table, one for each folder (default: the folder's name)",
    )
    group.add_argument(
        "--predictions-are",
        choices=VALUES,
        default=VALUES[0],
        help="what the arrays hold (default: probability)",
    )
    group.add_argument(
        "--predictions-order",
        type=Path,
        metavar="FILE",
        help="the inputs in the order the device took them, one path a line, for a device that "
        "numbers its outputs: the n-th file by name is of the n-th line",
    )
