"""Which file of a device's outputs belongs to which evaluation image."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from pathlib import Path
from unicodedata import normalize

from segdeploy.deploy.data.name_order import counted, telling_numbers
from segdeploy.deploy.system.errors import InputError

log = logging.getLogger(__name__)

NAMED = 6
"""Files that a message names; of the others it gives the number."""

_OF_OUTPUT = re.compile(r"(.+)_[0-9]+")
"""``NAME_0``: the input's name and the number of the network's output, as ais_bench writes it."""

_NUMBER_ALONE = re.compile(r"[0-9]+(_[0-9]+)?")
"""A file's name that can be an image's and a place in the order."""


def paired_files(
    folder: Path, names: Sequence[str], *, suffixes: Collection[str], order: Path | None = None
) -> list[Path]:
    """The output of each image, by name wherever names tell.

    A file is of the image whose name it bears: ``NAME`` or, where that holds of every image,
    ``NAME_0`` with the number of the output. Files that bear no image's name and are numbered and
    nothing else (``out_9``, ``out_10``) are of the lines of ``order``, the smallest number of the
    first line.

    Args:
        folder: with the files; others in it are left out, and said.
        names: of the evaluation images.
        suffixes: of the files to take, in lower case.
        order: a text file with the path of one input a line, in the order in which the device
            took them.

    Returns:
        One file for each of ``names``.

    Raises:
        InputError: an image without a file, two files for one image, numbers with a gap, files
            whose names say something else than their numbers, or an order that cannot be read.
    """
    names = [normalize("NFC", name) for name in names]
    files = _outputs(folder, suffixes)
    inputs = None if order is None else _inputs(order, len(files))
    found = _by_name(files, names)
    if order is not None and inputs is not None:
        found = _beside_order(files, names, found, inputs, order)
    missing = [name for name in names if name not in found]
    used = {found[name] for name in names if name in found}
    extra = [path.name for path in files if path not in used]
    if missing:
        raise InputError(
            f"{folder} has no output of {len(missing)} of {len(names)} images: {some(missing)}; "
            f"expected {missing[0]}.npz, .npy or .png"
            + (f". Of no image of the set: {some(extra)}" if extra else "")
            + ("" if order else ". Numbered outputs need --predictions-order")
        )
    if extra:
        log.warning("%s: %d files left out, of no image: %s", folder, len(extra), some(extra))
    return [found[name] for name in names]


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _outputs(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files to pair, in the order in which numbers count."""
    if not folder.is_dir():
        raise InputError(f"--predictions {folder} is no folder; expected one file for each image")
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return sorted(
        (path for path in files if not path.name.startswith(".")),
        key=lambda path: counted(path.name),
    )


def _inputs(order: Path, outputs: int) -> list[str]:
    """The names of the inputs, in the order in which the device took them."""
    try:
        lines = [line.strip() for line in order.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--predictions-order {order} cannot be read ({error})") from error
    if len(lines) != outputs:
        raise InputError(
            f"--predictions-order {order} lists {len(lines)} inputs, the folder holds "
            f"{outputs} outputs; expected as many"
        )
    names = [normalize("NFC", Path(line).stem) for line in lines]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(
            f"--predictions-order {order} lists {some(twice)} more than once; expected every input "
            "once"
        )
    return names


def _by_name(files: Sequence[Path], names: Sequence[str]) -> dict[str, Path]:
    """The file that bears each image's name, as far as there is one.

    Where every image has a file of its plain name, or every one has a file of its name and a
    number, that form is taken; where neither holds, the form that fits more of them.
    """
    plain = _of_images(files, names, lambda stem: stem)
    numbered = _of_images(files, names, _without_output)
    forms = [form for form in (plain, numbered) if len(form) == len(names)]
    if len(forms) == 2:
        forms = [{name: [*plain[name], *numbered[name]] for name in names}]
    (chosen,) = forms or [max(plain, numbered, key=len)]
    for name, paths in chosen.items():
        if len(paths) > 1:
            raise InputError(
                f"{paths[0]} and {paths[1]} are both of image {name}; keep one of them"
            )
    return {name: path for name, (path,) in chosen.items()}


def _of_images(
    files: Sequence[Path], names: Sequence[str], name_of: Callable[[str], str | None]
) -> dict[str, list[Path]]:
    """The files of each image that has any; composed and decomposed characters are one."""
    wanted = set(names)
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        name = name_of(normalize("NFC", path.stem))
        if name in wanted:
            found[name].append(path)
    return dict(found)


def _without_output(stem: str) -> str | None:
    match = _OF_OUTPUT.fullmatch(stem)
    return match and match[1]


def _beside_order(
    files: Sequence[Path],
    names: Sequence[str],
    named: dict[str, Path],
    inputs: Sequence[str],
    order: Path,
) -> dict[str, Path]:
    """The file of each image: by name, or by number where the names say nothing."""
    unlisted = sorted(set(names) - set(inputs), key=counted)
    if unlisted and len(named) == len(names):
        raise InputError(
            f"--predictions-order {order} does not list {some(unlisted)}, of which there are "
            "outputs; is it the list of this run?"
        )
    if named and not all(_NUMBER_ALONE.fullmatch(path.stem) for path in files):
        return named
    gap = _gap(files)
    if gap and named:
        return named
    if gap:
        raise InputError(
            f"{some([path.name for path in files])} bear no image's name and {gap}; "
            f"--predictions-order {order} cannot tell whose they are"
        )
    placed = dict(zip(inputs, files, strict=True))
    if len(named) < len(names):
        return placed
    _require_agreement(named, placed, order)
    return named


def _gap(files: Sequence[Path]) -> str | None:
    """Why the files are not numbered one after the other."""
    numbers = telling_numbers([path.stem for path in files])
    if numbers is None:
        return "are not numbered and nothing else"
    missing = next((n + 1 for n, after in pairwise(numbers) if after != n + 1), None)
    return None if missing is None else f"number {missing} is missing among them"


def _require_agreement(named: dict[str, Path], placed: dict[str, Path], order: Path) -> None:
    """Numbers alone can be names and places; where both fit, they must say the same."""
    for name, path in named.items():
        if placed[name] != path:
            raise InputError(
                f"{path.name} is of image {name} by its name, but --predictions-order {order} puts "
                f"{placed[name].name} there; leave the order out where files bear the images' names"
            )
