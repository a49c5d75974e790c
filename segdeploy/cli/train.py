"""The verb that trains: one process, or each of those that ``torchrun`` starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from segdeploy.cli.inputs import Options, Result, contract_in
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.quantize.sharding import shard_from_environment
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError

log = logging.getLogger(__name__)

if TYPE_CHECKING:  # importing torch takes seconds; only training needs it
    from segdeploy.training.recipe import Recipe

DEVICES = ("cpu", "cuda")


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


def train(options: Options, arguments: Sequence[str]) -> Result:
    """Train a network."""
    import torch

    from segdeploy.training.loop import Settings
    from segdeploy.training.loop import train as train_network

    kind = options.device.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"--device {options.device}; expected cpu, cuda or cuda:N")
    recipe = recipe_of(options)
    with shard_from_environment(backend="nccl" if kind == "cuda" else "gloo") as shard:
        torch.set_num_threads(options.threads or max(1, usable_cores() // shard.size))
        result = train_network(
            recipe,
            train_set=open_set(options.data, "train"),
            val_set=open_set(options.data, "val"),
            preprocess=_contract(options),
            output=options.output,
            settings=Settings(
                device=options.device,
                shard=shard,
                workers=options.workers,
                tensorboard=options.tensorboard,
                overwrite=options.overwrite,
            ),
        )
        if not shard.is_first:
            return 0, {}
        log.info(
            "%s: val IoU %.3f at epoch %d of %d",
            result.checkpoint,
            result.best_val_iou,
            result.best_epoch,
            result.epochs,
        )
    return 0, asdict(result)


def _contract(options: Options) -> Preprocess:
    """The input contract: as given, else the pretrained checkpoint's, else the published one."""
    given = contract_in(options)
    pretrained: Path | None = options.pretrained
    if given is not None or pretrained is None:
        return given or Preprocess()
    from segdeploy.deploy.models.checkpoint import load_checkpoint

    return load_checkpoint(pretrained, recurrence=options.recurrence).preprocess
