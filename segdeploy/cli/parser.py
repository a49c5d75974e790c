"""Which verbs there are. A verb's flags stand in its own module, imported when it is named."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from segdeploy.cli.flags import max_memory_flag
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy import __version__


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What is told of a verb without importing it.

    Attributes:
        help: what it does, in a line.
        examples: commands that work, a line each.
        limited: whether its memory grows with what it is given, so that it takes
            ``--max-memory``.
    """

    help: str
    examples: tuple[str, ...]
    limited: bool = False


VERBS = {
    "doctor": Verb(
        help="say what this machine has and which runtimes are ready",
        examples=("segdeploy doctor",),
    ),
    "data": Verb(
        help="prepare an image set: DSB2018, ISIC 2018, DRIVE, or a folder a split",
        examples=("segdeploy data prepare stage1_train -o dsb2018",),
    ),
    "train": Verb(
        help="train a network on a prepared folder",
        examples=("segdeploy train --data dsb2018 -o runs/unetpp --epochs 60",),
        limited=True,
    ),
    "export": Verb(
        help="export a checkpoint to fp32 ONNX",
        examples=("segdeploy export -c best.safetensors -o net.fp32.onnx",),
    ),
    "simplify": Verb(
        help="simplify an ONNX graph",
        examples=("segdeploy simplify -m net.fp32.onnx -o net.sim.onnx",),
    ),
    "convert": Verb(
        help="convert an fp32 model to fp16",
        examples=("segdeploy convert -m net.sim.onnx --precision fp16 -o net.fp16.onnx",),
    ),
    "rewrite": Verb(
        help="rewrite a graph into one that does the same with less work, or from image to mask",
        examples=("segdeploy rewrite -m net.sim.onnx --calib-data dsb2018 -o net.opt.onnx",),
    ),
    "calibrate": Verb(
        help="find the range of every activation on real images",
        examples=("segdeploy calibrate -m net.opt.onnx --calib-data dsb2018 -o net.calib.json",),
        limited=True,
    ),
    "quantize": Verb(
        help="write the int8 model of a target from a calibration table",
        examples=(
            "segdeploy quantize -m net.opt.onnx --calibration net.calib.json --target ort-x86 "
            "-o net.int8.ort-x86.onnx",
            "segdeploy quantize -m net.opt.onnx --calibration net.calib.json -o net.int8.onnx "
            "--max-drop 0.02 --time-budget 10m --data dsb2018 --reference best.safetensors",
        ),
        limited=True,
    ),
    "parity": Verb(
        help="compare candidates with a reference on the same images; exit code 1 unless all are "
        "kept",
        examples=(
            "segdeploy parity -m net.fp16.onnx net.int8.ort-x86.onnx --reference best.safetensors "
            "--data dsb2018",
        ),
        limited=True,
    ),
    "debug": Verb(
        help="say which layers int8 hurts and why, worst first",
        examples=(
            "segdeploy debug -m net.opt.onnx --calibration net.calib.json --target ort-x86",
            "segdeploy debug -m net.int8.onnx --reference net.opt.onnx -o debug.json",
        ),
        limited=True,
    ),
    "align": Verb(
        help="check that two implementations compute the same, layer by layer or step by step",
        examples=("segdeploy align layers -c best.safetensors --data dsb2018",),
    ),
    "benchmark": Verb(
        help="time models side by side, interleaved in one run",
        examples=(
            "segdeploy benchmark -m net.sim.onnx net.int8.ort-x86.onnx "
            "--reference best.safetensors",
        ),
        limited=True,
    ),
    "package": Verb(
        help="write a folder for another toolchain, with everything it needs, read back and "
        "checked",
        examples=(
            "segdeploy package --target tensorrt -m net.int8.tensorrt.onnx net.fp16.onnx "
            "-o net-trt",
        ),
    ),
    "predict": Verb(
        help="write the mask of every image, at its own size: files, folders, patterns, lists",
        examples=(
            "segdeploy predict net.int8.ort-x86.onnx dsb2018/images -o masks --write mask labels",
        ),
        limited=True,
    ),
    "report": Verb(
        help="write report.md and report.html again from report.json, or put two runs side by side",
        examples=(
            "segdeploy report segdeploy-out",
            "segdeploy report --compare before after -o compared",
        ),
    ),
    "verify": Verb(
        help="hash a finished folder again and say what changed; exit code 1 if anything did",
        examples=("segdeploy verify segdeploy-out",),
    ),
    "run": Verb(
        help="do the whole job, from export to int8, parity, benchmark and report",
        examples=("segdeploy run -c best.safetensors --data dsb2018 -o out",),
        limited=True,
    ),
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; the flags of a verb are read from its module once it is named."""
    parser = argparse.ArgumentParser(
        prog="segdeploy",
        description="Take a trained R2U-Net or UNet++ to the device: ONNX, fp16, KL-calibrated "
        "int8, and proof of what was kept and gained.",
        epilog="Start with `segdeploy run`: the whole job on the bundled checkpoint and images.",
    )
    parser.add_argument("--version", action="version", version=f"segdeploy {__version__}")
    verbs = parser.add_subparsers(
        dest="verb", metavar="VERB", required=True, parser_class=VerbParser
    )
    for name, verb in VERBS.items():
        verbs.add_parser(name, help=verb.help, verb=name)
    return parser


def module_of(verb: str) -> ModuleType:
    """The module of a verb: ``add_flags(parser)``, ``run(options, arguments) -> Result``."""
    return import_module(f"segdeploy.cli.{verb}")


def run_verb(options: Options, arguments: Sequence[str]) -> Result:
    """Do what the parsed command line says.

    Args:
        options: what ``build_parser`` made of the command line.
        arguments: the command line itself.
    """
    code, result = module_of(options.verb).run(options, arguments)
    return code, result


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers below one by name; none below a leaf."""
    if isinstance(parser, VerbParser):
        parser.complete()
    for action in parser._actions:  # argparse offers no public way to list its parsers
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb. It gets its flags when it is first used."""

    def __init__(self, *, verb: str, **given: Any) -> None:
        about = VERBS[verb]
        super().__init__(
            **given,
            description=about.help[0].upper() + about.help[1:] + ".",
            epilog="\n  ".join(("example:", *about.examples)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._verb = verb
        self._complete = False

    def complete(self) -> None:
        """Import the verb's module and take its flags."""
        if self._complete:
            return
        self._complete = True
        module_of(self._verb).add_flags(self)
        for leaf in subparsers_of(self).values() or (self,):
            common = leaf.add_argument_group("output and configuration")
            common.add_argument(
                "--format", choices=("text", "json"), default="text", help="json: results on stdout"
            )
            if VERBS[self._verb].limited:
                max_memory_flag(common)
            common.add_argument(
                "--config", type=Path, metavar="FILE.yaml", help="flags from a file"
            )

    def parse_known_args(  # type: ignore[override]  # argparse's overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As argparse does, with the verb's flags."""
        self.complete()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """As argparse does, with the verb's flags."""
        self.complete()
        return super().format_help()


def verbs() -> Sequence[str]:
    """Names of all verbs."""
    return tuple(VERBS)
