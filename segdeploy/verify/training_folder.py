"""A finished training: its bytes, and that its best checkpoint is the one its history names."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from segdeploy.deploy.system.checksums import differences
from segdeploy.deploy.system.errors import InputError
from segdeploy.training.align.history import read_curve
from segdeploy.training.files import BEST_FILE, LAST_FILE, STATE_FILE
from segdeploy.training.history import HISTORY_FILE
from segdeploy.verify.found import Findings

MARK = STATE_FILE


def verify_training(folder: Path, found: Findings) -> None:
    """Hash a training's files again, and check what they say of each other.

    Raises:
        InputError: the training was not finished, or its list of files is damaged.
    """
    from segdeploy.deploy.models.checkpoint import load_checkpoint  # torch: this kind alone
    from segdeploy.deploy.models.checkpoint_file import read_checkpoint_file

    found.take(differences(folder))
    for name in (BEST_FILE, LAST_FILE):
        with found.reading(name):
            if "network" not in read_checkpoint_file(folder / name)[1]:  # a module's own code
                load_checkpoint(folder / name)
    with found.reading(HISTORY_FILE):
        curve = read_curve(folder / HISTORY_FILE, "val_iou")
        figures = dict(zip(curve.positions, curve.values, strict=True))
        epoch, iou = _stated(folder / BEST_FILE)
        if epoch not in figures or f"{figures[epoch]:.3f}" != iou:
            found.add(BEST_FILE, f"says epoch {epoch}, val IoU {iou}; {HISTORY_FILE} does not")


def _stated(path: Path) -> tuple[int, str]:
    """Epoch and validation IoU in a checkpoint's metadata."""
    try:
        with safe_open(path, framework="numpy") as stream:
            stated = stream.metadata() or {}
        return int(stated["epoch"]), stated["val_iou"]
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path.name} states no epoch ({error})") from error
