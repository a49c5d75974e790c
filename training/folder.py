"""The folder of a training: whose it is, and what each epoch writes to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from segdeploy.deploy.system.checksums import CHECKSUMS, write_checksums
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.files import BEST_FILE, FILES, LAST_FILE, RANGES_FILE, STATE_FILE
from segdeploy.training.history import (
    EpochFigures,
    best_of,
    write_curves,
    write_history,
)
from segdeploy.training.recipe import Recipe
from segdeploy.training.slimming import complete_from
from segdeploy.training.state import NOT_BEGUN, save_state

Save = Callable[[Path, Mapping[str, str]], None]


def claim(output: Path, *, overwrite: bool) -> None:
    """Make a folder ready, held by ``writing_folder``: what is there goes, stays, or is refused.

    Raises:
        UsageError: checkpoints without the state to go on from.
        OSError: the folder cannot be written.
    """
    if overwrite:
        save_state(NOT_BEGUN, output)  # first: a killed start must not look like the old end
        for path in {*_files(output), output / CHECKSUMS} - {output / STATE_FILE}:
            path.unlink(missing_ok=True)
    if (output / STATE_FILE).exists():
        return
    if (output / BEST_FILE).exists():
        raise UsageError(
            f"{output / BEST_FILE} exists, but no {STATE_FILE} to go on from; choose another "
            "folder, or start over with --overwrite"
        )
    save_state(NOT_BEGUN, output)


def finish(output: Path, history: Sequence[EpochFigures], recipe: Recipe) -> None:
    """Draw the curves and list the bytes of every file, unless it was finished before.

    Raises:
        OSError: the folder cannot be written.
    """
    if (output / CHECKSUMS).exists():
        return
    write_curves(history, output, since=complete_from(recipe))
    write_checksums(output, [path.name for path in _files(output)])


def _files(output: Path) -> list[Path]:
    """Every file of a training that is there."""
    stem = Path(BEST_FILE).stem
    int8 = sorted(output.glob(f"{stem}.int8.*.onnx"))
    names = [*FILES, RANGES_FILE, f"{stem}.sim.onnx", f"{stem}.calib.json"]
    return [path for path in (*(output / name for name in names), *int8) if path.is_file()]


def write_epoch(
    save: Save,
    recipe: Recipe,
    history: Sequence[EpochFigures],
    output: Path,
) -> None:
    """Checkpoints and figures of the epoch that just ended, each file whole or not at all.

    Args:
        save: writes the weights that were evaluated to a file, with metadata beside its own.
        recipe: says from which epoch on one can be the best.
        history: of all epochs so far.
        output: the folder.

    Raises:
        OSError: the folder cannot be written.
    """
    figures = history[-1]
    metadata = {
        "epoch": str(figures.epoch),
        "val_iou": f"{figures.val_iou:.3f}",
    }
    is_best = best_of(history, since=complete_from(recipe)).epoch == figures.epoch
    for name in (LAST_FILE, BEST_FILE) if is_best else (LAST_FILE,):
        save(output / name, metadata)
    write_history(history, output)
