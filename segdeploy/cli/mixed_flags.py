"""The flags of ``segdeploy quantize``. Imports nothing heavy."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from segdeploy.cli.flags import (
    TARGETS,
    Group,
    checkpoint_details,
    exclude_flag,
    model_flag,
    not_negative,
    output_flag,
    seed_flag,
    threads_flag,
)

UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_TIME_BUDGET = "10m"


def quantize_flags(verb: Group) -> None:
    """Everything ``segdeploy quantize`` takes."""
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument("--calibration", type=Path, required=True, help="table from `calibrate`")
    verb.add_argument(
        "--target",
        choices=TARGETS,
        default="ort-x86",
        help="default: ort-x86 (ort-arm, ort-x86-no-vnni and tensorrt: not run on hardware)",
    )
    exclude_flag(verb)
    group = verb.add_argument_group(
        "mixed precision",
        "with --max-drop: the fewest layers stay in float with which the lower end of the 95 %\n"
        "interval of the change of IoU, against --reference on the val split of --data, keeps the\n"
        "budget; the test split only reports. The best file so far is in place at any moment, and\n"
        "an interrupted search goes on when started again. Exit code 1 where time ends before.",
    )
    group.add_argument(
        "--max-drop", type=not_negative, metavar="POINTS", help="the budget, e.g. 0.02"
    )
    group.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help=f"no trial starts that would end later: 90s, 10m, 1h (default: {DEFAULT_TIME_BUDGET})",
    )
    group.add_argument("--data", type=Path, help="prepared folder with a val split")
    group.add_argument(
        "--reference", type=Path, help="checkpoint or ONNX file that accuracy is compared with"
    )
    checkpoint_details(group)
    seed_flag(group)
    threads_flag(group)


def duration(text: str) -> float:
    """Seconds of a time such as ``90s``, ``10m`` or ``1.5h``; a plain number is seconds.

    Example:
        >>> duration("10m"), duration("90")
        (600.0, 90.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0; write 90s, 10m or 1h")
    return float(found[1]) * UNITS_S[found[2]]
