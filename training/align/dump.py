"""The file that alignment checks exchange, so that any implementation or device can write one.

A dump is a folder of two files:

``tensors.safetensors`` holds float32 or float64 tensors, named ``STEP/NAME``:

================== ===================== ===========================================================
name               shape                 what
================== ===================== ===========================================================
inputs/image       (steps, N, 3, H, W)   normalised images, one batch a step
inputs/truth       (steps, N, 1, H, W)   masks, 0 or 1
forward/eval/HEAD  (N, 1, H, W)          logits of the first batch, BatchNorm by its running figures
forward/train/HEAD (N, 1, H, W)          the same, BatchNorm by the batch
metric/iou         (N,)                  published IoU of each image, percent, from the last head
loss/HEAD          (1,)                  BCE + Dice loss of the training forward pass
loss/mean          (1,)                  mean over the heads: what is minimised
backward/PARAMETER that of the parameter its gradient by ``loss/mean``
update/TENSOR      that of the tensor    every parameter and BatchNorm figure after one AdamW step
training/losses    (steps,)              ``loss/mean`` of each step, each on its own batch
================== ===================== ===========================================================

Parameters and heads have the names of the checkpoint's keys. AdamW runs with betas 0.9 and 0.999,
epsilon 1e-8, the learning rate and weight decay of the settings, no schedule.

``index.json`` is an object with ``schema_version`` (1), ``settings`` (what decides the result;
those that both of two dumps state must be equal), ``environment`` (what may differ: device,
versions) and ``tensors``: all names, in the order they are computed, gradients from the last layer
to the first. ``sha256``, of the tensor file, may be left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from segdeploy.calibration.files import write_atomic
from segdeploy.calibration.json_record import record_of, require_version
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.system.errors import InputError, UsageError

INDEX = "index.json"
TENSORS = "tensors.safetensors"
SCHEMA_VERSION = 1

Tensors = Mapping[str, NDArray[Any]]


class Step(str, Enum):
    """What is compared, in this order; each needs the ones before it."""

    INPUTS = "inputs"
    FORWARD = "forward"
    METRIC = "metric"
    LOSS = "loss"
    BACKWARD = "backward"
    UPDATE = "update"
    TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class Dump:
    """What one implementation computed.

    Attributes:
        source: where it came from, for messages.
        tensors: by name, in the order they are computed.
        settings: what decides the result.
        environment: what may differ.

    Raises:
        InputError: a name outside ``STEP/NAME``, or a tensor that is not float32 or float64.
    """

    source: str
    tensors: Tensors
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]

    def __post_init__(self) -> None:
        steps = [step.value for step in Step]
        for name, tensor in self.tensors.items():
            step, _, rest = name.partition("/")
            if step not in steps or not rest:
                raise InputError(
                    f"{self.source}: tensor {name!r} belongs to no step; expected a name that "
                    f"begins with {', '.join(f'{s}/' for s in steps)}"
                )
            if tensor.dtype not in (np.float32, np.float64):
                raise InputError(
                    f"{self.source}: tensor {name!r} is {tensor.dtype}; expected float32 or float64"
                )

    def of(self, step: Step) -> dict[str, NDArray[Any]]:
        """The tensors of one step, in order, under their full names."""
        return {n: t for n, t in self.tensors.items() if n.startswith(f"{step.value}/")}


def write_dump(dump: Dump, folder: Path) -> None:
    """Write both files; the same dump gives the same bytes.

    Raises:
        UsageError: the folder is a file.
        OSError: the folder cannot be made or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"-o {folder} is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    content = save({name: np.ascontiguousarray(t) for name, t in dump.tensors.items()})
    index = {
        "schema_version": SCHEMA_VERSION,
        "settings": dict(dump.settings),
        "environment": dict(dump.environment),
        "tensors": list(dump.tensors),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_atomic(folder / TENSORS, content)
    write_atomic(folder / INDEX, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def read_dump(folder: Path) -> Dump:
    """Read a dump, of this or another implementation.

    Raises:
        InputError: a file is missing or damaged, of another schema, or the two do not fit.
    """
    index = _index(folder / INDEX)
    path = folder / TENSORS
    try:
        content = path.read_bytes()
        found = load(content)
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path} is no safetensors file of floats ({error})") from error
    if index.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise InputError(f"{path} is not the file that {INDEX} was written for; dump again")
    listed = index.tensors
    for name in (*listed, *found):
        if (name in found) != (name in listed):
            has, lacks = (INDEX, TENSORS) if name in listed else (TENSORS, INDEX)
            raise InputError(f"{folder}: tensor {name!r} is in {has} and not in {lacks}")
    return Dump(
        source=str(folder),
        tensors={name: found[name] for name in listed},
        settings=index.settings,
        environment=index.environment,
    )


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What ``index.json`` holds; another implementation may leave the digest out."""

    schema_version: int
    settings: dict[str, Any]
    environment: dict[str, Any]
    tensors: tuple[str, ...]
    sha256: str | None = None

    def __post_init__(self) -> None:
        if len(set(self.tensors)) != len(self.tensors):
            raise ValueError("tensors: a name is given twice")


def _index(path: Path) -> _Index:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        require_version(content, SCHEMA_VERSION)
        return record_of(content, _Index, others=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); expected a folder from `segdeploy align dump`"
        ) from error
