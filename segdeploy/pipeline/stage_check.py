"""Compare what a stage made with what it was made from, on real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from segdeploy.benchmarks.parity.evidence import StageCheck, stage_check
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.base import Execution, Runtime, infer_each
from segdeploy.deploy.runtimes.isolated import open_isolated
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import RunError
from segdeploy.deploy.system.shown_command import shown_text
from segdeploy.deploy.targets.profiles import PROFILES

Pixels = NDArray[np.float32]

CHECK_IMAGES = 8
"""Real calibration images that every stage's output is compared with its parent's on."""


@dataclass(frozen=True, kw_only=True)
class StageLimits:
    """How far a stage may move the output before the pipeline stops: a fault, not a loss."""

    max_abs_difference: float | None = None
    disagreement_percent: float | None = None


STAGE_LIMITS = {
    "export": StageLimits(max_abs_difference=1e-4),
    "adopt": StageLimits(max_abs_difference=1e-4),
    "take": StageLimits(max_abs_difference=1e-4),
    "simplify": StageLimits(max_abs_difference=1e-4),
    "rewrite": StageLimits(max_abs_difference=1e-4),
    "fp16": StageLimits(disagreement_percent=1.0),
    "int8": StageLimits(disagreement_percent=10.0),
}


class StageChecks:
    """Keeps the output of every stage, for the stages that go on from it."""

    def __init__(
        self,
        reference: Runtime,
        images: Pixels,
        *,
        output: OutputContract,
        execution: Execution,
        time_limit_s: float,
    ) -> None:
        """Prepare.

        Args:
            reference: what the first stage is compared with.
            images: float32 (N, 3, H, W), normalised.
            output: the output contract of all.
            execution: how the runtimes run.
            time_limit_s: longest time for loading a file and for each call.
        """
        self.reference, self.images, self.output = reference, images, output
        self.execution, self.time_limit_s = execution, time_limit_s
        self.outputs: dict[str, Pixels] = {}

    def check(
        self, stage: str, artifact: Artifact, parent: Artifact | None
    ) -> tuple[StageCheck | None, str | None]:
        """Compare with the parent on real images; stop at what the arithmetic cannot explain.

        Returns:
            The comparison; or, of a file whose runtime failed, that and why it was not checked:
            parity has a row that says so, and the other files go on.

        Raises:
            RunError: the output changed beyond the stage's limit.
        """
        before = self.outputs.get(parent.sha256) if parent else None
        if before is None:  # of a parent that could not be checked, what it was made from
            before = infer_each(self.reference, self.images, self.output)
        runtime = _check_runtime(artifact)
        try:
            with open_isolated(
                runtime,
                artifact,
                execution=self.execution,
                time_limit_s=self.time_limit_s,
            ) as loaded:
                after = infer_each(loaded, self.images, self.output)
        except RunError as error:
            return None, shown_text(f"not checked, {runtime.value} failed: {error}")
        self.outputs[artifact.sha256] = after
        check = stage_check(before, after, self.output)
        limits = STAGE_LIMITS[stage]
        for figure, limit in asdict(limits).items():
            if limit is not None and not getattr(check, figure) <= limit:
                raise RunError(
                    f"stage {stage} changed the output beyond its limit on {len(before)} real "
                    f"images: {figure} is {getattr(check, figure):g}, limit {limit:g}. The file "
                    f"{artifact.path} is kept for inspection; please report this"
                )
        return check, None


def _check_runtime(artifact: Artifact) -> RuntimeName:
    """Where a stage check runs: on the file's target when it is installed, else ONNX Runtime."""
    profile = PROFILES.get(artifact.target or "")
    if profile and availability(profile.runtime).ready:
        return profile.runtime
    return RuntimeName.ONNXRUNTIME
