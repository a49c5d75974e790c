"""The figures of each epoch: a CSV file, a plot, and TensorBoard where it is asked for."""

from __future__ import annotations

import csv
import importlib
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdeploy.calibration.files import atomic_writer, write_atomic
from segdeploy.deploy.system.errors import RunError

log = logging.getLogger(__name__)

HISTORY_FILE = "history.csv"
CURVES_FILE = "curves.png"


@dataclass(frozen=True, kw_only=True)
class EpochFigures:
    """One epoch.

    Attributes:
        epoch: from 1.
        train_loss: mean over the steps, of all processes.
        val_loss: mean over the validation images, of the averaged weights.
        val_iou: published IoU in percent, of the averaged weights.
        learning_rate: of the last step.
        images_per_s: training images over the time of all steps, of all processes.
        seconds: of the epoch with its validation.
    """

    epoch: int
    train_loss: float
    val_loss: float
    val_iou: float
    learning_rate: float
    images_per_s: float
    seconds: float


def best_of(history: Sequence[EpochFigures], *, since: int = 1) -> EpochFigures:
    """The epoch with the best validation IoU, the first of equals.

    Args:
        history: at least one epoch.
        since: the first epoch that counts; as long as there is none, the last epoch is taken.
    """
    counted = [figures for figures in history if figures.epoch >= since] or history[-1:]
    return max(counted, key=lambda figures: (figures.val_iou, -figures.epoch))


def write_history(history: Sequence[EpochFigures], folder: Path) -> None:
    """Write ``history.csv``, whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, fieldnames=list(vars(history[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(figures) for figures in history)
    write_atomic(folder / HISTORY_FILE, stream.getvalue().encode())


def write_curves(history: Sequence[EpochFigures], folder: Path, *, since: int = 1) -> bool:
    """Write ``curves.png``: losses and validation IoU over the epochs.

    Args:
        history: at least one epoch.
        folder: where to write.
        since: the first epoch that may be the best.

    Returns:
        Whether it was written: not without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    epochs = [figures.epoch for figures in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, ious = figure.subplots(1, 2)
    losses.plot(epochs, [f.train_loss for f in history], label="train (augmented)")
    losses.plot(epochs, [f.val_loss for f in history], label="validation (averaged weights)")
    losses.set(title="Loss", xlabel="epoch", ylim=(0, None))
    losses.legend()
    best = best_of(history, since=since)
    ious.plot(epochs, [f.val_iou for f in history])
    ious.plot([best.epoch], [best.val_iou], "o", label=f"best: {best.val_iou:.2f} at {best.epoch}")
    ious.set(title="Validation IoU, percent", xlabel="epoch")
    ious.legend()
    for axes in (losses, ious):
        axes.grid(alpha=0.3)
    with atomic_writer(folder / CURVES_FILE) as stream:
        figure.savefig(stream, format="png", dpi=120)
    return True


class Board:
    """TensorBoard scalars in ``folder/tensorboard``; without ``enabled`` nothing is written.

    The events are written here, and not by PyTorch's ``SummaryWriter``, whose files are called
    after the machine.

    Raises:
        RunError: the tensorboard package is missing.
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._writer: Any = None
        if not enabled:
            return
        try:
            events = importlib.import_module("tensorboard.compat.proto.event_pb2")
            summaries = importlib.import_module("tensorboard.compat.proto.summary_pb2")
            records = importlib.import_module("tensorboard.summary.writer.record_writer")
        except ImportError as error:
            raise RunError(
                "--tensorboard needs the tensorboard package: pip install 'segdeploy[plots]'"
            ) from error
        self._event: Any = events.Event
        self._summary: Any = summaries.Summary
        path = folder / "tensorboard" / f"events.out.tfevents.{time.time():.6f}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = records.RecordWriter(path.open("ab"))
        self._write(file_version="brain.Event:2")

    def add(self, figures: EpochFigures) -> None:
        """Every figure of one epoch."""
        if self._writer is None:
            return
        scalars = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in vars(figures).items()
            if name != "epoch"
        ]
        self._write(step=figures.epoch, summary=self._summary(value=scalars))

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, **fields: object) -> None:
        """One record, at once on disk, where TensorBoard looks for it while the training runs."""
        event = self._event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())
        self._writer.flush()
