"""The folder of a training: whose it is, and what each epoch writes to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import save_checkpoint, save_weights
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.system.checksums import CHECKSUMS, write_checksums
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.files import BEST_FILE, FILES, LAST_FILE, STATE_FILE
from segdeploy.training.heads import HeadedModule
from segdeploy.training.history import (
    EpochFigures,
    best_of,
    write_curves,
    write_history,
)
from segdeploy.training.recipe import Recipe
from segdeploy.training.slimming import complete_from
from segdeploy.training.state import NOT_BEGUN, save_state


def claim(output: Path, *, overwrite: bool) -> None:
    """Make a folder ready, held by ``writing_folder``: what is there goes, stays, or is refused.

    Raises:
        UsageError: checkpoints without the state to go on from.
        OSError: the folder cannot be written.
    """
    if overwrite:
        save_state(NOT_BEGUN, output)  # first: a killed start must not look like the old end
        for name in {*FILES, CHECKSUMS} - {STATE_FILE}:
            (output / name).unlink(missing_ok=True)
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
    write_checksums(output, [name for name in FILES if (output / name).is_file()])


def write_epoch(
    average: Network | HeadedModule,
    recipe: Recipe,
    history: Sequence[EpochFigures],
    preprocess: Preprocess,
    output: Path,
) -> None:
    """Checkpoints and figures of the epoch that just ended, each file whole or not at all.

    Args:
        average: the weights that were evaluated.
        recipe: goes into the checkpoints' metadata.
        history: of all epochs so far.
        preprocess: the input contract.
        output: the folder.

    Raises:
        OSError: the folder cannot be written.
    """
    figures = history[-1]
    metadata = {
        "recipe": recipe.to_json(of_module=isinstance(average, HeadedModule)),
        "epoch": str(figures.epoch),
        "val_iou": f"{figures.val_iou:.3f}",
    }
    is_best = best_of(history, since=complete_from(recipe)).epoch == figures.epoch
    for name in (LAST_FILE, BEST_FILE) if is_best else (LAST_FILE,):
        if isinstance(average, HeadedModule):
            own = {"preprocess": preprocess.to_json(), "network": type(average.module).__name__}
            save_weights(average.plain_weights(), output / name, metadata=metadata | own)
        else:
            save_checkpoint(average, output / name, preprocess=preprocess, metadata=metadata)
    write_history(history, output)
