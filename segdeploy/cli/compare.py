"""What the verbs that compare models share: their files, and that all expect the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.deploy.data.preprocess import Preprocess
    from segdeploy.deploy.onnx_model.artifact import Artifact


def require_same_inputs(path: Path, reference: Preprocess, models: Preprocess) -> None:
    """Refuse a reference that expects other inputs than the models.

    Raises:
        UsageError: with both contracts.
    """
    if reference != models:
        raise UsageError(
            f"--reference {path} expects {reference.to_json()}, the models {models.to_json()}; for "
            "a checkpoint exported with --preprocess FILE, give the same here"
        )


def artifacts_of(paths: Sequence[Path]) -> dict[str, Artifact]:
    """The model files by name without suffix.

    Raises:
        InputError: one cannot be read.
        UsageError: two have one name.
    """
    from segdeploy.deploy.onnx_model.file import describe

    artifacts = {path.name.removesuffix(".onnx"): describe(path) for path in paths}
    if len(artifacts) != len(paths):
        raise UsageError("two of the models have the same file name; rename one")
    return artifacts


def common_contract(artifacts: dict[str, Artifact]) -> Preprocess:
    """The input contract that all models share.

    Raises:
        UsageError: they expect different inputs.
    """
    from segdeploy.deploy.onnx_model.file import contract_of

    contracts = {label: contract_of(artifact) for label, artifact in artifacts.items()}
    (first, contract), *others = contracts.items()
    for label, other in others:
        if other != contract:
            raise UsageError(f"{label} and {first} expect different inputs; compare them apart")
    return contract
