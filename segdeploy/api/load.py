"""Load a model: a checkpoint with its network, or the description of an ONNX file."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.outputs import AnyPath
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.presets import PRESETS, preset
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import opened
from segdeploy.deploy.system.errors import InputError, UsageError

if TYPE_CHECKING:  # importing torch takes seconds; an ONNX file does not need it
    from torch import nn

    from segdeploy.deploy.models.architecture import Architecture
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule

ONNX_SUFFIX = ".onnx"


def is_onnx(path: Path) -> bool:
    """Whether a file is an ONNX file by its name."""
    return path.suffix.lower() == ONNX_SUFFIX


def load(
    path: AnyPath | nn.Module | None,
    *,
    module: str | None = None,
    arch: Architecture | str | None = None,
    recurrence: int | None = None,
    head: int | None = None,
    logits: bool | None = None,
    preprocess: Preprocess | AnyPath | None = None,
    output: OutputContract | AnyPath | None = None,
    weights: str | None = None,
    size: tuple[int, int] | None = None,
    output_name: str | None = None,
    data: Data | AnyPath | None = None,
) -> Checkpoint | LoadedModule | Artifact:
    """Load a checkpoint or a module, or describe an ONNX file.

    No code from a file is ever executed; ``module`` names code of yours, which is.

    Example:
        >>> import segdeploy as sd
        >>> net = sd.load(sd.bundled.checkpoint("unet_plus_plus"))
        >>> net.arch.value, net.parameters, net.preprocess.size
        ('unet_plus_plus', 9163428, (96, 96))

    Args:
        path: ``.pth``, ``.pt``, ``.pkl``, ``.ckpt``, ``.safetensors`` or ``.onnx``; or a
            ``torch.nn.Module``. ``None`` takes the weights that ``module`` is made with.
        module: ``package.module:function`` of yours, which makes the network; ``path`` is of its
            weights.
        arch: the network a checkpoint must hold; ``None`` takes what its keys tell.
        recurrence: R2U-Net's t; ``None`` takes what the file states, else its project's.
        head: UNet++ head 1 to 4; ``None`` takes the deepest.
        logits: whether the network was trained to return logits, for the record; ``None`` takes
            what its project does.
        preprocess: the input contract, a JSON file that holds it, or a preset's name ("imagenet"),
            at the size that the file or its project states; ``None`` takes what the file states,
            else that of the project its keys belong to.
        output: the output contract or a JSON file that holds it; likewise.
        weights: which network of a file that holds several; ``None`` expects one.
        size: height and width, of a module whose contract is a preset.
        output_name: which of several outputs of a module: a key, or a place in a list, from 0.
        data: images it is for, where the project's contract depends on their aspect.

    Returns:
        A checkpoint, or a module; of an ONNX file what it says of itself, which needs no PyTorch.

    Raises:
        InputError: it cannot be read, or holds no network of a known family; or a module without an
            input contract, or one that does not keep its contracts.
        UsageError: what is stated contradicts the file, or is stated of an ONNX file.
    """
    if module is not None or not isinstance(path, (str, os.PathLike)):
        require_of_checkpoints(arch=arch, recurrence=recurrence, head=head, what="a module")
        contract = read_contract(preprocess)
        if contract is None and isinstance(path, (str, os.PathLike)):
            contract = _contract_stored(Path(path))
        if contract is None:
            raise InputError(
                f"{module or type(path).__name__} carries no input contract; state the one it was "
                "trained with: --preprocess NAME, as imagenet, or FILE.json"
            )
        contract = preset(contract) if isinstance(contract, str) else contract
        return _module(
            path,
            module,
            Contract(
                preprocess=contract if size is None else replace(contract, size=size),
                output=read_output_contract(output),
            ),
            weights=weights,
            logits=logits,
            output_name=output_name,
        )
    given = Path(path)
    if is_onnx(given):
        stated = {
            "arch": arch,
            "recurrence": recurrence,
            "head": head,
            "logits": logits,
            "preprocess": preprocess,
            "classes": output,
            "weights": weights,
        }
        for name, value in stated.items():
            if value is not None:
                raise UsageError(f"--{name} is for a checkpoint; {given} states its own")
        return opened(given)
    return load_network(
        given,
        arch=arch,
        recurrence=recurrence,
        head=head,
        logits=logits,
        preprocess=preprocess,
        output=output,
        weights=weights,
        data=data,
    )


def require_of_checkpoints(*, what: str, **stated: object) -> None:
    """Refuse what can be stated of a checkpoint alone.

    Raises:
        UsageError: naming the first that is stated.
    """
    for name, value in stated.items():
        if value is not None:
            raise UsageError(f"--{name} is for a checkpoint of a known family, and this is {what}")


def _module(
    given: AnyPath | nn.Module | None,
    factory: str | None,
    contract: Contract,
    *,
    weights: str | None,
    **stated: Any,
) -> LoadedModule:
    from segdeploy.deploy.models.module import load_module, module_of_factory

    if factory is None:
        if not is_network(given):
            raise UsageError(
                f"a {type(given).__name__} is no model; give a file's path, or a torch.nn.Module"
            )
        return load_module(given, contract, **stated)
    if is_network(given):
        raise UsageError("a module beside the name of one; give one of them")
    path = Path(given) if isinstance(given, (str, os.PathLike)) else None
    return module_of_factory(factory, contract, path=path, chosen=weights, **stated)


def _contract_stored(path: Path) -> Preprocess | None:
    """The input contract that our own training stores with a module's weights."""
    from segdeploy.deploy.models.checkpoint_file import read_checkpoint_file

    stated = read_checkpoint_file(path)[1].get("preprocess")
    return None if stated is None else Preprocess.from_json(stated, source=str(path))


def is_network(given: object) -> TypeGuard[nn.Module]:
    """Whether it is a ``torch.nn.Module``; asking does not import PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(given, torch.nn.Module)


def load_network(
    path: AnyPath,
    *,
    arch: Architecture | str | None = None,
    recurrence: int | None = None,
    head: int | None = None,
    logits: bool | None = None,
    preprocess: Preprocess | AnyPath | None = None,
    output: OutputContract | AnyPath | None = None,
    weights: str | None = None,
    data: Data | AnyPath | None = None,
) -> Checkpoint:
    """Load a checkpoint, and nothing else; as ``load``."""
    from segdeploy.deploy.models.architecture import Architecture
    from segdeploy.deploy.models.checkpoint import load_checkpoint

    return load_checkpoint(
        Path(path),
        arch=None if arch is None else choice(Architecture, arch, what="arch"),
        recurrence=recurrence,
        head=head,
        logits=logits,
        preprocess=read_contract(preprocess),
        output=read_output_contract(output),
        weights=weights,
        image_sizes=None if data is None else Data.of(data).image_sizes,
    )


def read_contract(given: Preprocess | AnyPath | None) -> Preprocess | str | None:
    """An input contract, read where it is given as a file; the name of a preset as it is.

    Raises:
        InputError: the file cannot be read or is no contract.
        UsageError: neither a preset nor a file.
    """
    if given is None or isinstance(given, Preprocess) or given in PRESETS:
        return given if isinstance(given, Preprocess) or given is None else str(given)
    path = Path(given)
    if not path.suffix and not path.exists():
        return preset(str(given))  # says which there are
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--preprocess {given} cannot be read ({error})") from error
    return Preprocess.from_json(text, source=str(given))


def read_output_contract(given: OutputContract | AnyPath | None) -> OutputContract | None:
    """An output contract, read where it is given as a file.

    Raises:
        InputError: the file cannot be read or is no contract.
    """
    if given is None or isinstance(given, OutputContract):
        return given
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"output contract {given} cannot be read ({error})") from error
    return OutputContract.from_json(text, source=str(given))
