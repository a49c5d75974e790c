"""Draw the bundled sample from a prepared DSB2018 folder.

``python examples/make_sample.py PREPARED_DSB2018 examples/dsb2018_sample``

Calibration images come from the train split and evaluation images from the test split, each
stratified by modality and image size with a fixed seed; nothing is chosen by how well a network
does on it. Pixels are unchanged; grey images are stored in one channel to save space.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 50, "test": 64}
SEED = 2018


def draw(rows: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """A stratified draw: largest remainders, at least the floor of each stratum's share."""
    strata: dict[tuple[str, ...], list[dict[str, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["image_id"]):
        strata[row["modality"], row["width"], row["height"]].append(row)
    shares = {key: len(group) * count / len(rows) for key, group in strata.items()}
    taken = {key: int(share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: (taken[key] - shares[key], key))
    for key in by_remainder[: count - sum(taken.values())]:
        taken[key] += 1
    generator = np.random.default_rng(SEED)
    return [
        strata[key][index]
        for key in sorted(strata)
        for index in sorted(generator.permutation(len(strata[key]))[: taken[key]])
    ]


def main(source: Path, output: Path) -> None:
    """Write images/, masks/ and splits.csv of the sample."""
    with (source / "splits.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [
        row
        for split, count in COUNTS.items()
        for row in draw([row for row in rows if row["split"] == split], count)
    ]
    for folder in ("images", "masks"):
        (output / folder).mkdir(parents=True, exist_ok=True)
        for row in chosen:
            with Image.open(source / folder / f"{row['image_id']}.png") as stored:
                image = stored.convert("RGB") if folder == "images" else stored.convert("1")
            if folder == "images":
                pixels = np.asarray(image)
                if (pixels == pixels[..., :1]).all():
                    image = Image.fromarray(pixels[..., 0])
            image.save(output / folder / f"{row['image_id']}.png", optimize=True)
    with (output / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(chosen[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(chosen, key=lambda row: row["image_id"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
