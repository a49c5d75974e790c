"""``segdeploy run``: the whole job."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    TARGETS,
    adoption_flags,
    calibration_data,
    checkpoint_flags,
    evaluation_data,
    exclude_flag,
    max_drop_class_flag,
    max_drop_flag,
    method_flag,
    module_flag,
    output_flag,
    overwrite_flag,
    positive_int,
    runtime_flag,
    seed_flag,
    threads_flag,
    time_limit_flag,
    timing_flags,
    tune_flags,
)
from segdeploy.cli.gate import gate_flags, require_gate_files, write_gate
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import (
    GATE_FAILED,
    Options,
    Result,
    given_or_bundled,
    onnx_file_of,
    require_unused,
)
from segdeploy.deploy.system.errors import RunError, UsageError
from segdeploy.deploy.system.shown_command import shown_command

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from segdeploy.api.source import OnnxFile
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".ckpt")

# fmt: off
RERUN = (
    "export", "simplify", "fp16", "rewrite", "calibrate", "int8",
    "debug", "parity", "benchmark", "layer-times", "worst-images",
)
# fmt: on


def add_flags(verb: Parser) -> None:
    """Everything the whole job takes."""
    checkpoint_flags(verb, required=False)
    verb.add_models(
        "the ONNX file of any exporter instead of a checkpoint",
        many=False,
        required=False,
        from_run=False,
    )
    module_flag(verb)
    adoption_flags(verb)
    output_flag(verb, "folder to write (default: segdeploy-out)", default=Path("segdeploy-out"))
    evaluation_data(verb)
    calibration_data(verb)
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
    max_drop_class_flag(verb)
    verb.add_argument("--batch", type=positive_int, default=8, help="for throughput (default: 8)")
    timing_flags(verb)
    tune_flags(verb, judged="the output on\ncalibration images")
    threads_flag(verb)
    time_limit_flag(verb)
    seed_flag(verb)
    gate_flags(verb)
    overwrite_flag(verb, "what the folder holds; without it a run goes on")
    verb.add_argument(
        "--rerun",
        choices=RERUN,
        nargs="+",
        default=(),
        metavar="STAGE",
        help="do these stages again though nothing that decides them changed: " + ", ".join(RERUN),
    )


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run is not what a run starts from.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"{options.model} is the folder of a run; give the checkpoint or ONNX file to start from. "
        "The command that made it stands in its report.json"
    )


def _model(options: Options) -> Checkpoint | LoadedModule | OnnxFile:
    """The network to deploy, with what the flags state of it.

    Raises:
        InputError: a checkpoint that cannot be read.
        UsageError: two networks, or flags that are for the other kind.
    """
    if options.model is None:
        if options.module is None:
            require_unused(options, ("size", "output_name"), "an ONNX file (-m) or --module")
        return given_or_bundled(options)
    if options.checkpoint is not None:
        raise UsageError(f"-m {options.model} beside -c {options.checkpoint}; give one network")
    if options.model.suffix in CHECKPOINT_SUFFIXES:
        raise UsageError(f"{options.model} is a checkpoint by its name; give it with -c")
    for_checkpoints = ("module", "arch", "recurrence", "weights", "head", "logits")
    require_unused(options, for_checkpoints, "a checkpoint (-c)")
    return onnx_file_of(options)


def run(options: Options, arguments: Sequence[str]) -> Result:
    """The whole job."""
    from segdeploy.api.data import Data
    from segdeploy.api.deploy import deploy
    from segdeploy.benchmarks.report.gate import report_checks

    require_gate_files(options)
    found = deploy(
        _model(options),
        Data(
            options.data,
            calibration=options.calib_data,
            num_samples=options.num_samples,
            seed=options.seed,
        ),
        out=options.output,
        method=options.method,
        targets=options.target or (),
        exclude=options.exclude,
        runtimes=options.runtime,
        max_drop=options.max_drop,
        max_drop_class=options.max_drop_class,
        batch=options.batch,
        warmup=options.warmup,
        duration_s=options.duration,
        threads=options.threads,
        seed=options.seed,
        time_limit_s=options.time_limit,
        tune=options.tune,
        device_file=options.device_file,
        overwrite=options.overwrite,
        rerun=options.rerun,
        command=shown_command(["segdeploy"], arguments),
    )
    log.info("%s", found.verdict)
    log.info("report: %s", options.output / "report.html")
    checks = report_checks(found.report)
    write_gate(options, checks, judged=found.report.model.name, verdict=found.verdict)
    for row in found.failed:
        log.warning("%s, batch %d: FAILED, %s", row.name, row.batch, row.skipped)
    if not found.passed:
        return GATE_FAILED, found.report
    return (RunError.exit_code if found.failed else 0), found.report
