"""Which toolchains a model can be packaged for."""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.packaging.ascend.target import ASCEND
from segdeploy.deploy.packaging.base import Package, PackageTarget
from segdeploy.deploy.packaging.onnx.target import ONNX
from segdeploy.deploy.packaging.openvino.target import OPENVINO
from segdeploy.deploy.packaging.package import read_manifest, reread
from segdeploy.deploy.packaging.tensorrt.target import TENSORRT
from segdeploy.deploy.packaging.triton.target import TRITON
from segdeploy.deploy.packaging.vacc.target import VACC
from segdeploy.deploy.system.errors import UsageError

PACKAGE_TARGETS = {
    target.name: target for target in (ASCEND, ONNX, OPENVINO, TENSORRT, TRITON, VACC)
}


def package_target(name: str) -> PackageTarget:
    """Look a toolchain up.

    Raises:
        UsageError: no such target; the message lists the names.
    """
    if name not in PACKAGE_TARGETS:
        names = ", ".join(sorted(PACKAGE_TARGETS))
        raise UsageError(f"package target {name!r} is unknown; choose from {names}")
    return PACKAGE_TARGETS[name]


def verify_package(folder: Path) -> Package:
    """Read any package back: checksums, and every file by a parser of its format.

    Raises:
        InputError: naming the first file that is not as it was written.
        UsageError: a package for a target this release does not know.
    """
    return reread(folder, target=package_target(read_manifest(folder).target))
