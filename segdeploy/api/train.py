"""Train a network on a prepared folder."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.load import is_network, load, read_contract
from segdeploy.api.outputs import AnyPath
from segdeploy.api.targets import profile_of
from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.distributed.shard import shard_from_environment
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.targets.profiles import TargetProfile
from segdeploy.training.loop import Settings, TrainingResult
from segdeploy.training.loop import train as train_network
from segdeploy.training.quantized import Quantization
from segdeploy.training.recipe import Recipe

DEVICES = ("cpu", "cuda")


def train(
    data: Data | AnyPath,
    out: AnyPath,
    *,
    recipe: Recipe | None = None,
    module: nn.Module | LoadedModule | str | None = None,
    quantize: TargetProfile | str | None = None,
    method: Method | str = Method.ENTROPY,
    preprocess: Preprocess | AnyPath | None = None,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    workers: int = 0,
    threads: int | None = None,
    tensorboard: bool = False,
    quiet: bool = False,
    overwrite: bool = False,
) -> TrainingResult:
    """Train; after each epoch write checkpoints, figures, and the state to go on from.

    Interrupted, the same call goes on. Started by ``torchrun``, each process takes a share of
    every step.

    Args:
        data: a prepared folder: its train split is trained on, its val split chooses the epoch.
        out: folder for checkpoints, ``history.csv`` and ``curves.png``.
        recipe: everything that decides the outcome; ``None`` is ``Recipe()``, UNet++.
        module: a network of no known family to train instead of the recipe's: a module, one that
            ``load`` made, or ``package.module:function`` of yours, which RUNS, after the recipe's
            seed is set. It returns logits of one channel; each output that fits is trained. What
            is given is left as it is; ``load(best, module=function)`` takes the result.
        quantize: target whose integers the recipe's pretrained network is fine-tuned with; the
            folder then also receives ``best.int8.TARGET.onnx``, and the table and float file it is
            made of. ``None`` is what the recipe says.
        method: with ``quantize``: how a range is chosen: entropy (KL), percentile, mse, minmax;
            on ``Data.calibration_images``.
        preprocess: the input contract, a JSON file that holds it, or a preset's name; ``None`` is
            that of the recipe's pretrained checkpoint, else of the published models.
        size: height and width, of a module whose contract is a preset.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        workers: processes that make views; 0 makes them in this one.
        threads: of PyTorch; ``None`` takes every processor of this process.
        tensorboard: also write TensorBoard events.
        quiet: no progress bars, and no line for each epoch.
        overwrite: start over where the folder holds a training.

    Raises:
        InputError: an image, a mask, the pretrained checkpoint or the state cannot be read.
        UsageError: no such device, a recipe that does not fit, or a folder that holds another
            training.
        RunError: the loss is no longer finite, or the device is missing.
        OSError: the folder cannot be written.
    """
    kind = device.partition(":")[0]
    if kind not in DEVICES:
        raise UsageError(f"--device {device}; expected cpu, cuda or cuda:N")
    chosen, images = recipe or Recipe(), Data.of(data)
    network = None if module is None else _module(module, chosen, preprocess, size)
    if network is None:
        if size is not None:
            raise UsageError("size is of a module's contract; a known network's states its own")
        contract = _contract(preprocess, chosen, images)
    else:
        contract = network.preprocess
    if quantize is not None:
        chosen = replace(chosen, quantize=profile_of(quantize).name)
    quantization = None
    if chosen.quantize is not None:
        quantization = Quantization(
            profile=profile_of(chosen.quantize),
            images=images.calibration_images,
            method=choice(Method, method, what="method"),
        )
    before = torch.get_num_threads()
    with shard_from_environment(backend="nccl" if kind == "cuda" else "gloo") as shard:
        torch.set_num_threads(threads or max(1, usable_cores() // shard.size))
        try:
            return train_network(
                chosen,
                train_set=images.train,
                val_set=images.val,
                preprocess=contract,
                output=Path(out),
                quantization=quantization,
                settings=Settings(
                    device=device,
                    shard=shard,
                    workers=workers,
                    tensorboard=tensorboard,
                    overwrite=overwrite,
                    quiet=quiet,
                ),
                module=network,
            )
        finally:
            torch.set_num_threads(before)


def _module(
    given: nn.Module | LoadedModule | str,
    recipe: Recipe,
    preprocess: Preprocess | AnyPath | None,
    size: tuple[int, int] | None,
) -> LoadedModule:
    """The module to train, looked at; what a function makes depends on the recipe's seed alone.

    Raises:
        InputError: as ``load``.
        UsageError: a contract or weights beside a module that has its own.
    """
    name = given if isinstance(given, str) else getattr(given, "name", type(given).__name__)
    recipe.require_of_module(str(name))
    if isinstance(given, LoadedModule):
        if preprocess is not None or size is not None:
            raise UsageError(f"{name} is loaded with its contract; state another where it is")
    elif not isinstance(given, str) and not is_network(given):
        raise UsageError(f"a {type(given).__name__} is no module to train")
    if not isinstance(given, str) and recipe.pretrained is not None:
        raise UsageError(f"pretrained {recipe.pretrained} beside {name}; load it into the module")
    if isinstance(given, LoadedModule):
        return replace(given, network=copy.deepcopy(given.network))
    if preprocess is None and recipe.pretrained is None:
        preprocess = "published"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if isinstance(given, str):
            found = load(recipe.pretrained, module=given, preprocess=preprocess, size=size)
        else:
            found = load(given, preprocess=preprocess, size=size)
    assert isinstance(found, LoadedModule), "a module was asked for"
    return found


def _contract(given: Preprocess | AnyPath | None, recipe: Recipe, images: Data) -> Preprocess:
    """The one given; else, and for the size of a preset, the pretrained checkpoint's."""
    stated = read_contract(given)
    if isinstance(stated, Preprocess):
        return stated
    if recipe.pretrained is None:
        return preset(stated or "published")
    own = load_checkpoint(
        recipe.pretrained, recurrence=recipe.recurrence, image_sizes=images.image_sizes
    ).preprocess
    return own if stated is None else preset(stated, own.size)
