"""The runtimes that are meant: by name, or the fastest here, measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from segdeploy.api.choices import choices
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.isolated import TIME_LIMIT_S
from segdeploy.deploy.runtimes.registry import RuntimeName
from segdeploy.deploy.system.errors import UsageError

log = logging.getLogger(__name__)

AUTO: Final = "auto"
"""Measure: every runtime that is ready runs the models at batch 1, and the fastest is taken."""

Runtimes = RuntimeName | str | Sequence[RuntimeName | str]


def runtimes_of(
    asked: Runtimes | None,
    artifacts: Sequence[Artifact],
    *,
    execution: Execution,
    time_limit_s: float = TIME_LIMIT_S,
) -> tuple[RuntimeName, ...] | None:
    """The runtimes asked for; ``None`` when none was.

    Args:
        asked: one or several by name, or "auto", whose choice is said with its figures.
        artifacts: what "auto" measures.
        execution: how they will run.
        time_limit_s: longest time for loading a file, and for each call.

    Raises:
        UsageError: no such runtime, or "auto" beside one by name.
        InputError: no runtime runs the models.
    """
    if not asked:
        return None
    names = [asked] if isinstance(asked, str) else list(asked)
    if AUTO not in names:
        return choices(RuntimeName, names, what="runtime")
    if names != [AUTO]:
        raise UsageError(
            f"--runtime {' '.join(names)}: {AUTO} picks one runtime by itself; give it alone, or "
            "the runtimes without it"
        )
    from segdeploy.benchmarks.speed.fastest import fastest

    found = fastest(artifacts, execution=execution, time_limit_s=time_limit_s)
    log.info("--runtime auto: %s is the fastest here (%s)", found.runtime.value, found.words)
    return (found.runtime,)
