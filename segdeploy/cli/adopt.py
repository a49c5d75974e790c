"""``segdeploy adopt``: any ONNX file becomes one of ours, with the same results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    adoption_flags,
    calibration_alone,
    output_contract_flags,
    output_flag,
    overwrite_flag,
    preprocess_flag,
)
from segdeploy.cli.grammar import Parser
from segdeploy.cli.inputs import Options, Result, calibration_in, wrote
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.pipeline.finished import FinishedRun

log = logging.getLogger(__name__)


def add_flags(verb: Parser) -> None:
    """A model, what it was trained with, and what its graph cannot tell."""
    verb.add_models("the ONNX file of another exporter", many=False, from_run=False)
    output_flag(verb, "ONNX file to write", required=True)
    overwrite_flag(verb)
    preprocess_flag(verb, default=None)
    adoption_flags(verb)
    output_contract_flags(verb)
    calibration_alone(verb, count_help="default: 8")


def from_run(options: Options, run: FinishedRun) -> list[Path]:
    """A run's files are ours already.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        f"{options.model} is the folder of a run, whose files need no adopting; give the ONNX file "
        "of another exporter"
    )


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Make another exporter's file one of ours."""
    from segdeploy.api.adopt import adopt

    found = adopt(
        options.model,
        options.preprocess,
        calibration_in(options),
        size=None if options.size is None else tuple(options.size),
        output_name=options.output_name,
        output_kind=options.output_kind,
        classes=options.classes,
        ignored_index=options.ignore_index,
        output=options.output_contract,
        out=options.output,
        overwrite=options.overwrite,
    )
    for note in found.notes:
        log.info("%s", note)
    log.info("%s", found.agreement)
    code, file = wrote(found.artifact)
    return code, {
        "file": file,
        "output": found.given.name,
        "output_kind": found.given.kind.value,
        "classes": list(found.given.contract.classes),
        "notes": found.notes,
        "images": found.images,
        "max_difference": found.difference,
        "changed": found.changed,
    }
