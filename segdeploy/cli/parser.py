"""The flags of every verb. Imports nothing heavy, so that ``-h`` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from segdeploy.cli.align_flags import align_flags
from segdeploy.cli.debug_flags import debug_flags
from segdeploy.cli.flags import (
    LAYOUTS,
    REWRITES,
    TARGETS,
    Group,
    calibration_data,
    checkpoint_details,
    checkpoint_flags,
    count,
    end_to_end_flags,
    evaluation_data,
    exclude_flag,
    max_drop_flag,
    max_memory_flag,
    method_flag,
    model_flag,
    models_flag,
    output_flag,
    positive_int,
    runtime_flag,
    seed_flag,
    sweep_flags,
    threads_flag,
    time_limit_flag,
    timing_flags,
)
from segdeploy.cli.mixed_flags import quantize_flags
from segdeploy.cli.package_flags import package_flags
from segdeploy.cli.parity_flags import parity_flags
from segdeploy.cli.predict_flags import predict_flags
from segdeploy.cli.report_flags import report_flags
from segdeploy.cli.train_flags import train_flags
from segdeploy.deploy import __version__

LIMITED = ("run", "calibrate", "quantize", "train", "predict", "parity", "benchmark", "debug")
"""Verbs whose memory grows with what they are given."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="segdeploy",
        description="Take a trained R2U-Net or UNet++ to the device: ONNX, fp16, KL-calibrated "
        "int8, and proof of what was kept and gained.",
        epilog="Start with `segdeploy run`: the whole job on the bundled checkpoint and images.",
    )
    parser.add_argument("--version", action="version", version=f"segdeploy {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (help_text, example, add_flags) in _VERBS.items():
        verb = verbs.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_flags(verb)
        common = verb.add_argument_group("output and configuration")
        common.add_argument(
            "--format", choices=("text", "json"), default="text", help="json: results on stdout"
        )
        if name in LIMITED:
            max_memory_flag(common)
        common.add_argument("--config", type=Path, metavar="FILE.yaml", help="flags from a file")
    return parser


def _doctor(verb: Group) -> None:
    pass


def _data(verb: Group) -> None:
    verb.add_argument("action", choices=("prepare",), help="what to do")
    verb.add_argument("raw", type=Path, help="folder of the dataset, unpacked")
    verb.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="how the folder is laid out (default: auto, told from its folders)",
    )
    output_flag(
        verb,
        "folder to write images/, masks/, splits.csv and, for DRIVE, fov/ to",
        required=True,
    )
    verb.add_argument("--seed", type=count, default=0, help="of the split (default: 0)")
    verb.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits (default: 0.7 0.1 0.2; DRIVE: 0.8 0.2 0 of its training folder; "
        "not where the dataset gives each split)",
    )


def _export(verb: Group) -> None:
    checkpoint_flags(verb)
    output_flag(verb, "ONNX file to write", required=True)


def _simplify(verb: Group) -> None:
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)


def _convert(verb: Group) -> None:
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument("--precision", choices=("fp16",), default="fp16", help="default: fp16")


def _rewrite(verb: Group) -> None:
    model_flag(verb)
    output_flag(verb, "ONNX file to write", required=True)
    verb.add_argument(
        "--rewrites",
        choices=REWRITES,
        nargs="+",
        default=(),
        metavar="NAME",
        help=f"which of {', '.join(REWRITES)} (default: the first three; dead-channels looks at "
        "the images; image-interface: 8-bit image in, mask out; any-size: height and width free, "
        "for predict --fit pad; both of any precision)",
    )
    calibration_data(verb)
    threads_flag(verb)


def _calibrate(verb: Group) -> None:
    model_flag(verb)
    output_flag(verb, "calibration table to write (JSON)", required=True)
    calibration_data(verb)
    method_flag(verb)
    verb.add_argument(
        "--export",
        choices=("onnxruntime", "tensorrt"),
        nargs="+",
        metavar="FORMAT",
        help="also write the calibration cache of onnxruntime or tensorrt, beside the table",
    )
    verb.add_argument(
        "--import",
        dest="import_file",
        type=Path,
        metavar="FILE",
        help="take the ranges from a table or cache of onnxruntime or tensorrt, not from images",
    )
    threads_flag(verb)


def _benchmark(verb: Group) -> None:
    models_flag(verb)
    verb.add_argument("--reference", type=Path, help="checkpoint to time in PyTorch eager as 1x")
    checkpoint_details(verb)
    evaluation_data(verb)
    runtime_flag(verb)
    timing_flags(verb)
    sweep_flags(verb)
    time_limit_flag(verb)
    end_to_end_flags(verb)


def _verify(verb: Group) -> None:
    verb.add_argument("folder", type=Path, help="finished output of run, train, predict or package")


def _run(verb: Group) -> None:
    checkpoint_flags(verb, required=False)
    output_flag(verb, "folder to write (default: segdeploy-out)", default=Path("segdeploy-out"))
    evaluation_data(verb)
    calibration_data(verb, required=False)
    method_flag(verb)
    verb.add_argument(
        "--target",
        choices=TARGETS,
        nargs="+",
        help="int8 models to make (default: one for each runtime installed; ort-arm, "
        "ort-x86-no-vnni and tensorrt: not run on hardware)",
    )
    exclude_flag(verb)
    runtime_flag(verb)
    max_drop_flag(verb)
    verb.add_argument("--batch", type=positive_int, default=8, help="for throughput (default: 8)")
    timing_flags(verb)
    threads_flag(verb)
    time_limit_flag(verb)
    seed_flag(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace what the folder holds")


_VERBS: dict[str, tuple[str, str, Callable[[Group], None]]] = {
    "doctor": (
        "say what this machine has and which runtimes are ready",
        "segdeploy doctor",
        _doctor,
    ),
    "data": (
        "prepare an image set: DSB2018, ISIC 2018, DRIVE, or a folder a split",
        "segdeploy data prepare stage1_train -o dsb2018",
        _data,
    ),
    "train": (
        "train a network on a prepared folder",
        "segdeploy train --data dsb2018 -o runs/unetpp --epochs 60",
        train_flags,
    ),
    "export": (
        "export a checkpoint to fp32 ONNX",
        "segdeploy export -c best.safetensors -o net.fp32.onnx",
        _export,
    ),
    "simplify": (
        "simplify an ONNX graph",
        "segdeploy simplify -m net.fp32.onnx -o net.sim.onnx",
        _simplify,
    ),
    "convert": (
        "convert an fp32 model to fp16",
        "segdeploy convert -m net.sim.onnx --precision fp16 -o net.fp16.onnx",
        _convert,
    ),
    "rewrite": (
        "rewrite a graph into one that does the same with less work, or from image to mask",
        "segdeploy rewrite -m net.sim.onnx --calib-data dsb2018 -o net.opt.onnx",
        _rewrite,
    ),
    "calibrate": (
        "find the range of every activation on real images",
        "segdeploy calibrate -m net.sim.onnx --calib-data dsb2018 -o net.calib.json",
        _calibrate,
    ),
    "quantize": (
        "write the int8 model of a target from a calibration table",
        "segdeploy quantize -m net.sim.onnx --calibration net.calib.json --target ort-x86 "
        "-o net.int8.ort-x86.onnx\n"
        "  segdeploy quantize -m net.sim.onnx --calibration net.calib.json -o net.int8.onnx "
        "--max-drop 0.02 --time-budget 10m --data dsb2018 --reference best.safetensors",
        quantize_flags,
    ),
    "parity": (
        "compare candidates with a reference on the same images; exit code 1 unless all are kept",
        "segdeploy parity -m net.fp16.onnx net.int8.ort-x86.onnx --reference best.safetensors "
        "--data dsb2018",
        parity_flags,
    ),
    "debug": (
        "say which layers int8 hurts and why, worst first",
        "segdeploy debug -m net.opt.onnx --calibration net.calib.json --target ort-x86\n  "
        "segdeploy debug -m net.int8.onnx --reference net.opt.onnx -o debug.json",
        debug_flags,
    ),
    "align": (
        "check that two implementations compute the same, layer by layer or step by step",
        "segdeploy align layers -c best.safetensors --data dsb2018",
        align_flags,
    ),
    "benchmark": (
        "time models side by side, interleaved in one run",
        "segdeploy benchmark -m net.sim.onnx net.int8.ort-x86.onnx --reference best.safetensors",
        _benchmark,
    ),
    "package": (
        "write a folder for another toolchain, with everything it needs, read back and checked",
        "segdeploy package --target tensorrt -m net.int8.tensorrt.onnx net.fp16.onnx -o net-trt",
        package_flags,
    ),
    "predict": (
        "write the mask of every image, at its own size: files, folders, patterns, lists",
        "segdeploy predict net.int8.ort-x86.onnx dsb2018/images -o masks --write mask labels",
        predict_flags,
    ),
    "report": (
        "write report.md and report.html again from report.json, or put two runs side by side",
        "segdeploy report segdeploy-out\n  segdeploy report --compare before after -o compared",
        report_flags,
    ),
    "verify": (
        "hash a finished folder again and say what changed; exit code 1 if anything did",
        "segdeploy verify segdeploy-out",
        _verify,
    ),
    "run": (
        "do the whole job, from export to int8, parity, benchmark and report",
        "segdeploy run -c best.safetensors --data dsb2018 -o out",
        _run,
    ),
}


def verbs() -> Sequence[str]:
    """Names of all verbs."""
    return tuple(_VERBS)
