"""Train what is not cached, measure what is not measured: the zoo from start to end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from segdeploy.benchmarks.peers.contenders import Contender
from segdeploy.benchmarks.peers.zoo.measure import (
    Plan,
    measure_network,
    stored_cells,
    stored_timing,
)
from segdeploy.benchmarks.peers.zoo.networks import ZOO, Entry
from segdeploy.benchmarks.peers.zoo.page import Result
from segdeploy.benchmarks.peers.zoo.weights import weights_of
from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.splits import read_splits
from segdeploy.deploy.system.errors import SegdeployError, UsageError
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.system.shown_command import shown_text

log = logging.getLogger(__name__)


def chosen(only: Sequence[str] | None) -> tuple[Entry, ...]:
    """The networks asked for, in the order of the table.

    Raises:
        UsageError: a name that is none.
    """
    for name in only or ():
        if name not in ZOO:
            raise UsageError(f"--only {name}: expected one of {', '.join(ZOO)}")
    return tuple(entry for name, entry in ZOO.items() if not only or name in only)


def validation_of(data: Path) -> SegmentationSet | None:
    """The images that accuracy control scores: the val split; ``None`` where there is none.

    Raises:
        InputError: the split lists what is not there.
    """
    splits = data / "splits.csv"
    if splits.exists() and "val" in read_splits(splits).values():
        return open_set(data, "val")
    return None


def train_all(
    entries: Sequence[Entry], *, cache: Path, data: Path, images: SegmentationSet, threads: int
) -> dict[str, Path | str]:
    """Weights of each network, or the reason why there are none."""
    found: dict[str, Path | str] = {}
    for entry in entries:
        try:
            found[entry.name] = weights_of(
                entry, cache=cache, data=data, images=images, threads=threads
            )
            log.info("%s: %s", entry.name, found[entry.name])
        except SegdeployError as error:
            found[entry.name] = shown_text(str(error))
            log.warning("%s is left out: %s", entry.name, found[entry.name])
    return found


def measure_all(
    entries: Sequence[Entry],
    weights: dict[str, Path | str],
    plan: Plan,
    *,
    bar: LabelledProgress[Contender],
) -> list[Result]:
    """Every network with every tool; one that cannot be measured is a reason."""
    results = []
    for entry in entries:
        given = weights[entry.name]
        if isinstance(given, str):
            results.append(Result(network=entry.name, skipped=given))
            continue
        try:
            cells, timing = measure_network(entry, given, plan, bar=bar)
        except SegdeployError as error:
            results.append(Result(network=entry.name, skipped=shown_text(str(error))))
            continue
        results.append(Result(network=entry.name, cells=tuple(cells), timing=timing))
    return results


def stored(entries: Sequence[Entry], output: Path) -> list[Result]:
    """What earlier runs measured, of the networks of which they measured anything.

    Raises:
        InputError: a file of theirs is damaged.
        UsageError: nothing was measured.
    """
    results = []
    for entry in entries:
        cells = stored_cells(output / entry.name)
        if cells:
            timing = stored_timing(output / entry.name, cells)
            results.append(Result(network=entry.name, cells=tuple(cells), timing=timing))
    if not results:
        raise UsageError(f"-o {output} holds no figures of the zoo; measure without --summary")
    return results
