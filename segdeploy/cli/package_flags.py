"""The flags of ``segdeploy package``. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from segdeploy.cli.flags import (
    METHODS,
    Group,
    exclude_flag,
    models_flag,
    output_flag,
    positive_int,
    seed_flag,
)

PACKAGE_TARGETS = ("ascend", "onnx", "openvino", "tensorrt", "triton", "vacc")
PREPROCESSING = ("outside", "inside", "both")


def package_flags(verb: Group) -> None:
    """Everything ``segdeploy package`` takes."""
    verb.add_argument(
        "--target",
        choices=PACKAGE_TARGETS,
        required=True,
        help="toolchain to hand the models to",
    )
    models_flag(verb)
    output_flag(verb, "folder to write; refused where it exists")
    verb.add_argument(
        "--check",
        action="store_true",
        help="write nothing: say which nodes of any ONNX files the toolchain would refuse, by what "
        "rule, and how to mend them (tensorrt); exit code 1 if it refuses one",
    )
    verb.add_argument("--overwrite", action="store_true", help="replace the package that is there")
    verb.add_argument(
        "--calib-data",
        type=Path,
        help="prepared folder; the package holds images of its train split to calibrate on",
    )
    verb.add_argument(
        "--num-samples", type=positive_int, help="calibration images, drawn by seed (default: all)"
    )
    seed_flag(verb)
    verb.add_argument(
        "--data", type=Path, help="prepared folder; the package holds its test split to report on"
    )
    verb.add_argument(
        "--calibration",
        type=Path,
        metavar="TABLE",
        help="table from `calibrate`, of the fp32 model",
    )
    verb.add_argument(
        "--method",
        choices=METHODS,
        help="how the device's own tool finds ranges (default: as the table or the int8 model was "
        "made, else entropy)",
    )
    verb.add_argument(
        "--batch",
        type=positive_int,
        nargs="+",
        default=(1, 1, 8),
        metavar="N",
        help="batches the device will see: smallest, usual and largest, or one that onnx, openvino "
        "and triton fix the models to (default: 1 1 8)",
    )
    verb.add_argument(
        "--preprocessing",
        choices=PREPROCESSING,
        default="both",
        help="models that take normalised tensors (outside), 8-bit images (inside), or both; for "
        "onnx, openvino and triton (default: both)",
    )
    exclude_flag(verb)
