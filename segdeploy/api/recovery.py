"""Recovery of what int8 lost: which methods are meant, and what they learn from."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segdeploy.api.choices import choices
from segdeploy.api.data import Data
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.recovery.methods import IN_ORDER, Recovery, applied_all
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import TargetProfile

IMAGES = 50
"""To learn from, where the table does not say how many it was made of."""


def methods_of(given: Sequence[Recovery | str] | Recovery | str | None) -> tuple[Recovery, ...]:
    """The methods that are meant, in the order in which they are applied.

    Example:
        >>> [method.value for method in methods_of(["rounding", "biases"])]
        ['biases', 'rounding']

    Args:
        given: members or their words; ``None`` is all of them.

    Raises:
        UsageError: no such method.
    """
    chosen = IN_ORDER if given is None else choices(Recovery, given, what="recover")
    return tuple(method for method in IN_ORDER if method in chosen)


def images_for(data: Data, table: CalibrationTable, *, seed: int) -> SegmentationSet:
    """As many calibration images as the table was made of, drawn as ``calibrate`` draws them.

    Raises:
        InputError: there is no train split.
    """
    images = data.calibration_images
    return images.take(min(table.num_samples or IMAGES, len(images)), seed=seed)


def workshop_of(
    source: Artifact,
    images: SegmentationSet,
    folder: Path,
    *,
    profile: TargetProfile,
    exclude: Sequence[str],
    table_sha256: str,
    seed: int,
    threads: int | None,
) -> Workshop:
    """What the methods work with; nothing is read or written yet."""
    return Workshop(
        images=images,
        preprocess=contract_of(source),
        profile=profile,
        exclude=tuple(exclude),
        table_sha256=table_sha256,
        seed=seed,
        threads=threads or usable_cores(),
        folder=folder,
        progress=_bar,
    )


def recovered(
    plain: Candidate, methods: Sequence[Recovery], workshop: Workshop, output: Path
) -> Artifact:
    """Write the int8 file after some methods; interrupted, the same call goes on.

    Raises:
        InputError: an image cannot be read, or ONNX Runtime does not accept the model.
        RunError: ONNX Runtime failed.
        OSError: a file cannot be written.
    """
    with kept_in(workshop.folder):
        return workshop.write(applied_all(methods, plain, workshop), output)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """A folder that stays where the work inside is interrupted or fails, and goes when it is done.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    yield
    shutil.rmtree(folder, ignore_errors=True)


def folder_of(output: Path) -> Path:
    """Where recovery keeps what an interrupted one goes on from."""
    return output.with_name(f"{output.name}.recovery")


def _bar(items: Iterable[Any], label: str) -> Iterable[Any]:
    return bar(items, label, unit="layer" if "layers" in label else "image")
