"""What a verb takes as a model: a value that was loaded, or the path of a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

from segdeploy.api.data import Data
from segdeploy.api.load import load, load_network
from segdeploy.api.outputs import AnyPath
from segdeploy.api.recommended import Recommended
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, opened
from segdeploy.deploy.system.errors import UsageError

AnyOnnx = Recommended | Artifact | AnyPath
"""An ONNX file: described, recommended by a run, or by its path."""

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule

    AnyCheckpoint = Checkpoint | LoadedModule | AnyPath
    AnyModel = Checkpoint | LoadedModule | AnyOnnx

CHECKPOINTS = "segdeploy.deploy.models.checkpoint"
MODULES = "segdeploy.deploy.models.module"


def is_checkpoint(model: object) -> TypeGuard[Checkpoint]:
    """Whether it is a loaded checkpoint; asking does not import PyTorch."""
    module = sys.modules.get(CHECKPOINTS)
    return module is not None and isinstance(model, module.Checkpoint)


def is_module(model: object) -> TypeGuard[LoadedModule]:
    """Whether it is a module that was loaded; asking does not import PyTorch."""
    module = sys.modules.get(MODULES)
    return module is not None and isinstance(model, module.LoadedModule)


def in_pytorch(model: object) -> TypeGuard[Checkpoint | LoadedModule]:
    """Whether it runs in PyTorch."""
    return is_checkpoint(model) or is_module(model)


def artifact_of(model: AnyOnnx) -> Artifact:
    """The ONNX file that is meant.

    Raises:
        InputError: it cannot be read, or its ends are not what its contracts say.
        UsageError: a checkpoint, or what is no model.
    """
    if isinstance(model, Artifact):
        return model
    if isinstance(model, Recommended):
        return model.artifact
    if is_checkpoint(model):
        raise UsageError(f"{model.path} is a checkpoint; export it first, this takes ONNX files")
    if is_module(model):
        raise UsageError(f"{model.name} is a module; export it first, this takes ONNX files")
    return opened(path_of(model))


def checkpoint_of(model: AnyCheckpoint, *, data: Data | None = None) -> Checkpoint:
    """The checkpoint that is meant, loaded.

    Args:
        model: a value or a path.
        data: images it is for, where the project's contract depends on their aspect.

    Raises:
        InputError: it cannot be read.
        UsageError: an ONNX file, a module, or what is no model.
    """
    found = network_of(model, data=data)
    if not is_checkpoint(found):
        raise UsageError(f"{found.path} is a module; this takes a checkpoint of a known family")
    return found


def network_of(model: AnyCheckpoint, *, data: Data | None = None) -> Checkpoint | LoadedModule:
    """As ``checkpoint_of``, of a module as well.

    Raises:
        InputError: it cannot be read.
        UsageError: an ONNX file, or what is no model.
    """
    if in_pytorch(model):
        return model
    if isinstance(model, Artifact):
        raise UsageError(f"{model.path} is an ONNX file; this takes a checkpoint")
    return load_network(path_of(model), data=data)


def model_of(model: AnyModel) -> Checkpoint | LoadedModule | Artifact:
    """Any of them, loaded or described.

    Raises:
        InputError: it cannot be read.
        UsageError: what is no model.
    """
    if isinstance(model, Recommended):
        return model.artifact
    if isinstance(model, Artifact) or in_pytorch(model):
        return model
    return load(path_of(model))


def several(models: AnyOnnx | Sequence[AnyOnnx]) -> list[AnyOnnx]:
    """One model or several, as a list."""
    if isinstance(models, (Recommended, Artifact, str, os.PathLike)):
        return [models]
    return list(models)


def artifacts_of(models: Sequence[AnyOnnx]) -> dict[str, Artifact]:
    """The model files by name without suffix.

    Raises:
        InputError: one cannot be read.
        UsageError: two have one name.
    """
    found = [artifact_of(model) for model in models]
    artifacts = {each.path.name.removesuffix(".onnx"): each for each in found}
    if len(artifacts) != len(found):
        raise UsageError("two of the models have the same file name; rename one")
    return artifacts


def common_contract(artifacts: dict[str, Artifact]) -> Preprocess:
    """The input contract that all models share.

    Raises:
        UsageError: they expect different inputs.
    """
    contracts = {label: contract_of(artifact) for label, artifact in artifacts.items()}
    (first, contract), *others = contracts.items()
    for label, other in others:
        if other != contract:
            raise UsageError(f"{label} and {first} expect different inputs; compare them apart")
    return contract


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


def path_of(model: object) -> Path:
    """The path that is meant.

    Raises:
        UsageError: it is none.
    """
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    raise UsageError(
        f"a {type(model).__name__} is no model; give what segdeploy.load returns, or a file's path"
    )
