"""A tuned int8 file: the search on this machine, what it keeps, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segdeploy.benchmarks.tune.bench import FileBench
from segdeploy.benchmarks.tune.choices import choices
from segdeploy.benchmarks.tune.device import Device, DeviceMemory, gains_of
from segdeploy.benchmarks.tune.search import Tuned, TuneSearch, Verdict
from segdeploy.benchmarks.tune.state import TuneState
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy import __version__
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.quantize.qdq_placement import QdqPlacement
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import CPU_RUNTIMES, availability
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import TargetProfile

log = logging.getLogger(__name__)

DEVICE_FILE = "segdeploy-device.json"
"""Where what is known of devices lies, in the folder of the output, unless another is named."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What says whether a file is accurate enough.

    Attributes:
        verdict: says it of a file.
        words: what it looks at.
        decided_by: what decides the verdicts beside the files.
    """

    verdict: Callable[[Artifact], Verdict]
    words: str
    decided_by: tuple[str | float | int, ...]


@dataclass(frozen=True, kw_only=True)
class Tuning(Tuned):
    """What a search for a placement ended with.

    Attributes:
        artifact: the file in place.
        judged_by: what decided whether a placement is accurate enough, in words.
        device: what it was timed on.
        device_file: where what was learnt of the device is kept.
    """

    artifact: Artifact
    judged_by: str
    device: Device
    device_file: Path


def tuned_file(
    source: Artifact,
    output: Path,
    *,
    table: CalibrationTable,
    table_sha256: str,
    profile: TargetProfile,
    exclude: Collection[str] = (),
    learnt: LearntParameters | None = None,
    judging: Callable[[Artifact], Judging],
    execution: Execution,
    time_budget_s: float,
    started: float,
    device_file: Path,
) -> Tuning:
    """Write the fastest int8 file that is as accurate; see ``benchmarks.tune.search``.

    What was tried lies in ``state_beside(output)`` until nothing is left to try.

    Args:
        source: the float32 model that was calibrated.
        output: the file to write.
        table: its ranges.
        table_sha256: digest of the table's file.
        profile: the target.
        exclude: nodes that stay in float whatever is found.
        learnt: integers and biases in place of rounded ones.
        judging: given the untuned file, what says whether another is accurate enough.
        execution: how the runtime runs.
        time_budget_s: no trial starts that would end later.
        started: when the time budget began, by ``time.monotonic()``.
        device_file: what is known of devices; read, and written with what was learnt.

    Raises:
        InputError: the target cannot be timed here, or see ``to_int8``; or the state or the device
            file is damaged.
        RunError: the runtime failed on the untuned file.
        OSError: a file cannot be written.
    """
    require_timed_here(profile)
    memory = DeviceMemory.read(device_file)
    device_file.parent.mkdir(parents=True, exist_ok=True)

    def build(placement: QdqPlacement, path: Path) -> Artifact:
        return to_int8(
            source,
            path,
            table=table,
            table_sha256=table_sha256,
            profile=profile,
            exclude=exclude,
            learnt=learnt,
            placement=placement,
        )

    device = Device.here(profile.runtime, threads=execution.threads)
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        untuned = build(QdqPlacement(), Path(folder) / "untuned.onnx")
        judge = judging(untuned)
        decides = [__version__, untuned.sha256, vars(device), execution.batch, judge.decided_by]
        state = TuneState.open(
            output.with_name(state_beside(output)),
            fingerprint=hashlib.sha256(json.dumps(decides).encode()).hexdigest(),
        )
        log.info(
            "tuning for %s %s on %d threads, judged by %s%s",
            device.runtime,
            device.version,
            device.threads,
            judge.words,
            f"; going on after {len(state.trials)} trials" if state.trials else "",
        )
        search = TuneSearch(
            bench=FileBench(
                build,
                judge.verdict,
                folder=Path(folder),
                runtime=profile.runtime,
                execution=execution,
            ),
            choices=choices(load_model(source.path), table, profile, exclude),
            prior=partial(memory.prior, device),
            time_budget_s=time_budget_s,
            progress=lambda patterns: bar(patterns, "look at placements", unit="pattern"),
        )
        try:
            found = search.run(state, started=started)
        finally:
            if gains := gains_of(state.trials, network=source.sha256):
                memory.with_gains(device, gains).write(device_file)
    artifact = build(found.placement, output)
    if found.finished:
        state.path.unlink(missing_ok=True)
    return Tuning(
        **vars(found),
        artifact=artifact,
        judged_by=judge.words,
        device=device,
        device_file=device_file,
    )


def state_beside(output: Path) -> str:
    """What a search keeps in the folder of its output until nothing is left to try."""
    return f"{output.name}.tune.json"


def require_timed_here(profile: TargetProfile) -> None:
    """Refuse a target that this machine cannot time.

    Raises:
        InputError: why, and what to do.
    """
    if reason := timed_here(profile):
        raise InputError(reason)


def timed_here(profile: TargetProfile) -> str | None:
    """Why this machine cannot time a target, and what to do; ``None`` where it can."""
    state = availability(profile.runtime)
    if not state.ready:
        return f"{state.reason}; it has to run the trials"
    family = "Arm" if platform.machine().lower() in ("aarch64", "arm64") else "x86"
    if profile.runtime not in CPU_RUNTIMES or family not in profile.processors:
        return (
            f"--target {profile.name} is for {profile.processors}, which cannot be timed here: "
            "tune for the target of a runtime of this machine, or on the device"
        )
    return None
