"""Weights of the zoo: trained on demand by our own loop, cached outside the repository."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from segdeploy.benchmarks.peers.zoo.networks import Entry
from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.system.checksums import CHECKSUMS
from segdeploy.deploy.system.errors import InputError, RunError, one_line

RECIPE = ("--epochs", "12", "--batch", "8", "--augment", "mild", "--learning-rate", "2e-3")
"""Flags of ``segdeploy train``: two to four minutes on two cores at 96x96."""

BEST = "best.safetensors"
"""``training.files.BEST_FILE``; this floor does not know the one above."""


def default_cache() -> Path:
    """``segdeploy/zoo`` in the user's cache folder, as XDG says where that is."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "segdeploy" / "zoo"


def missing(entry: Entry) -> str | None:
    """Why a network cannot be made here; ``None`` where it can."""
    if entry.package is None or importlib.util.find_spec(entry.package) is not None:
        return None
    return f"{entry.package} is not installed; pip install {entry.package}"


def folder_of(entry: Entry, cache: Path, images: SegmentationSet) -> Path:
    """Where a network's training lies: another for other architecture, recipe or images."""
    decides = json.dumps([entry.name, entry.factory, entry.width, RECIPE, images.sha256()])
    return cache / f"{entry.name}-{hashlib.sha256(decides.encode()).hexdigest()[:12]}"


def weights_of(
    entry: Entry, *, cache: Path, data: Path, images: SegmentationSet, threads: int
) -> Path:
    """The trained weights, trained now unless they are cached; interrupted, it goes on.

    A process of its own trains, as a user would: ``segdeploy train --module``.

    Args:
        entry: the network.
        cache: folder of all trainings.
        data: a prepared folder.
        images: its train split, which names the training.
        threads: of PyTorch.

    Raises:
        InputError: a package is missing.
        RunError: the training failed; says why.
    """
    if entry.bundled is not None:
        beside = bundled.checkpoint("unet_plus_plus")
        return beside.with_name(f"{entry.bundled}_dsb2018.safetensors")
    if reason := missing(entry):
        raise InputError(reason)
    folder = folder_of(entry, cache, images)
    if (folder / CHECKSUMS).exists():
        return folder / BEST
    command = [sys.executable, "-m", "segdeploy", "train", "--module", entry.factory]
    command += ["--data", str(data), "-o", str(folder), "--threads", str(threads), *RECIPE]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RunError(f"training of {entry.name} failed: {one_line(done.stderr[-300:])}")
    return folder / BEST
