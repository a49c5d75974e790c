"""Package: a folder with everything another toolchain needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.api.calibration_tables import calibration_table_of, table_sha256
from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.models import AnyOnnx, artifact_of, several
from segdeploy.api.outputs import AnyPath
from segdeploy.api.recommended import Recommended
from segdeploy.calibration.estimate import Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import require_disjoint
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.packaging.base import Package, PackagedModel, Request
from segdeploy.deploy.packaging.package import package as write_package
from segdeploy.deploy.packaging.package import require_free
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.packaging.registry import package_target
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.targets.tensorrt_rules import Finding, rejected

OneOrMore = AnyOnnx | Sequence[AnyOnnx]

BATCHES = (1, 1, 8)
"""Batches a device will see: smallest, usual and largest."""


@dataclass(frozen=True, kw_only=True)
class GraphCheck:
    """What a toolchain would say to graphs.

    Attributes:
        target: the toolchain.
        title: its name in words.
        findings: of each file, the nodes that break one of its rules.
    """

    target: str
    title: str
    findings: dict[Path, tuple[Finding, ...]]

    def refused(self, path: Path) -> int:
        """How many nodes of a file are refused."""
        return len({finding.node for finding in rejected(self.findings[path])})

    @property
    def accepted(self) -> bool:
        """Whether no node of any file is refused."""
        return not any(map(self.refused, self.findings))


def package(
    models: OneOrMore,
    out: AnyPath,
    *,
    target: str,
    calib_data: Data | AnyPath | None = None,
    data: Data | AnyPath | None = None,
    table: CalibrationTable | AnyPath | None = None,
    method: Method | str | None = None,
    exclude: Sequence[str] = (),
    batches: int | Sequence[int] = BATCHES,
    preprocessing: Preprocessing | str = Preprocessing.BOTH,
    overwrite: bool = False,
) -> Package:
    """Write a folder for another toolchain, read back and checked. It appears whole or not at all.

    Args:
        models: ONNX files.
        out: folder to write.
        target: ascend, onnx, openvino, tensorrt, triton or vacc.
        calib_data: the package holds its images to calibrate on; ``None`` leaves them out.
        data: the package holds its test split to report on; ``None`` leaves it out.
        table: of the fp32 model, or the file that holds it.
        method: how the device's own tool finds ranges; ``None`` as the table or the int8 model was
            made, else entropy.
        exclude: layers to keep in float.
        batches: that the device will see, smallest, usual and largest, or one for all three.
        preprocessing: models that take normalised tensors (outside), 8-bit images (inside), or
            both.
        overwrite: replace the package that is there.

    Raises:
        InputError: a model or an image set that the target cannot take, or an image that both
            calibrates and judges.
        UsageError: the folder exists, another process writes it, or something the target needs
            was not given.
        OSError: the folder cannot be written.
    """
    chosen, output = package_target(target), Path(out)
    require_free(Path(os.path.realpath(output)), overwrite=overwrite)
    calibration = None if calib_data is None else Data.of(calib_data).calibration_images
    evaluation = None if data is None else Data.of(data).test
    if calibration is not None and evaluation is not None:
        require_disjoint(calibration, evaluation)
    request = Request(
        sources=tuple(PackagedModel.open(_file(model)) for model in several(models)),
        calibration=calibration,
        evaluation=evaluation,
        table=None if table is None else calibration_table_of(table),
        table_sha256=None if table is None else table_sha256(table),
        method=None if method is None else choice(Method, method, what="method"),
        exclude=tuple(exclude),
        batches=_batches(batches),
        preprocessing=choice(Preprocessing, preprocessing, what="preprocessing"),
    )
    return write_package(request, target=chosen, output=output, overwrite=overwrite)


def check(models: OneOrMore, *, target: str) -> GraphCheck:
    """Say which nodes of any ONNX files a toolchain would refuse, by what rule; writes nothing.

    Args:
        models: ONNX files, whoever made them.
        target: the toolchain: tensorrt.

    Raises:
        InputError: a file cannot be read.
        UsageError: a toolchain without rules here.
    """
    chosen = package_target(target)
    if chosen.check is None:
        raise UsageError(f"--check: {chosen.title} has no rules about graphs here")
    files = [_file(model) for model in several(models)]
    findings = {path: tuple(chosen.check(load_model(path))) for path in files}
    return GraphCheck(target=chosen.name, title=chosen.title, findings=findings)


def _file(model: AnyOnnx) -> Path:
    """The path of a model that is read once it is known what is made of it."""
    if isinstance(model, (str, os.PathLike)):
        return Path(model)
    return artifact_of(model.artifact if isinstance(model, Recommended) else model).path


def _batches(given: int | Sequence[int]) -> tuple[int, int, int]:
    """Smallest, usual and largest; one number is all three."""
    numbers = [given] if isinstance(given, int) else list(given)
    if len(numbers) not in (1, 3):
        raise UsageError(
            f"--batch takes one number, or smallest, usual and largest; {len(numbers)} were given"
        )
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]
