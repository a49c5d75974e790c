"""The sample and the checkpoints that come with the project."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from segdeploy.deploy.system.errors import InputError, UsageError

NETWORKS = ("r2u_net", "unet_plus_plus")
"""Networks of which a trained checkpoint comes with the project."""


def sample() -> Path:
    """The bundled DSB2018 sample: 50 calibration (train) and 64 evaluation (test) images.

    Raises:
        InputError: the installation lacks it.
    """
    return _existing("dsb2018_sample")


def checkpoint(arch: str) -> Path:
    """The bundled trained checkpoint of a network.

    Args:
        arch: its command-line name, "r2u_net" or "unet_plus_plus".

    Raises:
        InputError: the installation lacks it.
        UsageError: none of this network comes with the project.
    """
    if arch not in NETWORKS:
        raise UsageError(
            f"--arch {arch}: no checkpoint of it is bundled ({', '.join(NETWORKS)} are); give one "
            "with --checkpoint"
        )
    return _existing(f"{arch}_dsb2018.safetensors")


def _existing(name: str) -> Path:
    try:
        path = Path(str(files("segdeploy.examples") / name))
    except ModuleNotFoundError as error:
        raise InputError(
            f"the bundled {name} comes with an installation; run `pip install .` first"
        ) from error
    if not path.exists():
        raise InputError(f"the bundled {name} is missing from this installation ({path})")
    return path
