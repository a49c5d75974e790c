"""From flags to what the functions take, and what every verb says of a file it wrote."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.deploy.data import bundled
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    from segdeploy.api.data import Data
    from segdeploy.api.source import OnnxFile

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from segdeploy.deploy.data.image_set import SegmentationSet
    from segdeploy.deploy.data.output_contract import OutputContract
    from segdeploy.deploy.models.checkpoint import Checkpoint
    from segdeploy.deploy.models.module import LoadedModule

Options = argparse.Namespace
Result = tuple[int, object]
"""Exit code, and what ``--format json`` prints: a record, or a dict."""

GATE_FAILED = 1


def checkpoint_of(options: Options, path: Path | None) -> Checkpoint | LoadedModule:
    """Load a checkpoint, or the module of ``--module``, with what the flags state about it.

    Raises:
        InputError: it cannot be read.
        UsageError: flags that contradict it, or an ONNX file.
    """
    from segdeploy.api.load import load, load_network

    if vars(options).get("module") is None:
        assert path is not None, "the parser asks for one"
        return load_network(path, **_stated(options))
    found = load(path, **_stated(options), **_stated_of_module(options))
    assert not isinstance(found, Artifact), "a module was asked for"
    return found


def model_of(options: Options, path: Path) -> Checkpoint | LoadedModule | Artifact:
    """An ONNX file, or a checkpoint or module with what the flags state about it.

    Raises:
        InputError: it cannot be read.
        UsageError: flags that contradict the file.
    """
    from segdeploy.api.load import load

    if vars(options).get("module") is not None:
        return checkpoint_of(options, path)
    return load(path, **_stated(options))


def _stated_of_module(options: Options) -> dict[str, Any]:
    """What the flags say of a module of the user's."""
    return {
        "module": options.module,
        "output_name": options.output_name,
        "size": None if options.size is None else tuple(options.size),
    }


def _stated(options: Options) -> dict[str, Any]:
    """What the flags say of a network that its keys cannot tell."""
    names = ("arch", "recurrence", "head", "logits", "preprocess", "weights")
    stated = {name: getattr(options, name) for name in names}
    return stated | {"output": output_contract_in(options), "data": vars(options).get("data")}


def output_contract_in(options: Options) -> OutputContract | None:
    """What the flags state of a network's channels; ``None`` where they state nothing.

    Raises:
        UsageError: parts beside the whole, or a kind or an ignored index without classes.
        InputError: a file that cannot be read or is no contract, or values that no contract has.
    """
    from segdeploy.api.load import read_output_contract
    from segdeploy.deploy.data.output_contract import Activation, OutputContract

    stated = {
        "--classes": options.classes,
        "--output-kind": options.output_kind,
        "--ignore-index": options.ignore_index,
    }
    given = [flag for flag, value in stated.items() if value is not None]
    if options.output_contract is not None:
        if given:
            raise UsageError(f"{given[0]} beside --output-contract, which states all; drop one")
        return read_output_contract(options.output_contract)
    if not given:
        return None
    if options.classes is None:
        raise UsageError(f"{given[0]} needs the names of the classes: --classes NAME,NAME")
    return OutputContract(
        activation=Activation(activation_word(options.output_kind, len(options.classes))),
        classes=options.classes,
        ignored_index=options.ignore_index,
    )


def onnx_file_of(options: Options) -> OnnxFile:
    """The ONNX file of ``-m`` with what the flags state of it."""
    from segdeploy.api.source import OnnxFile

    return OnnxFile(
        path=options.model,
        preprocess=options.preprocess,
        size=None if options.size is None else tuple(options.size),
        output_name=options.output_name,
        output_kind=options.output_kind,
        classes=options.classes,
        ignored_index=options.ignore_index,
        output=options.output_contract,
    )


def require_unused(options: Options, names: Iterable[str], what: str) -> None:
    """Refuse flags that mean nothing here.

    Args:
        options: the command line.
        names: of the flags, with underscores.
        what: they are for.

    Raises:
        UsageError: naming the first that is given.
    """
    for name in names:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for {what}")


def activation_word(kind: str | None, classes: int) -> str:
    """How channels go together, of an output's kind; labels of their own where none is stated.

    Example:
        >>> activation_word("logits", 4), activation_word("sigmoid-logits", 4)
        ('softmax', 'sigmoid')
    """
    if kind in ("logits", "argmax"):
        return "softmax" if classes > 1 else "sigmoid"
    return (kind or "sigmoid").removesuffix("-logits")


def calibration_in(options: Options) -> Data:
    """The images that ``--calib-data``, ``--num-samples`` and ``--seed`` state."""
    from segdeploy.api.data import Data

    return Data(options.calib_data, num_samples=options.num_samples, seed=options.seed)


def given_or_bundled(options: Options) -> Checkpoint | LoadedModule:
    """The checkpoint of ``-c``; without one the bundled checkpoint of ``--arch``, or UNet++."""
    if vars(options).get("module") is not None:
        return checkpoint_of(options, options.checkpoint)
    arch = options.arch or "unet_plus_plus"
    return checkpoint_of(options, options.checkpoint or bundled.checkpoint(arch))


def say_masks(images: SegmentationSet, model: Checkpoint | LoadedModule | Artifact) -> None:
    """Say what the masks that judged a model are taken for, where they are not plain."""
    from segdeploy.deploy.onnx_model.file import output_of

    contract = output_of(model) if isinstance(model, Artifact) else model.output
    if said := images.masks_in_words(contract):
        log.info("%s", said)


def wrote(artifact: Artifact) -> Result:
    """Say what file was written, and what is in it."""
    size = artifact.path.stat().st_size
    log.info("%s: %s, %.1f MB", artifact.path, artifact.precision.value, size / 1e6)
    return 0, asdict(artifact) | {"bytes": size}
