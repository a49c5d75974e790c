"""Write a package: whole or not at all, checked by reading it back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from segdeploy.calibration.files import naming
from segdeploy.calibration.json_record import record_of, require_version
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.packaging.base import (
    MANIFEST,
    README,
    Contents,
    Package,
    PackageFile,
    PackageTarget,
    Request,
)
from segdeploy.deploy.packaging.masks import require_probable
from segdeploy.deploy.packaging.readme import SCHEMA_VERSION, manifest, readme
from segdeploy.deploy.system.checksums import (
    CHECKSUMS,
    differences,
    files_of,
    sha256_of,
    write_checksums,
)
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import writing_file


@dataclass(frozen=True, kw_only=True)
class PackageManifest:
    """What a reader takes from ``package.json``; see ``readme.manifest`` for all that stands there.

    Attributes:
        schema_version: of its form.
        target: name of the toolchain.
        document: where the target's format was taken from.
        contents: what the target says about its files.
        files: every file but the manifest, the checksums and the README, in path order.
    """

    schema_version: int
    target: str
    document: str
    contents: Contents
    files: tuple[PackageFile, ...]


def package(
    request: Request, *, target: PackageTarget, output: Path, overwrite: bool = False
) -> Package:
    """Write everything a toolchain needs into one folder.

    Written beside ``output`` under a temporary name, read back, then renamed: a folder of that
    name is always complete. Same request, same bytes.

    Args:
        request: models, images, calibration.
        target: the toolchain.
        output: folder to write.
        overwrite: replace a package that is there.

    Raises:
        UsageError: the folder exists, another process writes it, or something the target needs
            was not given.
        InputError: a model or an image set the target cannot take, or the written folder reads
            back as something else.
        OSError: the folder cannot be written.
    """
    output = Path(os.path.realpath(output))
    require_free(output, overwrite=overwrite)
    with writing_file(output, beside=[f".{output.name}", f".{output.name}.replaced"]):
        return _package(request, target=target, output=output)


def _package(request: Request, *, target: PackageTarget, output: Path) -> Package:
    temporary = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with naming(output, instead_of=temporary):
            require_probable(request)
            temporary.mkdir()
            contents = target.write(request, temporary)
            content = manifest(request, target, contents, _listed(temporary))
            text = json.dumps(content, indent=2, sort_keys=True) + "\n"
            (temporary / MANIFEST).write_text(text, encoding="utf-8")
            page = readme(content, title=target.title)
            (temporary / README).write_text(page, encoding="utf-8")
            write_checksums(temporary, files_of(temporary))
            found = reread(temporary, target=target)
            _put(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return replace(found, folder=output)


def reread(folder: Path, *, target: PackageTarget) -> Package:
    """Read a written package back, every file of it.

    Raises:
        InputError: no package of this target, a file that is missing, changed or not listed, or
            one that its own format's parser refuses.
    """
    stated = read_manifest(folder)
    if stated.target != target.name:
        raise InputError(f"{folder} is a package for {stated.target}, not for {target.name}")
    _require_unchanged(folder)
    found = Package(
        target=target.name,
        folder=folder,
        files=_listed(folder),
        contents=stated.contents,
        document=stated.document,
    )
    if found.files != stated.files:
        raise InputError(f"{folder / MANIFEST} and the files beside it do not fit together")
    page = (folder / README).read_text(encoding="utf-8")
    for step in found.contents.steps:
        if step.command not in page:
            raise InputError(f"{folder / README} lacks the command {step.command!r}")
    target.verify(folder)
    return found


def read_manifest(folder: Path) -> PackageManifest:
    """The manifest of a package.

    Raises:
        InputError: there is none, or it is of another release.
    """
    path = folder / MANIFEST
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        require_version(content, SCHEMA_VERSION)
        return record_of(content, PackageManifest, others=True, complete=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); is {folder} a package? If so, package the model "
            "again"
        ) from error


def _require_unchanged(folder: Path) -> None:
    found = differences(folder)
    if found.missing or found.unlisted:
        raise InputError(
            f"{folder}: {CHECKSUMS} lists {list(found.missing)} that are not there and lacks "
            f"{list(found.unlisted)}"
        )
    if found.changed:
        raise InputError(f"{folder / found.changed[0]} was changed; package the model again")


def require_free(output: Path, *, overwrite: bool) -> None:
    """Refuse a folder that exists, and with ``overwrite`` one that is no package.

    Raises:
        UsageError: naming the folder.
    """
    if not output.exists():
        return
    if not overwrite:
        raise UsageError(f"-o {output} exists; choose another, or --overwrite to replace it")
    if not output.is_dir() or (any(output.iterdir()) and not _is_package(output)):
        raise UsageError(
            f"-o {output} is no package (it holds no {MANIFEST} of one); --overwrite replaces "
            "packages only. Choose another folder"
        )


def _is_package(folder: Path) -> bool:
    """Whether a folder may be replaced: ``package.json`` is also what other tools call theirs."""
    try:
        content = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("tool")).startswith("segdeploy ")


def _put(temporary: Path, output: Path) -> None:
    """Rename into place; what was there goes once the new folder has its name."""
    if not output.exists():
        temporary.rename(output)
        return
    old = output.with_name(f".{output.name}.replaced.{os.getpid()}.partial")
    output.rename(old)
    try:
        temporary.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _listed(folder: Path) -> tuple[PackageFile, ...]:
    own = {MANIFEST, README, CHECKSUMS}
    return tuple(
        PackageFile(
            path=path, sha256=sha256_of(folder / path), bytes=(folder / path).stat().st_size
        )
        for path in files_of(folder)
        if path not in own
    )
