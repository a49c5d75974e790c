"""Write a package: whole or not at all, checked by reading it back."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdeploy.calibration.files import naming
from segdeploy.calibration.json_text import parse_json
from segdeploy.deploy.packaging.base import (
    MANIFEST,
    README,
    Contents,
    Package,
    PackageFile,
    PackageTarget,
    Request,
    Step,
)
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
    content = read_manifest(folder)
    if content["target"] != target.name:
        raise InputError(f"{folder} is a package for {content['target']}, not for {target.name}")
    _require_unchanged(folder)
    found = Package(
        target=target.name,
        folder=folder,
        files=_listed(folder),
        contents=_contents(content["contents"], folder / MANIFEST),
        document=content["document"],
    )
    if [vars(file) for file in found.files] != content["files"]:
        raise InputError(f"{folder / MANIFEST} and the files beside it do not fit together")
    page = (folder / README).read_text(encoding="utf-8")
    for step in found.contents.steps:
        if step.command not in page:
            raise InputError(f"{folder / README} lacks the command {step.command!r}")
    target.verify(folder)
    return found


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a package.

    Raises:
        InputError: there is none, or it is of another release.
    """
    path = folder / MANIFEST
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); is {folder} a package?") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {version!r}; expected {SCHEMA_VERSION}")
    kinds = {"target": str, "document": str, "contents": dict, "files": list}
    for key, kind in kinds.items():
        if not isinstance(content.get(key), kind):
            raise InputError(f"{path}: {key!r} is missing or no {kind.__name__}; package again")
    return dict(content)


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


def _contents(stored: dict[str, Any], path: Path) -> Contents:
    def texts(key: str) -> tuple[str, ...]:
        values = stored[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise TypeError(f"{key} is no list of texts")
        return tuple(values)

    try:
        steps = tuple(Step(**step) for step in stored["steps"])
        if not all(isinstance(value, str) for step in steps for value in vars(step).values()):
            raise TypeError("a step that is no text")
        return Contents(
            steps=steps,
            executed=texts("executed"),
            not_run=texts("not_run"),
            notes=texts("notes"),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} does not hold the contents of a package ({error}); package the model again"
        ) from error
