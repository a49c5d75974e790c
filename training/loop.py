"""Train a network on one image set; keep the epoch that is best on validation.

A training that was stopped, or killed, goes on after its last finished epoch when it is started
again with the same settings, and ends with the same bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Preprocess, require_multiple
from segdeploy.deploy.distributed.shard import WHOLE, Shard
from segdeploy.deploy.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.models.networks import DEFAULT_RECURRENCE, Network, build_network
from segdeploy.deploy.system.checksums import CHECKSUMS
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.deploy.system.interruption import begun
from segdeploy.deploy.system.only_writer import writing_folder
from segdeploy.deploy.system.progress import ItemProgress, bar
from segdeploy.training.evaluate import ValidationSet, evaluate
from segdeploy.training.files import BEST_FILE, RANGES_FILE, STATE_FILE
from segdeploy.training.folder import Save, claim, finish, write_epoch
from segdeploy.training.heads import HeadedModule
from segdeploy.training.history import CURVES_FILE, Board, EpochFigures, best_of, write_curves
from segdeploy.training.quantized import (
    Quantization,
    quantized_form,
    save_folded,
    write_int8,
)
from segdeploy.training.quantized_graph import QuantizedGraph
from segdeploy.training.recipe import Recipe
from segdeploy.training.slimming import complete_from
from segdeploy.training.state import TrainingState, identity_of, load_state, save_state
from segdeploy.training.step import Stepper, Trained
from segdeploy.training.views import Views, pass_order

log = logging.getLogger(__name__)

CURVES_EVERY_S = 10.0
"""The curves are drawn at the end and, before, as often as one may look: it takes 0.3 s."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to run a training, beside the recipe.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        shard: which of how many processes this is.
        workers: processes that make views; 0 makes them in this one.
        tensorboard: also write TensorBoard events.
        overwrite: start over where the folder holds a training.
        quiet: no progress bars, and no line for each epoch.
    """

    device: str = "cpu"
    shard: Shard = WHOLE
    workers: int = 0
    tensorboard: bool = False
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where the best checkpoint is, and what came out.

    Attributes:
        checkpoint: the file.
        best_epoch: from 1.
        best_val_iou: its published IoU on validation, percent.
        last_val_iou: that of the last epoch.
        epochs: how many there were.
    """

    checkpoint: Path
    best_epoch: int
    best_val_iou: float
    last_val_iou: float
    epochs: int


def train(
    recipe: Recipe,
    *,
    train_set: SegmentationSet,
    val_set: SegmentationSet,
    preprocess: Preprocess,
    output: Path,
    quantization: Quantization | None = None,
    settings: Settings | None = None,
    module: LoadedModule | None = None,
) -> TrainingResult:
    """Train; after each epoch write checkpoints, figures, and the state to go on from.

    ``output`` receives ``best.safetensors`` and ``last.safetensors`` (the averaged weights),
    ``history.csv``, ``curves.png`` (with matplotlib, every ``CURVES_EVERY_S`` seconds and at the
    end) and ``state.pt``. With ``quantization`` the pretrained network is fine-tuned with the
    integers of its target, and the int8 file of the best epoch is written beside its checkpoint.

    Args:
        recipe: everything that decides the outcome.
        train_set: what is trained on.
        val_set: what chooses the epoch.
        preprocess: the input contract; a module's own.
        output: the folder.
        quantization: what the pretrained network is fine-tuned for; ``None`` trains in float.
        settings: how to run it.
        module: a network of no known family to train instead of the recipe's.

    Raises:
        InputError: an image, a mask, the pretrained checkpoint or the state cannot be read, or the
            input contract is not of 8-bit colour images, stretched bilinearly.
        UsageError: the pretrained checkpoint contradicts the recipe, the patch does not fit, or
            the folder holds another training or is written to by another process.
        RunError: the loss is no longer finite (what the epochs before wrote is kept), or the
            device is missing.
        OSError: ``output`` cannot be written.
    """
    settings = settings or Settings()
    shard = settings.shard
    if recipe.patch is not None and recipe.patch > min(preprocess.size):
        raise UsageError(f"patch is {recipe.patch}, larger than the input {preprocess.size}")
    if module is None:
        require_multiple(preprocess.size, SIZE_MULTIPLE, network=recipe.arch.value)
    else:
        recipe.require_of_module(module.name)
    preprocess.refuse_departures(what="training", advice="train with 8-bit colour images, resized")
    device = _device(settings)
    if quantization is not None and (shard.size > 1 or device.type != "cpu"):
        raise UsageError("--quantize trains in one process on the CPU; drop torchrun or --device")
    if quantization is not None and module is not None:
        raise UsageError("--quantize fine-tunes a checkpoint of a known network; drop --module")
    identity = identity_of(
        recipe,
        train_set,
        val_set,
        preprocess,
        processes=shard.size,
        module_sha256=None if module is None else module.sha256,
        quantization=None if quantization is None else quantization.identity(),
    )
    with writing_folder(output) if shard.is_first else nullcontext():
        if shard.is_first:
            claim(output, overwrite=settings.overwrite)
        shard.gathered(None)  # no process reads the folder before it is ready
        with begun():
            return _train(
                recipe,
                train_set=train_set,
                val_set=val_set,
                preprocess=preprocess,
                output=output,
                quantization=quantization,
                settings=settings,
                device=device,
                identity=identity,
                module=module,
            )


def _train(
    recipe: Recipe,
    *,
    train_set: SegmentationSet,
    val_set: SegmentationSet,
    preprocess: Preprocess,
    output: Path,
    quantization: Quantization | None,
    settings: Settings,
    device: torch.device,
    identity: str,
    module: LoadedModule | None,
) -> TrainingResult:
    """Go on from what the folder holds until all epochs are done."""
    shard = settings.shard
    progress = load_state(output, settings=identity)
    history = list(progress.history) if progress is not None else []
    if _finished(recipe, history):
        _announce(settings, f"{output}: already finished after {len(history)} epochs")
        if shard.is_first:
            _finish(output, history, recipe, quantization)
        return _result(recipe, output, history)
    torch.manual_seed(recipe.seed)
    views = Views(train_set, recipe, preprocess, progress=_reading(settings))
    validation = ValidationSet.of(val_set, preprocess, shard=shard)
    steps = recipe.epochs * len(_batches(recipe, len(views), shard, epoch=1))
    network, start = _first(recipe, preprocess, quantization, module, stored=output / RANGES_FILE)
    stepper = Stepper(recipe, network, steps=steps, device=device, shard=shard)
    if progress is not None:
        _take_over(stepper, progress, output / STATE_FILE)
        _announce(settings, f"{output}: going on after epoch {len(history)}")
    board = Board(output, enabled=settings.tensorboard and shard.is_first)
    drawn_s = time.monotonic()
    while not _finished(recipe, history):
        history.append(
            _epoch(stepper, views, validation, epoch=len(history) + 1, settings=settings)
        )
        board.add(history[-1])
        if shard.is_first:
            write_epoch(_saver(stepper, preprocess, start), recipe, history, output)
            save_state(
                TrainingState(settings=identity, history=tuple(history), tensors=stepper.state()),
                output,
            )
            if time.monotonic() - drawn_s >= CURVES_EVERY_S:
                write_curves(history, output, since=complete_from(recipe))
                drawn_s = time.monotonic()
            if not settings.quiet:
                _say(recipe, history)
    board.close()
    if shard.is_first:
        _finish(output, history, recipe, quantization)
    if not (output / CURVES_FILE).exists():
        _announce(settings, f"no {CURVES_FILE}: that needs pip install matplotlib")
    return _result(recipe, output, history)


def _first(
    recipe: Recipe,
    preprocess: Preprocess,
    quantization: Quantization | None,
    module: LoadedModule | None,
    *,
    stored: Path,
) -> tuple[Trained, Checkpoint | None]:
    """What is trained, and, in its quantized form, the checkpoint it is made of."""
    if module is not None:
        return HeadedModule(module), None
    if quantization is None:
        return _initial(recipe, preprocess), None
    start = _checkpoint(recipe, preprocess)
    return quantized_form(start, quantization, stored=stored), start


def _saver(stepper: Stepper, preprocess: Preprocess, start: Checkpoint | None) -> Save:
    """Writes the averaged weights as a checkpoint."""
    average = stepper.average
    of_module = isinstance(average, HeadedModule)
    recipe = {"recipe": stepper.recipe.to_json(of_module=of_module)}

    def save(path: Path, metadata: Mapping[str, str]) -> None:
        own = {**metadata, **recipe}
        if isinstance(average, QuantizedGraph):
            assert start is not None
            save_folded(average, start, path, metadata=own)
        elif isinstance(average, HeadedModule):
            own |= {"preprocess": preprocess.to_json(), "network": type(average.module).__name__}
            save_weights(average.plain_weights(), path, metadata=own)
        else:
            save_checkpoint(average, path, preprocess=preprocess, metadata=own)

    return save


def _finish(
    output: Path,
    history: list[EpochFigures],
    recipe: Recipe,
    quantization: Quantization | None,
) -> None:
    """The int8 file of the best epoch, the curves, and the list of bytes, unless they are there."""
    if quantization is not None and not (output / CHECKSUMS).exists():
        table = CalibrationTable.read(output / RANGES_FILE)
        write_int8(output / BEST_FILE, quantization, table)
    finish(output, history, recipe)


def _announce(settings: Settings, words: str) -> None:
    """Say something once, and not where the caller wants quiet."""
    if settings.shard.is_first and not settings.quiet:
        log.info("%s", words)


def _reading(settings: Settings) -> ItemProgress[Sample]:
    """A bar while the images are read."""
    if settings.quiet or not settings.shard.is_first:
        return iter
    return lambda samples: bar(samples, "read", unit="image")


def _epoch(
    stepper: Stepper, views: Views, validation: ValidationSet, *, epoch: int, settings: Settings
) -> EpochFigures:
    """Train one epoch (from 1) and score the averaged weights."""
    recipe, shard = stepper.recipe, stepper.shard
    started = time.perf_counter()
    torch.manual_seed((recipe.seed * 100_003 + epoch) * 1_000_003 + shard.rank)  # of dropout
    stepper.begin_epoch(epoch, size=views.preprocess.size)
    everywhere = _batches(recipe, len(views), shard, epoch=epoch)
    mine = [shard.part(places) for places in everywhere]
    shown = tqdm(
        views.batches(mine, workers=settings.workers),
        total=len(mine),
        desc=f"epoch {epoch}/{recipe.epochs}",
        disable=True if settings.quiet or not shard.is_first else None,
        leave=False,
    )
    losses = []
    for batch, places in zip(shown, everywhere, strict=True):
        try:
            losses.append(stepper.step(batch, images_everywhere=len(places)))
        except RunError as error:
            raise RunError(f"epoch {epoch}: {error}") from error
        shown.set_postfix(loss=f"{losses[-1] * shard.size:.3f}")
    stepper.end_epoch()
    trained = time.perf_counter()
    scores = evaluate(stepper.average, validation, stepper.loss)
    parts = shard.gathered(losses)
    return EpochFigures(
        epoch=epoch,
        train_loss=sum(map(sum, zip(*parts, strict=True))) / len(losses),
        val_loss=scores.loss,
        val_iou=scores.iou,
        learning_rate=float(stepper.schedule.get_last_lr()[0]),
        images_per_s=sum(map(len, everywhere)) / (trained - started),
        seconds=time.perf_counter() - started,
    )


def _batches(
    recipe: Recipe, count: int, shard: Shard, *, epoch: int
) -> list[list[tuple[int, int]]]:
    """The (pass, image) pairs of each step over all processes.

    A last step of a pass without an image for each process is left out.
    """
    first = (epoch - 1) * recipe.passes + 1
    return [
        [(turn, index) for index in indices]
        for turn in range(first, first + recipe.passes)
        for indices in pass_order(
            count, seed=recipe.seed, turn=turn, batch=recipe.batch * shard.size
        )
        if len(indices) >= shard.size
    ]


def _initial(recipe: Recipe, preprocess: Preprocess) -> Network:
    """The network to start from: random weights, or those of a checkpoint."""
    if recipe.pretrained is None:
        recurrence = recipe.recurrence or DEFAULT_RECURRENCE
        return build_network(recipe.arch, width=recipe.width, recurrence=recurrence)
    return _checkpoint(recipe, preprocess).network


def _checkpoint(recipe: Recipe, preprocess: Preprocess) -> Checkpoint:
    """The checkpoint to start from."""
    assert recipe.pretrained is not None
    start = load_checkpoint(
        recipe.pretrained, arch=recipe.arch, recurrence=recipe.recurrence, preprocess=preprocess
    )
    if recipe.width not in (None, start.detected.width):
        raise UsageError(
            f"width {recipe.width}, but {recipe.pretrained} has {start.detected.width}; drop one"
        )
    return start


def _device(settings: Settings) -> torch.device:
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError(f"--device {settings.device}: this machine or torch build has no CUDA")
    if settings.device == "cuda":
        device = torch.device("cuda", settings.shard.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
    return device


def _finished(recipe: Recipe, history: list[EpochFigures]) -> bool:
    """Whether all epochs are done, or the last ones brought nothing."""
    if len(history) >= recipe.epochs:
        return True
    if recipe.patience is None or not history:
        return False
    since = complete_from(recipe)
    return len(history) - max(since, best_of(history, since=since).epoch) >= recipe.patience


def _say(recipe: Recipe, history: list[EpochFigures]) -> None:
    figures, best = history[-1], best_of(history, since=complete_from(recipe))
    log.info(
        "epoch %d/%d: loss %.4f, val loss %.4f, val IoU %.3f (best %.3f at %d), "
        "%.1f images/s, %.1f s",
        figures.epoch,
        recipe.epochs,
        figures.train_loss,
        figures.val_loss,
        figures.val_iou,
        best.val_iou,
        best.epoch,
        figures.images_per_s,
        figures.seconds,
    )


def _result(recipe: Recipe, output: Path, history: list[EpochFigures]) -> TrainingResult:
    best = best_of(history, since=complete_from(recipe))
    return TrainingResult(
        checkpoint=output / BEST_FILE,
        best_epoch=best.epoch,
        best_val_iou=best.val_iou,
        last_val_iou=history[-1].val_iou,
        epochs=len(history),
    )


def _take_over(stepper: Stepper, progress: TrainingState, path: Path) -> None:
    """Put the stepper where the state file says it was.

    Raises:
        InputError: the file's tensors are not those of this training.
    """
    try:
        stepper.load_state(progress.tensors)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} does not hold the tensors of this training ({reason}); start over with "
            "--overwrite"
        ) from error
