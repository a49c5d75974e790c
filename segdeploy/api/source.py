"""What ``deploy`` is given, made ready for the stages."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from segdeploy.api.adopt import adopt
from segdeploy.api.data import Data
from segdeploy.api.load import is_network, is_onnx, load_network
from segdeploy.api.models import checkpoint_of, in_pytorch, is_module, network_of, path_of
from segdeploy.api.outputs import AnyPath, network_name
from segdeploy.api.recommended import Recommended
from segdeploy.deploy.adoption.foreign_file import load_foreign
from segdeploy.deploy.adoption.output_end import OutputKind
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import Checkpoint
from segdeploy.deploy.models.module import load_module
from segdeploy.deploy.models.unet_plus_plus import DEPTH
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import (
    contract_of,
    describe,
    load_model,
    metadata,
    output_of,
    require_fp32,
)
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.pipeline.source import Source, of_checkpoint, of_module, of_onnx

if TYPE_CHECKING:
    from torch import nn

    from segdeploy.api.models import AnyModel

DEFAULT_ARCH = "unet_plus_plus"
"""Of the bundled checkpoint that stands in where none is given."""


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """An ONNX file, and what is stated of it; a file of ours says everything itself.

    Attributes:
        path: the file; its weights may lie beside it.
        preprocess: the input contract, a JSON file that holds it, or the name of a preset.
        size: height and width, where neither the file nor a contract fixes them.
        output_name: which of several outputs.
        output_kind: what its values mean, where no operator at the end tells.
        classes: their names.
        ignored_index: value of a label map whose pixels count nowhere.
        output: the output contract or a JSON file that holds it, instead of the two before.
    """

    path: Path
    preprocess: Preprocess | AnyPath | None = None
    size: tuple[int, int] | None = None
    output_name: str | None = None
    output_kind: OutputKind | str | None = None
    classes: Sequence[str] | None = None
    ignored_index: int | None = None
    output: OutputContract | AnyPath | None = None

    @classmethod
    def of(cls, path: Path, contract: Contract | None) -> OnnxFile:
        """A file, with a contract or by itself."""
        if contract is None:
            return cls(path=path)
        return cls(path=path, preprocess=contract.preprocess, output=contract.output)

    @property
    def says_itself(self) -> bool:
        """Whether nothing is stated."""
        return self == OnnxFile(path=self.path)


@contextmanager
def onnx_source(given: OnnxFile, images: Data) -> Iterator[Source]:
    """The source of an ONNX file: as it is where it is of our form, else adopted.

    Args:
        given: the file and what is stated of it.
        images: to compare the adopted file with theirs on.

    Yields:
        The source; what it was adopted as is gone afterwards.

    Raises:
        InputError: it cannot be read or adopted, or nothing says what it takes.
        UsageError: what is stated contradicts itself.
        RunError: ONNX Runtime fails, or the adopted file computes something else.
    """
    path = given.path
    own = _own_contract(path)
    if own is not None and given.says_itself and _fixed(artifact := describe(path)):
        require_fp32(artifact, "a run starts")
        yield of_onnx(
            path,
            artifact,
            name=network_name(path),
            sha256=artifact.sha256,
            preprocess=contract_of(artifact),
            output=output_of(artifact),
        )
        return
    preprocess = given.preprocess if given.preprocess is not None else own
    if preprocess is None:
        load_foreign(path)  # a damaged file is told as such
        raise InputError(
            f"{path} carries no input contract; state the one it was trained with: --preprocess "
            "NAME, as imagenet, or FILE.json"
        )
    with TemporaryDirectory(prefix="segdeploy-") as folder:
        found = adopt(
            path,
            preprocess,
            images,
            size=given.size,
            output_name=given.output_name,
            output_kind=given.output_kind,
            classes=given.classes,
            ignored_index=given.ignored_index,
            output=given.output,
            out=Path(folder) / path.name,
        )
        yield of_onnx(
            path,
            found.artifact,
            name=network_name(path),
            sha256=sha256_of(path),
            preprocess=contract_of(found.artifact),
            output=output_of(found.artifact),
            adopted=(*found.notes, found.agreement),
        )


def _fixed(artifact: Artifact) -> bool:
    """Whether a file states the size of its images."""
    return all(isinstance(side, int) for side in artifact.inputs[0].shape[1:])


def _own_contract(path: Path) -> Preprocess | None:
    """The input contract that a file of ours carries; ``None`` where it is another exporter's."""
    try:
        stated = metadata(load_model(path)).get("preprocess")
    except InputError:
        return None
    return None if stated is None else Preprocess.from_json(stated, source=str(path))


def checkpoint_source(net: Checkpoint) -> Source:
    """The source of a checkpoint, named after its network, and its head where not the deepest."""
    head = f"_l{net.head}" if net.head not in (None, DEPTH) else ""
    return of_checkpoint(net, name=f"{net.arch.value}{head}")


@contextmanager
def source_of(
    model: AnyModel | OnnxFile | nn.Module | None, images: Data, *, contract: Contract | None = None
) -> Iterator[Source]:
    """The source of what ``deploy`` is given.

    Args:
        model: a checkpoint, an ONNX file or a module, loaded, described or by its path; ``None`` is
            the bundled checkpoint.
        images: it is for.
        contract: of a module, or a file that carries none.

    Yields:
        The source, to be used at once.

    Raises:
        InputError: it cannot be read, or nothing says what it takes.
        UsageError: what is no model, or a contract that a checkpoint states itself.
        RunError: see ``onnx_source``.
    """
    stated = bundled.checkpoint(DEFAULT_ARCH) if model is None else model
    if isinstance(stated, Recommended):
        stated = stated.artifact
    if isinstance(stated, Artifact):
        stated = stated.path
    if isinstance(stated, (str, os.PathLike)) and is_onnx(Path(stated)):
        stated = OnnxFile.of(Path(stated), contract)
    if isinstance(stated, OnnxFile):
        with onnx_source(stated, images) as source:
            yield source
        return
    if is_network(stated):
        if contract is None:
            raise UsageError(
                f"{type(stated).__name__} says nothing of what it takes and gives; state it: "
                "contract=segdeploy.Contract(preprocess=..., output=...)"
            )
        yield of_module(load_module(stated, contract))
        return
    if contract is None:
        found = stated if in_pytorch(stated) else network_of(path_of(stated), data=images)
        yield of_module(found) if is_module(found) else checkpoint_source(checkpoint_of(found))
        return
    if in_pytorch(stated):
        raise UsageError(
            "it is loaded with its contracts; state others where it is loaded, or give its path"
        )
    net = load_network(
        path_of(stated), preprocess=contract.preprocess, output=contract.output, data=images
    )
    yield checkpoint_source(net)
