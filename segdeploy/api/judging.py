"""What a search judges by: the reference it is compared with, and the images it may look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.api.models import in_pytorch, model_of, require_same_inputs
from segdeploy.deploy.data.image_set import SegmentationSet, open_set, read_splits
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.runtimes.base import Execution, Runtime
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.progress import bar

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule


def split_of(root: Path, name: str) -> SegmentationSet:
    """One split, whose absence is explained."""
    splits = read_splits(root / "splits.csv")
    if name not in set(splits.values()):
        raise InputError(
            f"--data {root} has no {name} split to choose on, only "
            f"{', '.join(sorted(set(splits.values())))}; `segdeploy data prepare` makes one"
        )
    return open_set(root, name)


def reference_of(reference: AnyModel, models: Preprocess) -> Checkpoint | LoadedModule | Artifact:
    """What accuracy is compared with; it must expect the same inputs as the model."""
    found = model_of(reference)
    contract = contract_of(found) if isinstance(found, Artifact) else found.preprocess
    require_same_inputs(found.path, contract, models)
    return found


def opened(reference: Checkpoint | LoadedModule | Artifact, execution: Execution) -> Runtime:
    """The reference, ready to run: a file in ONNX Runtime, a network in PyTorch."""
    if not in_pytorch(reference):
        assert isinstance(reference, Artifact)
        return open_runtime(RuntimeName.ONNXRUNTIME, reference, execution=execution)
    from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

    return PyTorchRuntime(reference, execution=execution)


def image_bar(items: Iterable[Any], label: str) -> Iterable[Any]:
    """A bar over images."""
    return bar(items, label, unit="image")
