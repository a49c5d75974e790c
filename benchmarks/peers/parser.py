"""The flags of ``benchmarks.peers``. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.deploy.system.flag_values import not_negative, positive_int

if TYPE_CHECKING:  # a private class with a type parameter
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_SAMPLES = 50
DEFAULT_BATCH = 8
DEFAULT_DURATION_S = 5.0
DEFAULT_WARMUP = 3
DEFAULT_ROUNDS = 20
_BUNDLED = "(default: bundled UNet++)"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m segdeploy.benchmarks.peers",
        description="Measure this project beside the tools people use today.",
    )
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    _add_calibration(benchmarks)
    _add_speed(benchmarks)
    _add_zoo(benchmarks)
    return parser


def _add_calibration(benchmarks: Subparsers) -> None:
    calibration = benchmarks.add_parser(
        "calibration",
        help="seconds, memory, candidates, IoU and ranges of calibration tools",
        description="Calibrate one model on the same images with every tool.",
        epilog="example:\n  python -m segdeploy.benchmarks.peers calibration -m net.sim.onnx "
        "--data dsb2018",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = calibration.add_mutually_exclusive_group()
    source.add_argument("-m", "--model", type=Path, help="float32 ONNX file")
    source.add_argument("-c", "--checkpoint", type=Path, help=f"checkpoint to export {_BUNDLED}")
    amount = calibration.add_mutually_exclusive_group()
    amount.add_argument(
        "--num-samples",
        type=positive_int,
        default=DEFAULT_SAMPLES,
        help=f"calibration images (default: {DEFAULT_SAMPLES})",
    )
    amount.add_argument(
        "--growth",
        type=positive_int,
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
    _add_common(calibration)


def _add_speed(benchmarks: Subparsers) -> None:
    speed = benchmarks.add_parser(
        "speed",
        help="IoU, latency and throughput of PyTorch, ONNX Runtime, OpenVINO, NNCF and ours",
        description="Quantize one network with every tool and time all of them in turn.",
        epilog="example:\n  python -m segdeploy.benchmarks.peers speed -c best.pth --data dsb2018",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    speed.add_argument("-c", "--checkpoint", type=Path, help=f"checkpoint {_BUNDLED}")
    speed.add_argument(
        "--num-samples",
        type=positive_int,
        default=DEFAULT_SAMPLES,
        help=f"calibration images (default: {DEFAULT_SAMPLES})",
    )
    speed.add_argument(
        "--eval-samples",
        type=positive_int,
        help="evaluation images (default: the whole test split)",
    )
    speed.add_argument(
        "--batch",
        type=positive_int,
        default=DEFAULT_BATCH,
        help=f"images of one call, beside 1, for throughput (default: {DEFAULT_BATCH})",
    )
    speed.add_argument(
        "--duration",
        type=not_negative,
        default=DEFAULT_DURATION_S,
        help="seconds for each contender and setting, at least a few rounds (default: "
        f"{DEFAULT_DURATION_S:g})",
    )
    speed.add_argument(
        "--warmup",
        type=positive_int,
        default=DEFAULT_WARMUP,
        help=f"untimed calls of each (default: {DEFAULT_WARMUP})",
    )
    speed.add_argument(
        "--no-compile",
        action="store_true",
        help="leave torch.compile out; it compiles for minutes",
    )
    _add_common(speed)


def _add_zoo(benchmarks: Subparsers) -> None:
    zoo = benchmarks.add_parser(
        "zoo",
        help="public architectures, trained on demand, quantized with every tool",
        description="Train public architectures in minutes each, quantize them with every tool, "
        "score and time them. Interrupted, the same command goes on.",
        epilog="example:\n  python -m segdeploy.benchmarks.peers zoo --data dsb2018 --only nnunet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="networks (default: all)")
    work = zoo.add_mutually_exclusive_group()
    work.add_argument("--train-only", action="store_true", help="fill the cache of weights")
    work.add_argument(
        "--summary",
        action="store_true",
        help="say what was measured against the aims; measures nothing",
    )
    zoo.add_argument(
        "--cache", type=Path, help="weights (default: segdeploy/zoo in the user's cache folder)"
    )
    zoo.add_argument(
        "--num-samples",
        type=positive_int,
        default=DEFAULT_SAMPLES,
        help=f"calibration images (default: {DEFAULT_SAMPLES})",
    )
    zoo.add_argument(
        "--eval-samples",
        type=positive_int,
        help="evaluation images (default: the whole test split)",
    )
    zoo.add_argument(
        "--rounds",
        type=positive_int,
        default=DEFAULT_ROUNDS,
        help=f"blocks of calls of each contender (default: {DEFAULT_ROUNDS})",
    )
    zoo.add_argument(
        "--tune",
        type=not_negative,
        default=0.0,
        metavar="SECONDS",
        help="also search each network's fastest placement for so many seconds; wants a machine "
        "that does nothing else",
    )
    zoo.add_argument(
        "--no-timing", action="store_true", help="figures that a busy machine does not change"
    )
    zoo.add_argument(
        "--batch",
        type=positive_int,
        default=DEFAULT_BATCH,
        help=f"images of a call for throughput (default: {DEFAULT_BATCH})",
    )
    _add_common(zoo)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        help="prepared folder: its train split calibrates, its test split judges (default: "
        "bundled sample)",
    )
    parser.add_argument("--threads", type=positive_int, help="default: all this process may use")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("peers-out"), help="folder (default: peers-out)"
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: results on stdout"
    )
