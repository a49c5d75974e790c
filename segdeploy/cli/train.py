"""The verb that trains: one process, or each of those that ``torchrun`` starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.flags import (
    ARCHITECTURES,
    Group,
    count,
    output_flag,
    overwrite_flag,
    positive,
    positive_int,
    seed_flag,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy.system.errors import UsageError

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)


LOSSES = ("bce-dice", "bce-lovasz")
SCHEDULES = ("one-cycle", "cosine", "step", "constant")
AMPS = ("off", "bf16", "fp16")
AUGMENTATIONS = ("wide", "strong", "mild", "light")


def add_flags(verb: Group) -> None:
    """Network, data, recipe, and how to run it."""
    verb.add_argument("--arch", choices=ARCHITECTURES, default="unet_plus_plus", help="network")
    verb.add_argument("--data", type=Path, required=True, help="prepared folder with splits")
    output_flag(verb, "folder for checkpoints, history.csv and curves.png", required=True)
    verb.add_argument("--pretrained", type=Path, help="checkpoint to start from")
    verb.add_argument("--recurrence", type=positive_int, help="R2U-Net's t (default: 2)")
    verb.add_argument("--width", type=positive_int, help="channels of the first level")
    verb.add_argument(
        "--preprocess",
        type=Path,
        metavar="FILE.json",
        help="input contract (default: the pretrained checkpoint's, else 96x96 BGR, mean and "
        "std 0.5)",
    )
    _schedule(verb)
    _regularisation(verb)
    _running(verb)


def _schedule(verb: Group) -> None:
    verb.add_argument(
        "--epochs",
        type=positive_int,
        default=60,
        help="scored and saved after each (default: 60)",
    )
    verb.add_argument(
        "--passes", type=positive_int, default=1, help="over the images in an epoch (default: 1)"
    )
    verb.add_argument(
        "--batch", type=positive_int, default=8, help="images a step and process (default: 8)"
    )
    verb.add_argument(
        "--learning-rate", type=positive, default=2e-3, help="the largest (default: 0.002)"
    )
    verb.add_argument(
        "--schedule", choices=SCHEDULES, default="one-cycle", help="default: one-cycle"
    )
    verb.add_argument(
        "--warmup-share",
        type=positive,
        default=0.15,
        help="share of the steps in which the learning rate rises (default: 0.15)",
    )
    verb.add_argument("--loss", choices=LOSSES, default="bce-dice", help="default: bce-dice")
    verb.add_argument(
        "--patience", type=positive_int, help="stop after this many epochs without a better val IoU"
    )


def _regularisation(verb: Group) -> None:
    verb.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        default="strong",
        help="wide for long trainings on few images, strong for shorter ones, mild and light to "
        "finish (default: strong)",
    )
    verb.add_argument(
        "--patch", type=positive_int, help="train on squares of this side (default: whole views)"
    )
    verb.add_argument("--weight-decay", type=float, default=1e-2, help="default: 0.01")
    verb.add_argument("--clip-norm", type=positive, help="largest length of the gradient")
    verb.add_argument(
        "--ema", type=float, default=0.99, help="decay of the saved weight average (default: 0.99)"
    )
    verb.add_argument(
        "--freeze-statistics-from",
        type=positive_int,
        metavar="EPOCH",
        help="BatchNorm statistics are constants from this epoch on; R2U-Net needs it",
    )
    verb.add_argument(
        "--sparsity", type=float, default=0.0, help="weight of the L1 norm of BatchNorm scales"
    )
    verb.add_argument(
        "--slim",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="silence channels that take this share of the convolutions' work",
    )


def _running(verb: Group) -> None:
    verb.add_argument(
        "--amp", choices=AMPS, default="bf16", help="arithmetic; weights stay fp32 (default: bf16)"
    )
    verb.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    verb.add_argument(
        "--workers", type=count, default=0, help="processes that make views (default: 0, none)"
    )
    verb.add_argument(
        "--tensorboard",
        action="store_true",
        help="also write TensorBoard events (segdeploy[plots])",
    )
    overwrite_flag(verb, "a training that is there; without it it goes on")
    seed_flag(verb)
    threads_flag(verb)


if TYPE_CHECKING:  # importing torch takes seconds; only training needs it
    from segdeploy.training.recipe import Recipe


def recipe_of(options: Options) -> Recipe:
    """What the flags, or the file of ``--config``, say of a training.

    Raises:
        UsageError: a value outside its range; the message names it.
    """
    from segdeploy.deploy.models.architecture import Architecture
    from segdeploy.training.augment import AUGMENTATIONS
    from segdeploy.training.recipe import Amp, Loss, Recipe, Schedule

    try:
        return Recipe(
            arch=Architecture(options.arch),
            epochs=options.epochs,
            passes=options.passes,
            batch=options.batch,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            schedule=Schedule(options.schedule),
            warmup_share=options.warmup_share,
            loss=Loss(options.loss),
            amp=Amp(options.amp),
            clip_norm=options.clip_norm,
            ema=options.ema,
            freeze_statistics_from=options.freeze_statistics_from,
            sparsity=options.sparsity,
            slim=options.slim,
            patience=options.patience,
            recurrence=options.recurrence,
            width=options.width,
            augmentation=AUGMENTATIONS[options.augment],
            patch=options.patch,
            pretrained=options.pretrained,
            seed=options.seed,
        )
    except UsageError as error:
        where = f" (flags of {options.config} count, too)" if options.config else ""
        raise UsageError(f"{error}{where}") from error


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Train a network."""
    from segdeploy.api.train import train
    from segdeploy.deploy.quantize.sharding import is_first_process

    result = train(
        options.data,
        options.output,
        recipe=recipe_of(options),
        preprocess=options.preprocess,
        device=options.device,
        workers=options.workers,
        threads=options.threads,
        tensorboard=options.tensorboard,
        overwrite=options.overwrite,
    )
    if not is_first_process():
        return 0, {}
    log.info(
        "%s: val IoU %.3f at epoch %d of %d",
        result.checkpoint,
        result.best_val_iou,
        result.best_epoch,
        result.epochs,
    )
    return 0, asdict(result)
