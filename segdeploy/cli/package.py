"""``segdeploy package``: a folder with everything another toolchain needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    METHODS,
    Group,
    exclude_flag,
    models_flag,
    output_flag,
    positive_int,
    seed_flag,
)
from segdeploy.cli.inputs import GATE_FAILED, Options, Result
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.deploy.packaging.base import PackageTarget, Request

log = logging.getLogger(__name__)


PACKAGE_TARGETS = ("ascend", "onnx", "openvino", "tensorrt", "triton", "vacc")
PREPROCESSING = ("outside", "inside", "both")


def add_flags(verb: Group) -> None:
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


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Write a package and say what is in it, or check models only."""
    from segdeploy.deploy.packaging.package import package, require_free
    from segdeploy.deploy.packaging.registry import package_target
    from segdeploy.deploy.system.checksums import CHECKSUMS

    target = package_target(options.target)
    if options.check:
        return _check(target, options)
    if options.output is None:
        raise UsageError("give the folder to write with -o, or --check to look at the models only")
    require_free(Path(os.path.realpath(options.output)), overwrite=options.overwrite)
    written = package(
        _request(options), target=target, output=options.output, overwrite=options.overwrite
    )
    size = sum(file.bytes for file in written.files)
    log.info(
        "%s: %d files, %.1f MB, for %s",
        options.output,
        len(written.files),
        size / 1e6,
        target.title,
    )
    log.info("check: cd %s && sha256sum -c %s", options.output, CHECKSUMS)
    for step in written.contents.steps:
        log.info("%s: %s", step.what, step.command)
    for limit in written.contents.not_run:
        log.info("not run on hardware: %s", limit)
    return 0, asdict(written)


def _check(target: PackageTarget, options: Options) -> Result:
    """Say which nodes the toolchain would refuse."""
    from segdeploy.deploy.onnx_model.file import load_model
    from segdeploy.deploy.targets.tensorrt_rules import rejected

    if target.check is None:
        raise UsageError(f"--check: {target.title} has no rules about graphs here")
    found = {path: target.check(load_model(path)) for path in options.model}
    refused = {path: len({f.node for f in rejected(finds)}) for path, finds in found.items()}
    for path, findings in found.items():
        log.info("%s: %s refuses %d nodes", path, target.title, refused[path])
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
        for path, findings in found.items()
        for finding in findings
    ]
    code = GATE_FAILED if any(refused.values()) else 0
    return code, {"target": target.name, "accepted": not code, "findings": rows}


def _request(options: Options) -> Request:
    from segdeploy.calibration.estimate import Method
    from segdeploy.calibration.table import CalibrationTable
    from segdeploy.deploy.data.image_set import open_set, require_disjoint
    from segdeploy.deploy.packaging.base import PackagedModel, Request
    from segdeploy.deploy.packaging.preprocessing import Preprocessing
    from segdeploy.deploy.system.checksums import sha256_of

    calibration = open_set(options.calib_data, "train") if options.calib_data else None
    if calibration is not None:
        calibration = calibration.take(options.num_samples, seed=options.seed)
    evaluation = open_set(options.data, "test") if options.data else None
    if calibration is not None and evaluation is not None:
        require_disjoint(calibration, evaluation)
    table = options.calibration
    return Request(
        sources=tuple(PackagedModel.open(path) for path in options.model),
        calibration=calibration,
        evaluation=evaluation,
        table=CalibrationTable.read(table) if table else None,
        table_sha256=sha256_of(table) if table else None,
        method=Method(options.method) if options.method else None,
        exclude=tuple(options.exclude),
        batches=_batches(options.batch),
        preprocessing=Preprocessing(options.preprocessing),
    )


def _batches(given: Sequence[int]) -> tuple[int, int, int]:
    """Smallest, usual and largest; one number is all three."""
    if len(given) not in (1, 3):
        raise UsageError(
            f"--batch takes one number, or smallest, usual and largest; {len(given)} were given"
        )
    return given[0], given[len(given) // 2], given[-1]
