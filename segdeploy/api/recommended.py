"""What a run says to deploy."""

from __future__ import annotations

from dataclasses import dataclass

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.runtimes.registry import RuntimeName


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """The fastest file that keeps the budget, and what runs it.

    Attributes:
        artifact: the file.
        runtime: it was fastest in.
        reason: why it was chosen, in words.
    """

    artifact: Artifact
    runtime: RuntimeName
    reason: str
