"""The flags of ``benchmarks.peers``. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_SAMPLES = 50


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure this project beside the tools people use today.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    calibration = benchmarks.add_parser(
        "calibration",
        help="seconds, memory, candidates, IoU and ranges of calibration tools",
        description="Calibrate one model on the same images with every tool.",
        epilog="example:\n  python -m benchmarks.peers calibration -m net.sim.onnx --data dsb2018",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = calibration.add_mutually_exclusive_group()
    source.add_argument("-m", "--model", type=Path, help="float32 ONNX file")
    source.add_argument(
        "-c", "--checkpoint", type=Path, help="checkpoint to export (default: bundled UNet++)"
    )
    calibration.add_argument(
        "--data",
        type=Path,
        help="prepared folder: its train split calibrates, its test split judges (default: "
        "bundled sample)",
    )
    amount = calibration.add_mutually_exclusive_group()
    amount.add_argument(
        "--num-samples",
        type=_positive,
        default=DEFAULT_SAMPLES,
        help=f"calibration images (default: {DEFAULT_SAMPLES})",
    )
    amount.add_argument(
        "--growth",
        type=_positive,
        nargs=2,
        metavar=("FEW", "MANY"),
        help="measure our memory alone, with so many images; a smaller set is repeated",
    )
    calibration.add_argument(
        "--search",
        action="store_true",
        help="also run ONNX Runtime's Entropy with 2048 bins, so that it searches: its default "
        "leaves one candidate (a minute more)",
    )
    calibration.add_argument("--threads", type=_positive, help="default: all this process may use")
    calibration.add_argument(
        "-o", "--output", type=Path, default=Path("peers-out"), help="folder (default: peers-out)"
    )
    calibration.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: results on stdout"
    )
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value
