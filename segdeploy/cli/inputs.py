"""From flags to what the functions take, and what every verb says of a file it wrote."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segdeploy.deploy.data import bundled
from segdeploy.deploy.onnx_model.artifact import Artifact

if TYPE_CHECKING:
    from segdeploy.api.data import Data

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # importing torch takes seconds; only the verbs that need it do
    from segdeploy.deploy.models.checkpoint import Checkpoint

Options = argparse.Namespace
Result = tuple[int, object]
"""Exit code, and what ``--format json`` prints: a record, or a dict."""

GATE_FAILED = 1


def checkpoint_of(options: Options, path: Path) -> Checkpoint:
    """Load a checkpoint with what the flags state about it."""
    from segdeploy.api.load import load_network

    return load_network(path, **_stated(options))


def model_of(options: Options, path: Path) -> Checkpoint | Artifact:
    """An ONNX file, or a checkpoint with what the flags state about it.

    Raises:
        InputError: it cannot be read.
        UsageError: flags that contradict the file.
    """
    from segdeploy.api.load import load

    return load(path, **_stated(options))


def _stated(options: Options) -> dict[str, Any]:
    """What the flags say of a network that its keys cannot tell."""
    names = ("arch", "recurrence", "head", "logits", "preprocess", "weights")
    return {name: getattr(options, name) for name in names} | {"data": vars(options).get("data")}


def calibration_in(options: Options) -> Data:
    """The images that ``--calib-data``, ``--num-samples`` and ``--seed`` state."""
    from segdeploy.api.data import Data

    return Data(options.calib_data, num_samples=options.num_samples, seed=options.seed)


def given_or_bundled(options: Options) -> Checkpoint:
    """The checkpoint of ``-c``; without one the bundled checkpoint of ``--arch``, or UNet++."""
    arch = options.arch or "unet_plus_plus"
    return checkpoint_of(options, options.checkpoint or bundled.checkpoint(arch))


def wrote(artifact: Artifact) -> Result:
    """Say what file was written, and what is in it."""
    size = artifact.path.stat().st_size
    log.info("%s: %s, %.1f MB", artifact.path, artifact.precision.value, size / 1e6)
    return 0, asdict(artifact) | {"bytes": size}
