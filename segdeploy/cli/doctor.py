"""The verb that looks at this machine: ``segdeploy doctor``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    Group,
)
from segdeploy.cli.inputs import Options, Result

if TYPE_CHECKING:
    from segdeploy.api.doctor import RuntimeState
    from segdeploy.deploy.system.isa import Finding

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """None of its own."""


GIB = 2**30


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Say what this machine has, what that means for int8, and which runtimes are ready."""
    from segdeploy.api.doctor import doctor
    from segdeploy.calibration.json_record import json_of

    machine = doctor()
    has = machine.environment
    memory = f"{has.memory_bytes / GIB:.1f} GiB" if has.memory_bytes else "unknown"
    _say("os", has.os)
    _say("python", has.python)
    _say("cpu", has.cpu or "unknown")
    _say("memory", memory)
    _say("threads", f"{machine.threads}, all that this process may use (--threads takes fewer)")
    _say("isa", " ".join(has.isa) or "unknown: this system does not tell")
    for finding in machine.instruction_sets:
        _say("", _isa_line(finding))
    for runtime in machine.runtimes:
        _say(runtime.name, _runtime_line(runtime))
    return 0, json_of(machine)


def _runtime_line(runtime: RuntimeState) -> str:
    if runtime.reason:
        return f"missing: {runtime.reason}"
    own = runtime.default_precision
    pinned = "" if own == "fp32" else f"; its own default here is {own}, this project asks for fp32"
    caution = "" if runtime.hardware_run else " (not run on hardware)"
    return f"ready, {runtime.version}{caution}, floats in fp32{pinned}"


def _isa_line(finding: Finding) -> str:
    return f"{'has' if finding.present else 'lacks':5} {finding.name}: {finding.meaning}"


def _say(key: str, value: str) -> None:
    log.info("%-20s %s", key, value)
