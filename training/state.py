"""What a training needs to go on after the last finished epoch, bit for bit."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segdeploy.calibration.files import atomic_writer
from segdeploy.calibration.json_record import record_of
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.files import STATE_FILE
from segdeploy.training.history import EpochFigures
from segdeploy.training.recipe import Recipe

log = logging.getLogger(__name__)

STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """How far a training is, and what decided it.

    Attributes:
        settings: recipe, data and number of processes as JSON; a training goes on only with the
            same.
        history: figures of each finished epoch.
        tensors: state dicts by name: network, average, optimiser, schedule, scaler.
    """

    settings: str
    history: tuple[EpochFigures, ...]
    tensors: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Stored(TrainingState):
    """What the state file holds."""

    version: int


NOT_BEGUN = TrainingState(settings="{}", history=(), tensors={})
"""No epoch is finished: says whose the folder is before the first checkpoint is written."""


def identity_of(
    recipe: Recipe,
    train_set: SegmentationSet,
    val_set: SegmentationSet,
    preprocess: Preprocess,
    *,
    processes: int,
    module_sha256: str | None = None,
    quantization: Mapping[str, str] | None = None,
) -> str:
    """What two trainings must share to be the same, as JSON.

    Args:
        recipe: how to train.
        train_set: what is trained on.
        val_set: what chooses the epoch.
        preprocess: the input contract.
        processes: how many share each step.
        module_sha256: of the operators and first weights of a network of no known family.
        quantization: what decides the ranges of a training with the integers of a target.

    Raises:
        OSError: an image or the pretrained checkpoint cannot be read.
    """
    data: dict[str, Any] = {
        "processes": processes,
        "preprocess": preprocess.to_json(),
        "train_images": train_set.sha256(),
        "val_images": val_set.sha256(),
    } | dict(quantization or {})
    if recipe.pretrained is not None and recipe.pretrained.is_file():
        data["pretrained_sha256"] = sha256_of(recipe.pretrained)
    if module_sha256 is not None:
        data["module"] = module_sha256
    stated = json.loads(recipe.to_json(of_module=module_sha256 is not None))
    return json.dumps(stated | data, sort_keys=True)


def save_state(progress: TrainingState, folder: Path) -> None:
    """Write the state file; it appears whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    content = {
        "version": STATE_VERSION,
        "settings": progress.settings,
        "history": [vars(figures) for figures in progress.history],
        "tensors": progress.tensors,
    }
    with atomic_writer(folder / STATE_FILE) as stream:
        torch.save(content, stream)


def load_state(folder: Path, *, settings: str) -> TrainingState | None:
    """The state of the last finished epoch; ``None`` where no epoch was finished.

    Raises:
        InputError: the file is damaged or of another version.
        UsageError: it belongs to a training with other settings; the message names them.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the decoder raise nearly anything
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}); start over with --overwrite"
        ) from error
    return state_in(content, settings=settings, path=path)


def state_in(content: object, *, settings: str, path: Path) -> TrainingState | None:
    """The state that a decoded file holds; ``None`` where no epoch was finished.

    Args:
        content: what the file decodes to.
        settings: of the training that is to go on.
        path: of the file.

    Raises:
        InputError: it is no state, or of another version.
        UsageError: it belongs to a training with other settings; the message names them.
    """
    stored = content if isinstance(content, dict) else {}
    version = stored.get("version")
    if type(version) is not int or version != STATE_VERSION:
        raise InputError(
            f"{path} has version {version!r:.60}, this release writes {STATE_VERSION}; "
            "start over with --overwrite"
        )
    try:
        state = record_of(stored, _Stored, others=True, complete=True)
        before = record_of(parse_json(state.settings), dict[str, Any], complete=True)
    except ValueError as error:
        raise InputError(
            f"{path} does not hold the state of a training ({error}); start over with --overwrite"
        ) from error
    if not state.history:
        return None
    changed = _differences(before, json.loads(settings))
    if changed:
        raise UsageError(
            f"{path.parent} holds a training with other settings ({'; '.join(changed)}). Go on "
            "with the same, choose another folder, or start over with --overwrite"
        )
    return TrainingState(
        settings=settings,
        history=state.history,
        tensors=state.tensors,
    )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{key} was {old.get(key)}, is {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
