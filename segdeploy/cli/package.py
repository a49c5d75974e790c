"""``segdeploy package``: a folder with everything another toolchain needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    METHODS,
    exclude_flag,
    output_flag,
    overwrite_flag,
    positive_int,
    seed_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import GATE_FAILED, Options, Result, calibration_in
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


PACKAGE_TARGETS = ("ascend", "onnx", "openvino", "tensorrt", "triton", "vacc")
OWN_INT8 = ("onnx", "openvino", "tensorrt", "triton")
"""Toolchains that take our int8 models."""

PREPROCESSING = ("outside", "inside", "both")


def add_flags(verb: Parser) -> None:
    """Everything ``segdeploy package`` takes."""
    verb.add_argument(
        "--target",
        choices=PACKAGE_TARGETS,
        required=True,
        help="toolchain to hand the models to",
    )
    verb.add_models("ONNX files", many=True)
    output_flag(verb, "folder to write; refused where it exists")
    verb.add_argument(
        "--check",
        action="store_true",
        help="write nothing: say which nodes of any ONNX files the toolchain would refuse, by what "
        "rule, and how to mend them (tensorrt); exit code 1 if it refuses one",
    )
    overwrite_flag(verb, "the package that is there")
    verb.add_argument(
        "--calib-data",
        type=Path,
        metavar="FOLDER",
        help="prepared folder; the package holds images of its train split to calibrate on",
    )
    verb.add_argument(
        "--num-samples", type=positive_int, help="calibration images, drawn by seed (default: all)"
    )
    seed_flag(verb)
    verb.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="prepared folder; the package holds its test split to report on",
    )
    verb.add_argument(
        "--calibration",
        type=Path,
        metavar="TABLE",
        help="table from `calibrate`, of the very fp32 model that -m names",
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


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """The models of a run that a toolchain takes, and the table where it takes one."""
    made = {
        "openvino": ["openvino-cpu"],
        "tensorrt": ["tensorrt"],
        "onnx": [target for target in run.targets if target.startswith("ort-")],
        "triton": [target for target in run.targets if target != "tensorrt"],
    }.get(options.target, [])
    int8 = [run.int8(target) for target in made if target in run.targets]
    if options.target == "tensorrt" and not options.check:
        options.calibration = options.calibration or run.table
        options.exclude = options.exclude or ([] if int8 else list(run.exclude))
    # Tools that quantize by themselves get the graph as it was exported.
    return [run.calibrated if options.target in OWN_INT8 else run.model("simplified"), *int8]


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write a package and say what is in it, or check models only."""
    if options.check:
        return _check(options)
    if options.output is None:
        raise UsageError("give the folder to write with -o, or --check to look at the models only")
    from segdeploy.api.package import package
    from segdeploy.deploy.packaging.registry import package_target
    from segdeploy.deploy.system.checksums import CHECKSUMS

    written = package(
        options.model,
        options.output,
        target=options.target,
        calib_data=calibration_in(options) if options.calib_data else None,
        data=options.data,
        table=options.calibration,
        method=options.method,
        exclude=options.exclude,
        batches=options.batch,
        preprocessing=options.preprocessing,
        overwrite=options.overwrite,
    )
    log.info(
        "%s: %d files, %.1f MB, for %s",
        options.output,
        len(written.files),
        sum(file.bytes for file in written.files) / 1e6,
        package_target(written.target).title,
    )
    log.info("check: cd %s && sha256sum -c %s", options.output, CHECKSUMS)
    for step in written.contents.steps:
        log.info("%s: %s", step.what, step.command)
    for limit in written.contents.not_run:
        log.info("not run on hardware: %s", limit)
    return 0, asdict(written)


def _check(options: Options) -> Result:
    """Say which nodes the toolchain would refuse."""
    from segdeploy.api.package import check

    found = check(options.model, target=options.target)
    for path, findings in found.findings.items():
        log.info("%s: %s refuses %d nodes", path, found.title, found.refused(path))
        for finding in findings:
            log.info("  %s", finding)
    rows = [
        {
            "file": str(path),
            "node": finding.node,
            "rule": finding.rule.value,
            "refused": finding.rule.rejects,
            "found": finding.found,
            "fix": finding.fix,
        }
        for path, findings in found.findings.items()
        for finding in findings
    ]
    return 0 if found.accepted else GATE_FAILED, {
        "target": found.target,
        "accepted": found.accepted,
        "findings": rows,
    }
