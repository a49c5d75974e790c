"""The flags of every verb. Imports nothing heavy, so that ``-h`` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy import __version__

ARCHITECTURES = ("r2u_net", "unet_plus_plus")
METHODS = ("entropy", "percentile", "mse", "minmax")
RUNTIMES = ("onnxruntime", "openvino")
TARGETS = ("openvino-cpu", "ort-arm", "ort-x86", "ort-x86-no-vnni", "tensorrt")

Group = argparse.ArgumentParser | argparse._ArgumentGroup


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
        common.add_argument("--config", type=Path, metavar="FILE.yaml", help="flags from a file")
    return parser


def _doctor(verb: Group) -> None:
    pass


def _data(verb: Group) -> None:
    verb.add_argument("action", choices=("prepare",), help="what to do")
    verb.add_argument("raw", type=Path, help="the unpacked Kaggle stage-1 training folder")
    _output(verb, "folder to write images/, masks/ and splits.csv to", required=True)
    verb.add_argument("--seed", type=_count, default=0, help="of the split (default: 0)")
    verb.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        default=(0.7, 0.1, 0.2),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits (default: 0.7 0.1 0.2)",
    )


def _train(verb: Group) -> None:
    verb.add_argument("--arch", choices=ARCHITECTURES, default="unet_plus_plus", help="network")
    verb.add_argument("--data", type=Path, required=True, help="prepared folder with splits")
    _output(verb, "folder for checkpoints and history.csv", required=True)
    verb.add_argument("--epochs", type=_positive_int, default=60, help="default: 60")
    verb.add_argument("--batch", type=_positive_int, default=8, help="images a step (default: 8)")
    verb.add_argument("--learning-rate", type=_positive, default=2e-3, help="default: 0.002")
    verb.add_argument("--recurrence", type=_positive_int, default=2, help="R2U-Net's t (default 2)")
    verb.add_argument("--width", type=_positive_int, help="channels of the first level")
    verb.add_argument("--pretrained", type=Path, help="checkpoint to start from")
    verb.add_argument(
        "--augment",
        choices=("strong", "mild"),
        default="strong",
        help="strong to learn from few images, mild to finish (default: strong)",
    )
    _seed(verb)
    _threads(verb)


def _export(verb: Group) -> None:
    _checkpoint(verb)
    _output(verb, "ONNX file to write", required=True)


def _simplify(verb: Group) -> None:
    _model(verb)
    _output(verb, "ONNX file to write", required=True)


def _convert(verb: Group) -> None:
    _model(verb)
    _output(verb, "ONNX file to write", required=True)
    verb.add_argument("--precision", choices=("fp16",), default="fp16", help="default: fp16")


def _calibrate(verb: Group) -> None:
    _model(verb)
    _output(verb, "calibration table to write (JSON)", required=True)
    _calibration_data(verb)
    _method(verb)
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
    _threads(verb)


def _quantize(verb: Group) -> None:
    _model(verb)
    _output(verb, "ONNX file to write", required=True)
    verb.add_argument("--calibration", type=Path, required=True, help="table from `calibrate`")
    verb.add_argument("--target", choices=TARGETS, default="ort-x86", help="default: ort-x86")
    _exclude(verb)


def _parity(verb: Group) -> None:
    _models(verb)
    verb.add_argument(
        "--reference", type=Path, required=True, help="checkpoint or ONNX file to compare with"
    )
    _reference_details(verb)
    _evaluation_data(verb)
    _runtimes(verb)
    _max_drop(verb)
    _seed(verb)
    _threads(verb)


def _benchmark(verb: Group) -> None:
    _models(verb)
    verb.add_argument("--reference", type=Path, help="checkpoint to time in PyTorch eager as 1x")
    _reference_details(verb)
    _evaluation_data(verb)
    _runtimes(verb)
    verb.add_argument("--batch", type=_positive_int, nargs="+", default=[1, 8], help="default: 1 8")
    _timing(verb)
    _threads(verb)


def _report(verb: Group) -> None:
    verb.add_argument("folder", type=Path, help="output folder of a run, or its report.json")


def _run(verb: Group) -> None:
    _checkpoint(verb, required=False)
    _output(verb, "folder to write (default: segdeploy-out)", default=Path("segdeploy-out"))
    _evaluation_data(verb)
    _calibration_data(verb, required=False)
    _method(verb)
    verb.add_argument(
        "--target",
        choices=TARGETS,
        nargs="+",
        help="int8 models to make (default: one for each runtime installed)",
    )
    _exclude(verb)
    _runtimes(verb)
    _max_drop(verb)
    verb.add_argument("--batch", type=_positive_int, default=8, help="for throughput (default: 8)")
    _timing(verb)
    _threads(verb)
    _seed(verb)
    verb.add_argument("--overwrite", action="store_true", help="replace what the folder holds")


def _checkpoint(verb: Group, *, required: bool = True) -> None:
    verb.add_argument(
        "-c",
        "--checkpoint",
        type=Path,
        required=required,
        help="trained .pth, .pt or .safetensors" + ("" if required else " (default: bundled)"),
    )
    _reference_details(verb)


def _reference_details(verb: Group) -> None:
    """What the keys of a checkpoint cannot tell."""
    verb.add_argument("--arch", choices=ARCHITECTURES, help="network (default: told by the keys)")
    verb.add_argument(
        "--recurrence", type=_positive_int, help="R2U-Net's t (default: as stored, else 2)"
    )
    verb.add_argument(
        "--head", type=int, choices=(1, 2, 3, 4), help="UNet++ head to take (default: deepest)"
    )
    verb.add_argument(
        "--logits",
        action=argparse.BooleanOptionalAction,
        help="whether the network the checkpoint was trained in returned logits; recorded only, "
        "the exported model ends in one sigmoid either way (default: told by the keys, else no)",
    )
    verb.add_argument(
        "--preprocess",
        type=Path,
        metavar="FILE.json",
        help="input contract (default: as stored, else the published models': 96x96 BGR, mean and "
        "std 0.5)",
    )


def _model(verb: Group) -> None:
    verb.add_argument("-m", "--model", type=Path, required=True, help="ONNX file")


def _models(verb: Group) -> None:
    verb.add_argument("-m", "--model", type=Path, nargs="+", required=True, help="ONNX files")


def _output(
    verb: Group, help_text: str, *, required: bool = False, default: Path | None = None
) -> None:
    verb.add_argument(
        "-o", "--output", type=Path, required=required, default=default, help=help_text
    )


def _evaluation_data(verb: Group) -> None:
    verb.add_argument(
        "--data", type=Path, help="prepared folder, its test split (default: bundled sample)"
    )


def _calibration_data(verb: Group, *, required: bool = True) -> None:
    verb.add_argument(
        "--calib-data",
        type=Path,
        help="prepared folder, its train split (default: "
        + ("bundled sample)" if required else "that of --data)"),
    )
    verb.add_argument(
        "--num-samples", type=_positive_int, help="calibration images, drawn by seed (default: all)"
    )
    if required:
        _seed(verb)


def _method(verb: Group) -> None:
    verb.add_argument(
        "--method", choices=METHODS, default="entropy", help="range search (default: entropy, KL)"
    )


def _exclude(verb: Group) -> None:
    verb.add_argument(
        "--exclude", nargs="+", default=[], metavar="LAYER", help="layers to keep in float"
    )


def _runtimes(verb: Group) -> None:
    verb.add_argument(
        "--runtime", choices=RUNTIMES, nargs="+", help="default: what each file suits and is here"
    )


def _max_drop(verb: Group) -> None:
    verb.add_argument(
        "--max-drop",
        type=_not_negative,
        default=0.1,
        help="largest loss of IoU that passes, percentage points (default: 0.1)",
    )


def _timing(verb: Group) -> None:
    verb.add_argument("--warmup", type=_count, default=5, help="untimed calls (default: 5)")
    verb.add_argument(
        "--duration", type=_positive, default=2.0, help="seconds for each row (default: 2)"
    )


def _threads(verb: Group) -> None:
    verb.add_argument("--threads", type=_positive_int, help="default: all this process may use")


def _seed(verb: Group) -> None:
    verb.add_argument("--seed", type=_count, default=0, help="default: 0")


def _positive_int(text: str) -> int:
    value = _int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return value


def _count(text: str) -> int:
    value = _int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def _positive(text: str) -> float:
    value = _float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def _not_negative(text: str) -> float:
    value = _float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be 0 or more")
    return value


_VERBS: dict[str, tuple[str, str, Callable[[Group], None]]] = {
    "doctor": (
        "say what this machine has and which runtimes are ready",
        "segdeploy doctor",
        _doctor,
    ),
    "data": (
        "prepare an image set: merge the raw Kaggle masks and split",
        "segdeploy data prepare stage1_train -o dsb2018",
        _data,
    ),
    "train": (
        "train a network on a prepared folder",
        "segdeploy train --data dsb2018 -o runs/unetpp --epochs 60",
        _train,
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
    "calibrate": (
        "find the range of every activation on real images",
        "segdeploy calibrate -m net.sim.onnx --calib-data dsb2018 -o net.calib.json",
        _calibrate,
    ),
    "quantize": (
        "write the int8 model of a target from a calibration table",
        "segdeploy quantize -m net.sim.onnx --calibration net.calib.json --target ort-x86 "
        "-o net.int8.ort-x86.onnx",
        _quantize,
    ),
    "parity": (
        "compare models with a reference on the same images; exit code 1 beyond the budget",
        "segdeploy parity -m net.fp16.onnx net.int8.ort-x86.onnx --reference best.safetensors "
        "--data dsb2018",
        _parity,
    ),
    "benchmark": (
        "time models side by side, interleaved in one run",
        "segdeploy benchmark -m net.sim.onnx net.int8.ort-x86.onnx --reference best.safetensors",
        _benchmark,
    ),
    "report": (
        "write report.md and report.html again from report.json",
        "segdeploy report segdeploy-out",
        _report,
    ),
    "run": (
        "do the whole job: export, simplify, fp16, calibrate, int8, parity, benchmark, report",
        "segdeploy run -c best.safetensors --data dsb2018 -o out",
        _run,
    ),
}


def verbs() -> Sequence[str]:
    """Names of all verbs."""
    return tuple(_VERBS)
