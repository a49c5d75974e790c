"""Load a trained checkpoint into its network, and save one.

What the keys cannot tell is stated by the caller or the file, or comes with the project the keys
belong to: the recurrence ``t``, the input contract, and whether the network the weights were
trained in returned logits or probabilities, and what its channels mean. Whether it returned logits
makes no difference to the weights, because neither Sigmoid nor Softmax has parameters: what we run
and export always ends in exactly one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.data.output_contract import MOST_CLASSES, Activation, OutputContract
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Preprocess, require_multiple
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint_file import read_checkpoint_file, require_plain
from segdeploy.deploy.models.conventions import (
    Convention,
    ImageSizes,
    contract_of_family,
    convention_of,
    own_labels,
)
from segdeploy.deploy.models.families import Detected, describe_misfit, detect
from segdeploy.deploy.models.networks import Network, architecture_of, build_network
from segdeploy.deploy.models.r2u_net import R2UNet
from segdeploy.deploy.models.state_dicts import weights_in
from segdeploy.deploy.models.unet_plus_plus import DEPTH
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError, one_line

MAX_RECURRENCE = 32
"""The recurrence ``t`` at most: a file that states more would keep a processor busy for ever."""


class Probability(nn.Module):
    """A network, followed by what every artefact ends in.

    Args:
        network: of any kind.
        activation: what makes probabilities of its logits; ``None`` where it returns them.
        returned: which of the tensors it returns; ``None`` where it returns one.
    """

    def __init__(
        self,
        network: nn.Module,
        activation: Activation | None = Activation.SIGMOID,
        *,
        returned: int | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.activation = activation
        self.returned = returned

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) normalised image to the probability of each channel, (N, K, H, W)."""
        given = self.network(image)
        values: Tensor = given if self.returned is None else tree_leaves(given)[self.returned]
        if self.activation is Activation.SOFTMAX:
            return values.softmax(1)
        return values if self.activation is None else values.sigmoid()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded network in evaluation mode and everything known about where it came from.

    ``head`` is the UNet++ head in use and ``recurrence`` the ``t`` of recurrent networks; each is
    ``None`` for the others. ``logits`` is what the source project's network returned, for the
    record. ``contract_origin`` says in words where the input contract is from. ``weights`` is the
    name of these weights in a file that holds several, else ``None``.
    """

    network: Network
    detected: Detected
    preprocess: Preprocess
    output: OutputContract
    contract_origin: str
    logits: bool
    recurrence: int | None
    head: int | None
    weights: str | None
    path: Path
    sha256: str

    @property
    def arch(self) -> Architecture:
        """Which network it is."""
        return self.detected.arch

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole network, all heads counted."""
        return sum(p.numel() for p in self.network.parameters())

    def probability(self) -> Probability:
        """The network as every artefact computes it: normalised image in, probability out."""
        return Probability(self.network, self.output.activation).eval()


def load_checkpoint(
    path: Path,
    *,
    arch: Architecture | None = None,
    recurrence: int | None = None,
    head: int | None = None,
    logits: bool | None = None,
    preprocess: Preprocess | str | None = None,
    output: OutputContract | None = None,
    weights: str | None = None,
    image_sizes: ImageSizes | None = None,
) -> Checkpoint:
    """Load a checkpoint of a supported family; ``checkpoint_file.SUFFIXES`` are its names.

    Never executes code from the file.

    Args:
        path: the checkpoint.
        arch: what the caller expects; ``None`` takes what the keys tell.
        recurrence: ``t``; ``None`` takes what the file states, else the default of its project.
        head: UNet++ head 1 to 4; ``None`` takes the deepest.
        logits: whether the source network returned logits, for the record; ``None`` takes what
            its project does.
        preprocess: the input contract, or the name of a preset, at the size that the file or its
            project states; ``None`` takes the file's, else that of its project.
        output: the output contract; likewise: the projects train labels of their own.
        weights: which of several networks in the file; ``None`` expects one.
        image_sizes: of the images it is for, where the project's contract depends on them.

    Raises:
        InputError: unreadable, not a supported network, does not fit, or holds NaN or Inf; or its
            project's contract cannot be told, or a contract is of another number of channels.
        UsageError: flags that contradict the file or each other, or several networks in the file.
    """
    loaded, stated = read_checkpoint_file(path)
    tensors, name = weights_in(loaded, source=str(path), chosen=weights)
    require_plain(tensors, path)
    own, detected = detect(tensors, source=str(path))
    _check_request(detected, path=path, arch=arch, recurrence=recurrence, head=head)
    convention = convention_of(detected, path)
    labels = _output(output, stated.get("output"), detected, path)
    contract, origin = _preprocess(
        preprocess,
        stated.get("preprocess"),
        convention,
        detected,
        path,
        image_sizes=image_sizes,
    )
    recurrence = _recurrence(
        recurrence, stated.get("recurrence"), default=convention.recurrence, path=path
    )
    is_nested = detected.arch is Architecture.UNET_PLUS_PLUS
    build = partial(
        build_network,
        detected.arch,
        in_channels=detected.in_channels,
        num_classes=detected.num_classes,
        width=detected.width,
        recurrence=recurrence,
        deep_supervision=detected.deep_supervision,
        head=head or DEPTH,
    )
    with torch.device("meta"):
        expected = build().state_dict()
    if misfit := describe_misfit(expected, own):
        raise InputError(f"{path} does not fit {detected.arch.value}: {misfit}")
    network = build()
    own = {k: v.float() if v.is_floating_point() else v for k, v in own.items()}
    for key, value in own.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"{path}: tensor {key!r} holds NaN or Inf; the training diverged?")
    network.load_state_dict(own, strict=False)
    return Checkpoint(
        network=network.eval(),
        detected=detected,
        preprocess=contract,
        output=labels,
        contract_origin=origin,
        logits=convention.logits if logits is None else logits,
        recurrence=recurrence if detected.arch.recurrent else None,
        head=(head or DEPTH) if is_nested else None,
        weights=name,
        path=path,
        sha256=sha256_of(path),
    )


def save_checkpoint(
    network: Network,
    path: Path,
    *,
    preprocess: Preprocess,
    output: OutputContract | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a safetensors file that carries its architecture and its contracts.

    An output contract is stated where there is one: without it, each channel is a label of its own.
    The file appears whole or not at all; the same network and metadata give the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    own = {"arch": architecture_of(network).value, "preprocess": preprocess.to_json()}
    if output is not None:
        own["output"] = output.to_json()
    if isinstance(network, R2UNet):
        own["recurrence"] = str(network.recurrence)
    save_weights(tensors, path, metadata=dict(metadata or {}) | own)


def save_weights(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same content gives the same bytes.

    Args:
        tensors: each with memory of its own.
        path: the file.
        metadata: texts by name.

    Raises:
        OSError: the folder cannot be written.
    """
    write_atomic(path, _sorted_metadata(save(dict(tensors), metadata=dict(metadata))))


def _sorted_metadata(content: bytes) -> bytes:
    """A safetensors file with its metadata in name order; the library's order is random.

    The file is a little-endian u64 header length, a JSON header padded to 8 bytes, the tensors.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[start:]


def _recurrence(asked: int | None, stated: str | None, *, default: int, path: Path) -> int:
    """The recurrence ``t``: what the caller and the file say, which must agree, else a default."""
    if stated is None:
        return default if asked is None else asked
    if not re.fullmatch("[0-9]{1,9}", stated) or not 1 <= int(stated) <= MAX_RECURRENCE:
        raise InputError(
            f"{path} states the recurrence {one_line(repr(stated), limit=40)}; expected a number "
            f"from 1 to {MAX_RECURRENCE}: export again from the checkpoint it was made from"
        )
    if asked is not None and asked != int(stated):
        raise UsageError(f"--recurrence {asked}, but {path} states {stated}; pass that")
    return int(stated)


def _check_request(
    detected: Detected,
    *,
    path: Path,
    arch: Architecture | None,
    recurrence: int | None,
    head: int | None,
) -> None:
    """Refuse flags that contradict the checkpoint."""
    found = detected.arch
    if arch is not None and arch is not found:
        raise UsageError(f"--arch {arch.value}, but {path} holds {found.value}; drop the flag")
    if found is not Architecture.UNET_PLUS_PLUS and head is not None:
        raise UsageError(f"--head chooses a UNet++ head; {found.label} has one output")
    if not found.recurrent and recurrence is not None:
        raise UsageError(f"--recurrence is R2U-Net's t; {found.label} has no recurrence")
    if head is not None and not 1 <= head <= DEPTH:
        raise UsageError(f"--head {head} does not exist; UNet++ has heads 1 to {DEPTH}")
    if recurrence is not None and not 1 <= recurrence <= MAX_RECURRENCE:
        raise UsageError(
            f"--recurrence {recurrence}: R2U-Net's t must be at least 1, at most {MAX_RECURRENCE}"
        )
    if head is not None and head != DEPTH and not detected.deep_supervision:
        raise UsageError(
            f"--head {head} needs a UNet++ trained with deep supervision; {path} has one head"
        )


def _output(
    given: OutputContract | None, stated: str | None, detected: Detected, path: Path
) -> OutputContract:
    """The output contract: what the caller says, else the file, else that of its project.

    Raises:
        InputError: it is of another number of classes than the weights have.
    """
    count = detected.num_classes
    if count > MOST_CLASSES:
        raise InputError(
            f"{path} has {count} output channels; expected at most {MOST_CLASSES}, as a label map "
            "of 8 bits has"
        )
    if given is None and stated is not None:
        given = OutputContract.from_json(stated, source=str(path))
    if given is None:
        return OutputContract() if count == 1 else OutputContract(classes=own_labels(count))
    if given.channels != count:
        names = one_line(", ".join(given.classes), limit=100)
        raise InputError(
            f"{path} has {count} output channel{'s' * (count > 1)}, the output contract names "
            f"{given.channels}: {names}; expected a name for each channel: --classes"
        )
    return given


def _preprocess(
    given: Preprocess | str | None,
    stated: str | None,
    convention: Convention,
    detected: Detected,
    path: Path,
    *,
    image_sizes: ImageSizes | None,
) -> tuple[Preprocess, str]:
    """The input contract and where it is from: the caller, the file, or the project.

    Raises:
        InputError: it is of another number of channels than the weights take, or the project's
            cannot be told.
    """
    expected = detected.in_channels
    takes = f"{path} takes images of {expected} channel{'s' * (expected > 1)}"
    if isinstance(given, str):
        if stated is not None:
            size = Preprocess.from_json(stated, source=str(path)).size
        else:
            size = contract_of_family(convention, detected, path, image_sizes=image_sizes)[0].size
        contract, origin = preset(given, size, channels=expected), f"preset {given}"
    elif given is not None:
        contract, origin = given, "as given"
    elif stated is not None:
        contract = Preprocess.from_json(stated, source=str(path))
        origin = "stored with the weights"
    elif expected != len(convention.preprocess.mean):
        raise InputError(
            f"{takes}, and {convention.origin} contract is of "
            f"{len(convention.preprocess.mean)}; state the one it was trained with: --preprocess"
        )
    else:
        return contract_of_family(convention, detected, path, image_sizes=image_sizes)
    if (found := len(contract.mean)) != expected:
        raise InputError(
            f"{takes}, its input contract ({origin}) makes {found}; state the one it was trained "
            "with: --preprocess"
        )
    try:
        require_multiple(contract.size, SIZE_MULTIPLE, network=detected.arch.value)
    except InputError as error:
        raise InputError(f"{path}, its input contract ({origin}): {error}") from error
    return contract, origin
