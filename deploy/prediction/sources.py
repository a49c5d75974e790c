"""Which images to take, and what the files written for each are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.deploy.data.image_files import IMAGE_SUFFIXES, is_image, some_names
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.prediction.settings import Write, files_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.shown_command import shown_path

log = logging.getLogger(__name__)

LIST_MARK = "@"
WILDCARDS = "*?["


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSource:
    """One image file, and what it is called in the output.

    Attributes:
        path: where it lies, as it was given.
        name: without suffix; with the folders below the one that was given, with slashes.
        shown: what the index calls it, ``None`` as ``path``: not with the folders of this machine.
    """

    path: str
    name: str
    shown: str | None = None

    @property
    def label(self) -> str:
        """What the index calls it."""
        return self.path if self.shown is None else self.shown


def sources_of(
    inputs: Sequence[str],
    *,
    output: Path,
    writes: Sequence[Write],
    contract: OutputContract | None = None,
) -> list[ImageSource]:
    """The images that were asked for, in the order asked for and, within a folder, by name.

    Args:
        inputs: each an image file; a folder, taken with all folders in it, whose structure is kept
            in the output; a pattern with ``*``, ``?``, ``[...]`` or ``**``, below whose fixed part
            the structure is kept; or ``@FILE``, a list of image files, one a line, relative to the
            working directory, with empty lines and lines from ``#`` left out. Hidden files and
            folders are left out of folders and patterns, and so is what is no image by its suffix.
        output: folder that is written to.
        writes: what is written for each image.
        contract: the model's output contract; ``None`` is one label.

    Raises:
        InputError: one names nothing, or a list cannot be read.
        UsageError: two images whose files would have one name, or an output that would replace an
            image or lies where the images are looked for.
    """
    real = _real_paths()
    found: dict[str, ImageSource] = {}
    for given in inputs:
        for source in _found(given, output):
            found.setdefault(real(source.path), source)
    if not found:
        raise InputError(f"{' '.join(inputs)}: no images ({', '.join(IMAGE_SUFFIXES)})")
    _require_own_files(found, output, writes, contract or OutputContract())
    return list(found.values())


def _found(given: str, output: Path) -> Iterator[ImageSource]:
    """The images behind one input."""
    path = Path(given)
    if given.startswith(LIST_MARK) and not path.exists():
        yield from map(_named, _listed(Path(given[len(LIST_MARK) :])))
    elif path.is_dir():
        _require_apart(path, output)
        yield from _below(path, _walked(path))
    elif path.exists():
        if not is_image(path.name):
            raise InputError(f"{given} is no image ({', '.join(IMAGE_SUFFIXES)})")
        yield _named(given)
    elif any(mark in given for mark in WILDCARDS):
        files = _matching(path)
        if not files:
            raise InputError(f"{given} matches no image ({', '.join(IMAGE_SUFFIXES)})")
        yield from _below(_fixed_part(path), files)
    else:
        raise InputError(
            f"{given} does not exist; expected an image, a folder, a pattern in quotes or "
            f"{LIST_MARK}FILE with a path a line"
        )


def _named(path: str) -> ImageSource:
    return ImageSource(path=path, name=Path(path).stem, shown=shown_path(path))


def _below(root: Path, paths: Iterable[str]) -> Iterator[ImageSource]:
    top = shown_path(root)
    for path in paths:
        inner = Path(path).relative_to(root)
        shown = path if top == str(root) else str(Path(top.lstrip(os.sep), inner))
        yield ImageSource(path=path, name=inner.with_suffix("").as_posix(), shown=shown)


def _listed(file: Path) -> Iterator[str]:
    """Paths of a list, one a line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list {file} cannot be read ({error}); expected a path a line") from error
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise InputError(f"list {file}:{number} is no path (it holds a NUL byte)")
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _walked(folder: Path) -> Iterator[str]:
    """Image files of a folder and all folders in it, by name, each folder's own files first.

    What is left out is counted and named.
    """
    others: list[str] = []

    def refuse(error: OSError) -> None:
        raise InputError(
            f"folder {error.filename} cannot be read ({error.strerror}); change its permissions"
        ) from error

    for where, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = [name for name in sorted(files) if not name.startswith(".")]
        yield from (str(Path(where, name)) for name in visible if is_image(name))
        others += [str(Path(where, name)) for name in visible if not is_image(name)]
    if others:
        log.warning(
            "%s: %d files left out, not images: %s", folder, len(others), some_names(others)
        )


def _matching(pattern: Path) -> list[str]:
    """Image files that match a pattern, by name."""
    root = _fixed_part(pattern)
    return [
        str(path)
        for path in sorted(root.glob(str(pattern.relative_to(root))))
        if is_image(path.name)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def _fixed_part(pattern: Path) -> Path:
    """The folder of a pattern above its first wildcard."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if any(mark in part for mark in WILDCARDS))
    return Path(*parts[:first])


def _require_apart(images: Path, output: Path) -> None:
    """Refuse an output inside a folder of images: what is written would be read the next time."""
    where = Path(os.path.realpath(output))
    if Path(os.path.realpath(images)) in (where, *where.parents):
        raise UsageError(
            f"-o {output} lies in {images}, whose folders are all searched for images; choose "
            "another"
        )


def _require_own_files(
    images: Mapping[str, ImageSource],
    output: Path,
    writes: Sequence[Write],
    contract: OutputContract,
) -> None:
    """Refuse two images that would write one file, and a file that would replace an image.

    Args:
        images: real path to image.
        output: folder that is written to.
        writes: what is written for each image.
        contract: the model's output contract.
    """
    written: dict[str, ImageSource] = {}
    root = Path(os.path.realpath(output))
    for source in images.values():
        files = files_of(source.name, writes, contract)
        for file in (file for _, _, file in files):
            other = written.setdefault(file, source)
            if other is not source:
                raise UsageError(
                    f"{other.path} and {source.path} would both write {file}; rename one, or give "
                    "the folder that holds both, whose structure is kept"
                )
            if (image := images.get(str(root / file))) is not None:
                raise UsageError(
                    f"-o {output}: what is written for {source.path} would replace the image "
                    f"{image.path}; choose another"
                )


def _real_paths() -> Callable[[str], str]:
    """Function from a path to the one without links in its folders, which are looked up once."""
    folders: dict[str, Path] = {}

    def real(path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = Path(os.path.realpath(folder))
        return str(folders[folder] / name)

    return real
