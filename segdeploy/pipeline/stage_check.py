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
    """How far a stage may move the output before the pipeline stops: a fault, not a loss.

    Classes of more pixels than the limit may change for two reasons: arithmetic on a network that
    amplifies it, which parity is there to judge, or a file that has little to do with its parent.
    See ``unrelated``.
    """

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


MOST_ROUNDING = 1e-3
ROUNDING_DB = 80.0
"""Difference at most, and signal to noise at least, that rounding float32 in another order leaves
on a network that amplifies it a thousandfold."""

DECIDED = 0.1
"""A probability moves by more where a class changes for another reason than a tie."""

CHANCE = 0.1
"""Cohen's kappa up to which two maps of classes agree no better than by chance."""


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
        self.outputs: dict[str, Pixels | None] = {}

    def check(
        self, stage: str, artifact: Artifact, parent: Artifact | None
    ) -> tuple[StageCheck | None, str | None]:
        """Compare with the parent on real images; stop at what the arithmetic cannot explain.

        Returns:
            The comparison; or, of a file whose runtime failed, that and why it was not checked:
            parity has a row that says so, and the other files go on.

        Raises:
            RunError: the output changed beyond the stage's limit, and not as a loss does.
        """
        before = self._outputs_of(parent) if parent else None
        if before is None:  # of a parent that could not be checked, what it was made from
            before = infer_each(self.reference, self.images, self.output)
        try:
            after = self._run(artifact)
        except RunError as error:
            self.outputs[artifact.sha256] = None
            runtime = _check_runtime(artifact)
            return None, shown_text(f"not checked, {runtime.value} failed: {error}")
        self.outputs[artifact.sha256] = after
        check = stage_check(before, after, self.output)
        limits = STAGE_LIMITS[stage]
        for figure, limit in asdict(limits).items():
            if limit is not None and not getattr(check, figure) <= limit:
                if figure == "disagreement_percent" and not unrelated(
                    before, after, self.output, percent=limit
                ):
                    return check, f"beyond {limit:g} % of pixels: a loss that parity judges"
                if figure == "max_abs_difference" and rounded(check):
                    return check, f"beyond {limit:g}: rounding that the network amplifies"
                raise RunError(
                    f"stage {stage} changed the output beyond its limit on {len(before)} real "
                    f"images: {figure} is {getattr(check, figure):g}, limit {limit:g}. The file "
                    f"{artifact.path} is kept for inspection; please report this"
                )
        return check, None

    def _outputs_of(self, parent: Artifact) -> Pixels | None:
        """A parent's outputs, found now where it was taken from before; ``None`` if it failed."""
        if parent.sha256 not in self.outputs:
            try:
                self.outputs[parent.sha256] = self._run(parent)
            except RunError:
                self.outputs[parent.sha256] = None
        return self.outputs[parent.sha256]

    def _run(self, artifact: Artifact) -> Pixels:
        with open_isolated(
            _check_runtime(artifact),
            artifact,
            execution=self.execution,
            time_limit_s=self.time_limit_s,
        ) as loaded:
            return infer_each(loaded, self.images, self.output)


def rounded(check: StageCheck) -> bool:
    """Whether a difference is one of rounding alone: small everywhere, and very small on average.

    Example:
        >>> rounded(StageCheck(max_abs_difference=2e-4, sqnr_db=95.0, disagreement_percent=0.0))
        True
        >>> rounded(StageCheck(max_abs_difference=2e-4, sqnr_db=60.0, disagreement_percent=0.0))
        False
    """
    quiet = check.sqnr_db is not None and check.sqnr_db >= ROUNDING_DB
    return quiet and check.max_abs_difference <= MOST_ROUNDING


def unrelated(before: Pixels, after: Pixels, output: OutputContract, *, percent: float) -> bool:
    """Whether one output has little to do with another that it should be about.

    Example:
        Half of the pixels are foreground. Where all become foreground, the maps agree by chance;
        where a quarter change, they still have most in common.

        >>> before = np.array([0.1, 0.1, 0.9, 0.9]).reshape(1, 1, 1, 4)
        >>> one_label = OutputContract()
        >>> unrelated(before, np.full_like(before, 0.9), one_label, percent=10)
        True
        >>> unrelated(before, np.where(before < 0.5, [0.1, 0.7, 0.9, 0.9], before), one_label,
        ...           percent=10)
        False

    Args:
        before: probabilities (N, classes, H, W).
        after: likewise.
        output: their contract.
        percent: of pixels whose class may change beyond ties.
    """
    members, others = output.members(before), output.members(after)
    decided = (members != others) & (np.abs(after - before) > DECIDED)
    if 100 * decided.any(axis=1).mean() <= percent:
        return False
    agreed = (members == others).mean(axis=(0, 2, 3))
    share, other = members.mean(axis=(0, 2, 3)), others.mean(axis=(0, 2, 3))
    expected = share * other + (1 - share) * (1 - other)
    # Over all classes together, so that one that neither map has does not count.
    return bool((agreed - expected).sum() <= CHANCE * (1 - expected).sum())


def _check_runtime(artifact: Artifact) -> RuntimeName:
    """Where a stage check runs: on the file's target when it is installed, else ONNX Runtime."""
    profile = PROFILES.get(artifact.target or "")
    if profile and availability(profile.runtime).ready:
        return profile.runtime
    return RuntimeName.ONNXRUNTIME
