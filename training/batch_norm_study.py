"""When to freeze R2U-Net's BatchNorm statistics: ``python -m segdeploy.training.batch_norm_study``.

Trains a narrow R2U-Net once for each form, everything else equal, and prints the validation IoU:
statistics that move to the end, as is usual; the same network with its statistics estimated again
on the train images; and statistics that are frozen early or late, each with averaged weights and
without.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from segdeploy.deploy.data.image_set import SegmentationSet, open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.command import guarded, print_json
from segdeploy.deploy.system.flag_values import count, positive_int
from segdeploy.training.augmentation import MILD
from segdeploy.training.batch_norm import reestimate_statistics
from segdeploy.training.evaluate import ValidationSet, evaluate
from segdeploy.training.files import LAST_FILE
from segdeploy.training.loop import Settings, train
from segdeploy.training.losses import bce_dice
from segdeploy.training.recipe import Recipe

log = logging.getLogger(__name__)

INSTANT = 0.0
"""The decay of a weight average that keeps nothing of the past."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to treat the statistics, and the validation IoU (percent) it led to."""

    statistics: str
    averaged_weights: bool
    last_val_iou: float
    best_val_iou: float | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; exit codes and streams are those of ``segdeploy``."""
    options = _parser().parse_args(argv)

    def run() -> int:
        torch.set_num_threads(options.threads or usable_cores())
        forms = []
        log.info("| statistics | averaged weights | val IoU, last epoch | best epoch |")
        log.info("| --- | --- | ---: | ---: |")
        every = study(
            options.data,
            options.output,
            width=options.width,
            epochs=options.epochs,
            settings=Settings(device=options.device, workers=options.workers, quiet=True),
        )
        for form in every:
            forms.append(asdict(form))
            log.info("%s", _row(form))
        if options.format == "json":
            print_json({"width": options.width, "epochs": options.epochs, "forms": forms})
        return 0

    return guarded("segdeploy.training.batch_norm_study", run)


def study(
    data: Path, output: Path, *, width: int, epochs: int, settings: Settings
) -> Iterator[Form]:
    """Train every form, each in a folder of its own under ``output``; what is finished is kept.

    Args:
        data: prepared folder; its train and val splits.
        output: folder for the trainings.
        width: channels of the first level.
        epochs: of each training.
        settings: how each training runs.

    Raises:
        InputError: the images cannot be read.
        OSError: ``output`` cannot be written.
    """
    train_set, val_set = open_set(data, "train"), open_set(data, "val")
    common = Recipe(
        arch=Architecture.R2U_NET,
        width=width,
        epochs=epochs,
        learning_rate=1e-3,
        augmentation=MILD,
        clip_norm=1.0,
    )
    early, late = max(1, epochs // 4) + 1, max(1, round(0.6 * epochs)) + 1
    begins = {
        "moving to the end": None,
        "frozen from the first epoch": 1,
        f"frozen from epoch {early}": early,
        f"frozen from epoch {late}": late,
    }
    for statistics, begin in begins.items():
        for ema in (common.ema, INSTANT):
            recipe = replace(common, freeze_statistics_from=begin, ema=ema)
            folder = output / f"frozen-{begin}-ema-{ema:g}"
            result = train(
                recipe,
                train_set=train_set,
                val_set=val_set,
                preprocess=Preprocess(),
                output=folder,
                settings=settings,
            )
            averaged = ema != INSTANT
            yield Form(
                statistics=statistics,
                averaged_weights=averaged,
                last_val_iou=result.last_val_iou,
                best_val_iou=result.best_val_iou,
            )
            if begin is None:
                yield Form(
                    statistics="moving, then estimated again",
                    averaged_weights=averaged,
                    last_val_iou=_reestimated(folder / LAST_FILE, train_set, val_set),
                    best_val_iou=None,
                )


def _reestimated(checkpoint: Path, train_set: SegmentationSet, val_set: SegmentationSet) -> float:
    """Validation IoU of a checkpoint whose statistics are averaged over the train images."""
    loaded = load_checkpoint(checkpoint)
    inputs: Tensor = torch.from_numpy(train_set.inputs(loaded.preprocess))
    reestimate_statistics(loaded.network, inputs.split(Recipe().batch))
    images = ValidationSet.of(val_set, loaded.preprocess)
    return evaluate(loaded.network, images, bce_dice).iou


def _row(form: Form) -> str:
    best = "" if form.best_val_iou is None else f"{form.best_val_iou:.2f}"
    averaged = "yes" if form.averaged_weights else "no"
    return f"| {form.statistics} | {averaged} | {form.last_val_iou:.2f} | {best} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segdeploy.training.batch_norm_study",
        description="Compare ways to treat R2U-Net's BatchNorm statistics in training.",
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared folder with splits")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the trainings")
    parser.add_argument("--width", type=positive_int, default=12, help="default: 12")
    parser.add_argument("--epochs", type=positive_int, default=12, help="default: 12")
    parser.add_argument("--threads", type=positive_int, help="default: all cores")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--workers", type=count, default=0, help="processes that make views (default: 0, none)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")
    return parser


if __name__ == "__main__":
    sys.exit(main())
