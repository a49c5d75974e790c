"""Turn a dataset as its publisher ships it into the prepared layout, the only one read elsewhere.

``images/<name>``, ``masks/<name>.png``, ``splits.csv`` and, where the dataset says which pixels
count, ``fov/<name>.png``.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from segdeploy.calibration.files import remove_partial
from segdeploy.deploy.data.image_files import image_files, some_names
from segdeploy.deploy.data.layouts.base import Layout, RawSample
from segdeploy.deploy.data.layouts.division import Ratios, divide, require_shares
from segdeploy.deploy.data.layouts.pairing import SOURCE_SUFFIXES, files_below
from segdeploy.deploy.data.layouts.registry import AUTO, layout_of
from segdeploy.deploy.data.mask_files import BinaryMask, Foreground, Reading
from segdeploy.deploy.data.prepared_files import Prepared, targets, write_image, write_splits
from segdeploy.deploy.data.preprocess import Pixels
from segdeploy.deploy.data.raw_images import RawImages, percentile_levels, shown
from segdeploy.deploy.data.splits import require_plain_name
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.only_writer import writing_folder
from segdeploy.deploy.system.progress import ItemProgress

log = logging.getLogger(__name__)

FOLDERS = ("images", "masks", "fov")


def prepare_raw(
    raw: Path,
    output: Path,
    *,
    layout: str | Layout = AUTO,
    seed: int = 0,
    ratios: Ratios | None = None,
    foreground: Foreground | None = None,
    label_maps: bool = False,
    images: RawImages | None = None,
    percentiles: tuple[float, float] | None = None,
    progress: ItemProgress[RawSample] = iter,
) -> tuple[Prepared, ...]:
    """Write ``images/``, ``masks/``, ``splits.csv`` and where the layout has them ``fov/``.

    One image is in memory at a time. Masks of single objects are merged by OR; images lose their
    alpha channel; images of equal pixels share a split.

    Args:
        raw: the folder of the dataset.
        output: where to write; files of the same name are replaced.
        layout: one of ``LAYOUT_NAMES``, "auto" recognises it; or a layout.
        seed: of the split.
        ratios: shares of train, val and test for the images whose split is drawn; the layout's
            own for ``None``.
        foreground: which values of masks are; ``None`` tells from the values.
        label_maps: masks hold the class of each pixel, and stay what they are.
        images: by which levels and pages images are read; ``None`` keeps the bits they have.
        percentiles: of all pixels of the set, which become the levels of ``images``.
        progress: wraps the images, for a progress bar.

    Returns:
        The rows of ``splits.csv``, by name.

    Raises:
        InputError: no such layout, an image without a mask or the reverse, a file that cannot be
            decoded or has another size, or equal images in splits that the dataset gives; the
            message names the files. ``splits.csv`` is written last, so a failed run is never
            taken for a prepared set; a folder whose files do not pair up is refused before
            anything is touched.
        UsageError: ratios that are no shares or have nothing to divide, an unknown layout, or an
            output folder that holds other images, is the raw folder, or that another process
            writes to.
    """
    if ratios is not None:
        require_shares(ratios)
    if foreground is not None and label_maps:
        raise UsageError("label maps keep their values, so nothing of them is made foreground")
    chosen = layout if isinstance(layout, Layout) else layout_of(raw, layout)
    sources = chosen.sources(raw, ratios)
    _require_consistent(raw, sources, ratios)
    if label_maps and not all(source.masks and not source.instances for source in sources):
        raise UsageError(
            f"{raw} holds several masks for an image, one for each object or class: no label maps"
        )
    images = images or RawImages()
    if percentiles is not None:
        images = replace(
            images, levels=_measured([each.image for each in sources], percentiles, images.page)
        )
    written = _written(sources, images)
    _require_own_folder(raw, output, sources, written)
    log.info("%s: %d images laid out as %s", raw, len(sources), chosen.name)
    _say_left_out(raw, sources)
    with writing_folder(output):
        for folder in written:
            (output / folder).mkdir(parents=True, exist_ok=True)
            remove_partial(output / folder)
        (output / "splits.csv").unlink(missing_ok=True)
        write = partial(
            write_image,
            output=output,
            images=images,
            foreground=foreground,
            label_maps=label_maps,
        )
        found, twins = _convert(progress(sources), images, write, chosen)
        shares = chosen.ratios if ratios is None else ratios
        rows = _with_splits(found, chosen, seed=seed, ratios=shares, twins=twins)
        write_splits(rows, output / "splits.csv")
        return rows


def _measured(
    paths: Sequence[Path], percentiles: tuple[float, float], page: int | None
) -> tuple[int, int]:
    """The levels at two percentiles, said as numbers."""
    low, high = percentile_levels(paths, percentiles, page=page)
    log.info(
        "percentiles %g and %g of %d images: levels %d to %d become 0 to 255, as with --range "
        "%d %d",
        *percentiles,
        len(paths),
        low,
        high,
        low,
        high,
    )
    return low, high


def _require_consistent(raw: Path, sources: Sequence[RawSample], ratios: Ratios | None) -> None:
    if not sources:
        _require_images(raw)
    first: dict[str, RawSample] = {}
    for source in sources:
        require_plain_name(source.name, where=str(raw))
        twin = first.setdefault(source.name.casefold(), source)
        if twin is not source:
            but = "" if twin.name == source.name else " but for upper and lower case"
            raise InputError(
                f"images {twin.image} and {source.image} share the name {source.name!r}{but}; an "
                "image has one split and files of its own, so remove or rename one"
            )
    if ratios is not None and all(source.split is not None for source in sources):
        raise UsageError(f"ratios {ratios} have nothing to divide: {raw} says each image's split")


def _require_images(raw: Path) -> None:
    """Say why a folder that was recognised gave no images."""
    files = [path.relative_to(raw).as_posix() for path in files_below(raw)]
    images = [name for name in files if name.lower().endswith(SOURCE_SUFFIXES)]
    if not files:
        raise InputError(f"{raw} holds no images; its folders are empty")
    if not images:
        raise InputError(
            f"{raw} holds no images ({', '.join(SOURCE_SUFFIXES)}), but {some_names(files)}"
        )
    raise InputError(
        f"{raw} holds {len(images)} images, but none where its layout has them: "
        f"{some_names(images)}. Say where they are with --images and --masks"
    )


def _say_left_out(raw: Path, sources: Sequence[RawSample]) -> None:
    """Name the images of a folder that no sample has, and what was not taken for an image."""
    used = {path for source in sources for path in source.files}
    rest = [path for path in files_below(raw) if path not in used]
    left = [
        path.relative_to(raw).as_posix()
        for path in rest
        if path.suffix.lower() not in (".csv", ".txt", ".md", ".json")
    ]
    if left:
        log.warning("%d files of %s are left out: %s", len(left), raw, some_names(left))


def _require_own_folder(
    raw: Path, output: Path, sources: Sequence[RawSample], written: dict[str, set[str]]
) -> None:
    """Refuse an output whose own images would mix with the new ones, or that is the source."""
    if os.path.realpath(output) == os.path.realpath(raw):
        raise UsageError(f"-o {output} is the raw folder itself; choose another")
    parents = {path.parent for source in sources for path in source.files}
    read = {os.path.realpath(parent) for parent in parents}
    for folder in written:
        if os.path.realpath(output / folder) in read:
            raise UsageError(
                f"-o {output}: {output / folder} is a folder of {raw} itself; choose another"
            )
    for folder in (*FOLDERS, *(name for name in written if name not in FOLDERS)):
        for path in image_files(output / folder):
            if path.name not in written.get(folder, ()):
                raise UsageError(f"-o {output} holds {path}, which is not of {raw}; choose another")


def _written(sources: Sequence[RawSample], images: RawImages) -> dict[str, set[str]]:
    """Folder of the prepared set to the names of all files written there."""
    written: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for folder, file in targets(source, images).items():
            written[folder].add(file)
    return written


def _convert(
    sources: Iterable[RawSample],
    images: RawImages,
    write: Callable[[RawSample, Pixels], BinaryMask | None],
    layout: Layout,
) -> tuple[list[Prepared], list[list[str]]]:
    """Write every image.

    Returns:
        The rows, with an empty split where it is still to be drawn, and the names of equal images
        in groups.
    """
    rows: list[Prepared] = []
    first: list[tuple[Path, int]] = []
    groups: dict[bytes, list[RawSample]] = defaultdict(list)
    readings: Counter[Reading] = Counter()
    empty = 0
    for source in sources:
        image = images.read(source.image)
        _require_one_depth(first, source.image, image)
        mask = write(source, image)
        if mask is not None:
            readings[mask.reading] += 1
            empty += not mask.grey.any()
        rows.append(_row(source, image, mask, layout))
        digest = _digest(image)
        groups[digest].append(source)
        _require_one_split(groups[digest][0], source)
    _say_masks(readings, empty, instances=any(row.nuclei is not None for row in rows))
    return rows, [[twin.name for twin in group] for group in groups.values() if len(group) > 1]


def _require_one_depth(first: list[tuple[Path, int]], path: Path, image: Pixels) -> None:
    """Refuse images of other bits than the first: a network takes one kind."""
    bits = 8 * image.dtype.itemsize
    if not first:
        first.append((path, bits))
    if first[0][1] != bits:
        raise InputError(
            f"image {path} has {bits} bits a channel, and {first[0][0]} has {first[0][1]}; a set "
            "has images of one kind: convert the few, or all of 16 bits with --range LOW HIGH"
        )


def _row(source: RawSample, image: Pixels, mask: BinaryMask | None, layout: Layout) -> Prepared:
    return Prepared(
        image_id=source.name,
        split=source.split or "",
        width=image.shape[1],
        height=image.shape[0],
        nuclei=None if mask is None else mask.objects,
        modality=layout.stratum(shown(image)),
    )


def _digest(image: Pixels) -> bytes:
    """Of an image's pixels."""
    digest = hashlib.sha256(str(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _say_masks(readings: Counter[Reading], empty: int, *, instances: bool) -> None:
    """What masks were taken for, where they are not plainly background and foreground.

    Raises:
        InputError: not one holds what was stated to be foreground.
    """
    if empty and empty == readings[Reading.STATED]:
        raise InputError(
            f"not one of {empty} masks holds what --foreground states; look at their values, or "
            "leave it out to have them named"
        )
    for reading, count in sorted(readings.items()):
        if reading is not Reading.GREY and not (reading is Reading.OBJECTS and instances):
            log.info("%d masks hold %s: foreground is what that marks", count, reading.value)
    if empty:
        log.info("%d images hold no object: their masks are empty", empty)


def _require_one_split(first: RawSample, second: RawSample) -> None:
    """Refuse equal images in two splits that the dataset gives: figures would be void."""
    if first.split != second.split:
        one, other = (
            f"image {source.image} ({source.split or 'to be divided'})"
            for source in (first, second)
        )
        raise InputError(
            f"{one} and {other} hold the very same pixels; an image has one split, so remove one"
        )


def _with_splits(
    found: Sequence[Prepared],
    layout: Layout,
    *,
    seed: int,
    ratios: Ratios,
    twins: Sequence[Sequence[str]],
) -> tuple[Prepared, ...]:
    """The rows by name, with the splits that were given and those that are drawn now."""
    if twins:
        log.info("%d images have the pixels of another; equals share a split", sum(map(len, twins)))
    open_rows = {row.image_id: row for row in found if not row.split}
    splits = divide(
        {name: row.modality or "" for name, row in open_rows.items()},
        sizes=layout.sizes,
        seed=seed,
        ratios=ratios,
        twins=[group for group in twins if group[0] in open_rows],
    )
    rows = (replace(row, split=row.split or splits[row.image_id]) for row in found)
    return tuple(sorted(rows, key=lambda row: row.image_id))
