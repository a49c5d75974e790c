"""The verb that trains: one process, or each of those that ``torchrun`` starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from segdeploy.cli.flags import (
    Group,
    count,
    method_flag,
    module_flag,
    output_flag,
    overwrite_flag,
    positive_int,
    preprocess_flag,
    threads_flag,
)
from segdeploy.cli.inputs import Options, Result
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.recipe import QUANTIZED, Recipe, settings

log = logging.getLogger(__name__)


def add_flags(verb: Group) -> None:
    """Data, recipe, and how to run it."""
    verb.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="prepared folder, its train and val splits",
    )
    output_flag(verb, "folder for checkpoints, history.csv and curves.png", required=True)
    overwrite_flag(verb, "a training that is there; without it it goes on")
    preprocess_flag(verb, default="the pretrained checkpoint's, else 96x96 BGR, mean and std 0.5")
    module_flag(verb)
    verb.add_argument(
        "--size",
        type=positive_int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the input of --module (default: the contract's)",
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
    threads_flag(verb)
    quantized = verb.add_argument_group("with --quantize")
    quantized.add_argument(
        "--num-samples",
        type=positive_int,
        help="train images that find the ranges, drawn by seed (default: all)",
    )
    method_flag(quantized)
    _recipe_flags(verb.add_argument_group("recipe"))


def _recipe_flags(group: Group) -> None:
    """A flag for each setting of a recipe; one that is not given is ``None``."""
    for name, (setting, default) in settings().items():
        shown = "" if default in (None, 0.0) else f" (default: {setting.shown(default)})"
        group.add_argument(
            f"--{(setting.word or name).replace('_', '-')}",
            dest=name,
            type=setting.read or str,
            choices=tuple(setting.choices) if setting.choices else None,
            metavar=setting.metavar,
            help=setting.help + shown,
        )


def recipe_of(options: Options) -> Recipe:
    """What the flags, or the file of ``--config``, say of a training.

    Raises:
        UsageError: a value outside its range; the message names it.
    """
    given = {
        name: setting.value(value)
        for name, (setting, _) in settings().items()
        if (value := getattr(options, name)) is not None
    }
    try:
        return Recipe(**({**(QUANTIZED if "quantize" in given else {}), **given}))
    except UsageError as error:
        where = f" (flags of {options.config} count, too)" if options.config else ""
        raise UsageError(f"{error}{where}") from error


def run(options: Options, arguments: Sequence[str]) -> Result:
    """Train a network."""
    from segdeploy.api.data import Data
    from segdeploy.api.train import train
    from segdeploy.deploy.distributed.shard import is_first_process

    if options.module is not None and options.arch is not None:
        raise UsageError("--arch is of the known networks; --module is one of yours. Drop one")
    result = train(
        Data(options.data, num_samples=options.num_samples),
        options.output,
        recipe=recipe_of(options),
        module=options.module,
        size=None if options.size is None else (options.size[0], options.size[1]),
        method=options.method,
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
