"""Which verbs there are. A verb's flags stand in its own module, imported when it is named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from segdeploy.cli.flags import max_memory_flag
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy import __version__

SHELLS = ("bash", "zsh", "tcsh")
PATH_WORDS = ("images",)
"""Destinations of words that are paths, and are no ``Path``."""


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
    "adopt": Verb(
        help="make the ONNX file of any exporter one of ours, and prove that it computes the same",
        examples=(
            "segdeploy adopt theirs.onnx --preprocess imagenet -o net.onnx",
            "segdeploy adopt logits.onnx --preprocess zero-one --output-kind logits "
            "--data dsb2018 -o net.onnx",
        ),
        limited=True,
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
            "segdeploy debug -m net.int8.onnx --reference net.opt.onnx -o net.debug.json",
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
        examples=(
            "segdeploy run -c best.safetensors --data dsb2018 -o out",
            "segdeploy run -m theirs.onnx --preprocess imagenet --data dsb2018 -o out",
        ),
        limited=True,
    ),
}


def build_parser() -> Parser:
    """The whole command line; the flags of a verb are read from its module once it is named."""
    parser = Parser(
        prog="segdeploy",
        description="Take a trained segmentation network to the device: ONNX, fp16, "
        "KL-calibrated int8, and proof of what was kept and gained.",
        epilog="Start with `segdeploy run`: the whole job on the bundled checkpoint and images. "
        "`segdeploy help VERB` shows the flags of a verb.",
    )
    parser.add_argument("--version", action="version", version=f"segdeploy {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="write the completion script of a shell: segdeploy --print-completion bash",
    )
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
    module = module_of(options.verb)
    if getattr(options, "model", None):
        _open_runs(options, module)
    code, result = module.run(options, arguments)
    return code, result


def _open_runs(options: Options, module: ModuleType) -> None:
    """Put the files of a finished run, those the verb takes, in the place of its folder.

    Raises:
        InputError: a folder that is no finished run.
    """
    many = isinstance(options.model, list)
    given: list[Path] = options.model if many else [options.model]
    if not any(path.is_dir() for path in given):
        return
    from segdeploy.pipeline.finished import FinishedRun

    files: list[Path] = []
    for path in given:
        taken = module.from_run(options, FinishedRun.open(path)) if path.is_dir() else [path]
        files += taken
    options.model = files if many else files[0]


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers below one by name; none below a leaf."""
    if isinstance(parser, VerbParser):
        parser.complete()
    for action in parser._actions:  # argparse offers no public way to list its parsers
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


class PrintCompletion(argparse.Action):
    """Write the script that completes verbs, flags and files in a shell, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """As argparse calls it."""
        import shtab

        _complete_files(parser, shtab.FILE)
        sys.stdout.write(shtab.complete(parser, shell=values, root_prefix="segdeploy"))
        parser.exit()


def _complete_files(parser: argparse.ArgumentParser, files: Mapping[str, object]) -> None:
    """Complete every path of a parser, and of those below it, with names of files."""
    below = subparsers_of(parser)
    for leaf in below.values():
        _complete_files(leaf, files)
    for action in parser._actions:
        if action.type is Path or action.dest in PATH_WORDS:
            action.complete = files  # type: ignore[attr-defined]  # as shtab reads it


class VerbParser(Parser):
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
        for leaf in self.leaves():
            common = leaf.add_argument_group("output and configuration")
            common.add_argument(
                "--format",
                choices=("text", "json"),
                default="text",
                help="json: the result as JSON on stdout, all else on stderr",
            )
            if VERBS[self._verb].limited:
                max_memory_flag(common)
            common.add_argument(
                "--config", type=Path, metavar="FILE.yaml", help="flags from a file"
            )
            loudness = common.add_mutually_exclusive_group()
            loudness.add_argument(
                "-q", "--quiet", action="store_true", help="results, warnings and errors only"
            )
            loudness.add_argument(
                "-v", "--verbose", action="store_true", help="say more, with tracebacks of errors"
            )

    def leaves(self) -> tuple[argparse.ArgumentParser, ...]:
        """The parsers of its checks or actions; itself where it has none."""
        return tuple(subparsers_of(self).values()) or (self,)

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
