"""The flags of ``segdeploy debug``. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from segdeploy.cli.flags import TARGETS, Group, output_flag, positive_int, seed_flag, threads_flag

DEFAULT_SAMPLES = 16


def debug_flags(verb: Group) -> None:
    """Everything ``segdeploy debug`` takes."""
    verb.add_argument(
        "-m",
        "--model",
        type=Path,
        required=True,
        help="float ONNX file that was calibrated, with --calibration; or an int8 file in QDQ "
        "form, with --reference",
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
    verb.add_argument(
        "--calib-data", type=Path, help="prepared folder, its train split (default: bundled sample)"
    )
    verb.add_argument(
        "--num-samples",
        type=positive_int,
        help=f"images, drawn by seed (default: {DEFAULT_SAMPLES}, or all where there are fewer)",
    )
    seed_flag(verb)
    threads_flag(verb)
    output_flag(verb, "JSON file to write, histograms and all")
