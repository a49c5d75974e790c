"""Read the tensors out of a checkpoint file, whoever made it, without trusting what it claims.

No code from the file is run, nothing is inflated, and no more memory is taken than the file is
large.
"""

from __future__ import annotations

import json
import mmap
import pickle
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segdeploy.deploy.models.pickled import require_small
from segdeploy.deploy.system.errors import InputError, one_line
from segdeploy.deploy.system.regular_file import require_regular_file

SUFFIXES = (".safetensors", ".pth", ".pt", ".pkl", ".ckpt")
"""LeeJunHyun Image_Segmentation writes ``.pkl`` and Lightning ``.ckpt``, both by torch.save."""

LEGACY_PICKLES = 5
"""Pickles at the start of a file that torch.save wrote before it wrote zip archives."""

PLAIN_WEIGHTS = "torch.save(model.state_dict(), path)"


def read_checkpoint_file(path: Path) -> tuple[object, dict[str, str]]:
    """What a checkpoint file of one of ``SUFFIXES`` holds, and its text metadata.

    Raises:
        InputError: no regular file, another suffix, damaged, compressed, or with more than tensors
            and plain values in it.
    """
    expected = f"a file ({', '.join(SUFFIXES)})"
    require_regular_file(path, what="checkpoint", expected=expected)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"checkpoint {path} ends in {path.suffix!r}; expected one of {', '.join(SUFFIXES)}"
        )
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path), {}
    except pickle.UnpicklingError as error:
        raise InputError(
            f"checkpoint {path} holds Python objects besides tensors (or is not a checkpoint) and "
            "was refused, because loading them would execute code. In the environment that wrote "
            f"it, save plain weights: {PLAIN_WEIGHTS}"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file makes the decoders raise nearly anything
        reason = one_line(error, limit=160) or type(error).__name__
        raise InputError(f"checkpoint {path} cannot be read ({reason}); is it complete?") from error


def require_plain(tensors: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not the dense arrays they seem to be.

    Args:
        tensors: of a state dict.
        path: the file they came from.

    Raises:
        InputError: sparse, quantized or without values, or more values than the file has bytes
            for, which views of a few stored values can claim.
    """
    for key, value in tensors.items():
        name = one_line(repr(key), limit=100)
        if value.layout is not torch.strided or value.is_quantized or value.is_nested:
            raise InputError(
                f"{path}: tensor {name} is quantized or sparse; save the float network the "
                f"weights come from: {PLAIN_WEIGHTS}"
            )
        if value.device.type != "cpu":
            raise InputError(
                f"{path}: tensor {name} is on device {value.device.type} and has no values in the "
                f"file; load the weights before {PLAIN_WEIGHTS}"
            )
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > (size := path.stat().st_size):
        raise InputError(
            f"{path} claims {claimed} bytes of tensors and has {size}; it repeats a few stored "
            "values. Save each tensor with values of its own: tensor.contiguous().clone()"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as stream:
        _require_unique_names(path)
        # An open safetensors file is no mapping: it has keys() and nothing to iterate.
        tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        return tensors, stream.metadata() or {}


def _require_unique_names(path: Path) -> None:
    """Refuse a header with a name twice: which of the two counts is up to the reader.

    The library has found the header valid, and no longer than the file.
    """

    def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                raise SafetensorError(f"{key!r} stands twice in its header")
            fields[key] = value
        return fields

    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=once)


def _read_torch(path: Path) -> object:
    if zipfile.is_zipfile(path):
        _require_stored(path)
    else:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            for _ in range(LEGACY_PICKLES):
                if whole.tell() < len(whole):
                    require_small(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_stored(path: Path) -> None:
    """Refuse an archive that is not as torch.save writes it, before anything is inflated."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.filename.endswith("/constants.pkl") for member in members):
            raise InputError(
                f"checkpoint {path} is a TorchScript archive, a program with its weights; save the "
                f"weights of the network it was made from: {PLAIN_WEIGHTS}"
            )
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED:
                raise InputError(
                    f"checkpoint {path}: {one_line(member.filename, limit=100)} in it is "
                    "compressed, which torch.save never does; save the weights again: "
                    f"{PLAIN_WEIGHTS}"
                )
        if sum(member.file_size for member in members) > size:
            raise InputError(
                f"checkpoint {path} claims more bytes of contents than it has; is it damaged? Save "
                f"the weights again: {PLAIN_WEIGHTS}"
            )
        for member in members:
            if member.filename.endswith("data.pkl"):
                with archive.open(member) as stream:
                    require_small(stream)
