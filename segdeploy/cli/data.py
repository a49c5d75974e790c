"""``segdeploy data``: datasets as they are published, into the prepared folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from segdeploy.cli.flags import (
    LAYOUTS,
    Group,
    count,
    output_flag,
    overwrite_flag,
    range_flag,
)
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy.system.flag_values import level

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """A folder as it is published, and how to divide it."""
    verb.add_argument("action", choices=("prepare",), help="what to do")
    verb.add_argument("raw", type=Path, help="folder of the dataset, unpacked")
    verb.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="auto",
        help="how the folder is laid out (default: auto, told from its folders)",
    )
    verb.add_argument(
        "--images",
        metavar="PATTERN",
        help="of any other layout: the images inside RAW, in quotes; * and ? stand for parts of a "
        "name, **/ for folders ('scans/*/t1.png'); with --masks",
    )
    verb.add_argument(
        "--masks",
        metavar="PATTERN",
        help="the masks, with as many wildcards; what they match pairs masks with images "
        "('scans/*/seg.tif')",
    )
    verb.add_argument(
        "--foreground",
        nargs="+",
        metavar="VALUE",
        help="which values of masks are foreground: any (all but 0), numbers, ranges such as "
        "125-255, colours such as ff0000, or alpha (what is not transparent) (default: told from "
        "the values; what may mean several things is refused)",
    )
    verb.add_argument(
        "--label-maps",
        action="store_true",
        help="masks hold the class of each pixel, for a network of several classes: kept as they "
        "are",
    )
    levels = verb.add_mutually_exclusive_group()
    range_flag(
        levels,
        of="images of 16 bits, to make a set of 8",
        default="images keep the bits they have",
    )
    levels.add_argument(
        "--range-percentiles",
        type=level,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="the levels below which these shares of all pixels of the set lie, as 0.5 99.5; "
        "computed once, and said as the --range they are",
    )
    verb.add_argument(
        "--page",
        type=count,
        metavar="N",
        help="of files of several pages (OME-TIFF, GIF): which is the image, from 0",
    )
    output_flag(
        verb,
        "folder to write images/, masks/, splits.csv and, for DRIVE, fov/ to",
        required=True,
    )
    overwrite_flag(verb, "the set that the folder holds")
    verb.add_argument("--seed", type=count, default=0, help="of the split (default: 0)")
    verb.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits (default: 0.7 0.1 0.2; DRIVE: 0.8 0.2 0 of its training folder; "
        "not where the dataset gives each split)",
    )


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Prepare a dataset."""
    from segdeploy.api.prepare import prepare
    from segdeploy.deploy.data.splits import SPLITS, read_splits

    prepared = prepare(
        options.raw,
        options.output,
        layout=options.layout,
        seed=options.seed,
        ratios=None if options.ratios is None else tuple(options.ratios),
        images=options.images,
        masks=options.masks,
        foreground=options.foreground,
        label_maps=options.label_maps,
        levels=None if options.levels is None else tuple(options.levels),
        percentiles=None if options.range_percentiles is None else tuple(options.range_percentiles),
        page=options.page,
        overwrite=options.overwrite,
    )
    found = list(read_splits(prepared.root / "splits.csv").values())
    counts = {split: found.count(split) for split in SPLITS}
    shown = ", ".join(f"{count} {split}" for split, count in counts.items())
    log.info("%s: %d images (%s)", options.output, len(found), shown)
    return 0, {"output": str(options.output), "images": len(found), "splits": counts}
