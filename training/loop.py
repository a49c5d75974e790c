"""Train a network on one image set; keep the epoch that is best on validation."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from tqdm import tqdm

from benchmarks.accuracy import iou_per_image
from deploy.data import SegmentationSet
from deploy.errors import RunError, UsageError
from deploy.interface import FOREGROUND_PROBABILITY
from deploy.models.checkpoint import (
    DEFAULT_RECURRENCE,
    Network,
    build_network,
    load_checkpoint,
    save_checkpoint,
)
from deploy.models.families import Architecture
from deploy.preprocess import Preprocess
from training.augment import STRONG, Augmentation, jitter_colour, random_grid, sample
from training.losses import bce_dice

log = logging.getLogger(__name__)

EVALUATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training.

    ``ema`` is the decay of the weight average that is evaluated and saved, per optimiser step;
    ``pretrained`` a checkpoint to start from instead of random weights. ``recurrence`` (the t of
    R2U-Net) and ``width`` are by default the checkpoint's, else the published ones.

    Raises:
        UsageError: a count below 1, a learning rate that is not positive, or a share outside 0..1.
    """

    arch: Architecture = Architecture.UNET_PLUS_PLUS
    epochs: int = 60
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup_share: float = 0.15
    ema: float = 0.99
    recurrence: int | None = None
    width: int | None = None
    augmentation: Augmentation = STRONG
    pretrained: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.epochs, self.batch, self.recurrence, self.width)
        if min(count for count in counts if count is not None) < 1:
            raise UsageError(f"epochs, batch, recurrence and width must be at least 1: {self}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning_rate is {self.learning_rate}; expected a number above 0")
        if not (0 < self.warmup_share < 1 and 0 <= self.ema <= 1):
            raise UsageError(
                f"warmup_share is {self.warmup_share} and ema {self.ema}; expected shares of 1"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Where the best checkpoint is and what it scored on validation (published IoU, percent)."""

    checkpoint: Path
    best_epoch: int
    best_val_iou: float


@dataclass(frozen=True)
class _Cached:
    """Native-resolution tensors of one sample: uint8 (3, H, W) RGB and (1, H, W) grey."""

    image: Tensor
    mask: Tensor


def train(
    recipe: Recipe,
    *,
    train_set: SegmentationSet,
    val_set: SegmentationSet,
    preprocess: Preprocess,
    output: Path,
    show_progress: bool = True,
) -> TrainingResult:
    """Train and write ``best.safetensors``, ``last.safetensors`` and ``history.csv`` to ``output``.

    Forward and backward run in bf16 autocast and channels_last; the weights stay fp32. The saved
    weights are the exponential moving average. Every epoch starts from a generator seeded with
    (seed, epoch), so two runs on one machine see the same batches.

    Raises:
        InputError: an image, a mask or the pretrained checkpoint cannot be read.
        UsageError: the pretrained checkpoint contradicts the recipe.
        RunError: the loss is no longer finite; no checkpoint is written from such weights.
        OSError: ``output`` cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = _initial(recipe).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    average = copy.deepcopy(model).eval()
    cache = [_load(s.image(), s.mask()) for s in train_set]
    val_inputs = torch.from_numpy(val_set.inputs(preprocess))
    val_truth = val_set.truths(preprocess)
    steps = -(-len(cache) // recipe.batch)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=recipe.learning_rate,
        total_steps=recipe.epochs * steps,
        pct_start=recipe.warmup_share,
    )
    best = (-1.0, -1)
    history: list[dict[str, float]] = []
    metadata = {"recipe": json.dumps(asdict(recipe), default=str, sort_keys=True)}
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        generator = Generator().manual_seed(recipe.seed * 100_003 + epoch)
        order = torch.randperm(len(cache), generator=generator).split(recipe.batch)
        losses = []
        model.train()
        bar = tqdm(
            order, desc=f"epoch {epoch + 1}/{recipe.epochs}", disable=not show_progress, leave=False
        )
        for indices in bar:
            inputs, truth = _batch(
                [cache[int(i)] for i in indices], preprocess, generator, recipe.augmentation
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                heads = model.heads(inputs)
            loss = torch.stack([bce_dice(logits, truth) for logits in heads]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            _update_average(average, model, recipe.ema)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise RunError(
                    f"the loss became {losses[-1]} in epoch {epoch + 1}; lower the learning rate "
                    f"({recipe.learning_rate})"
                )
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
        val_iou = evaluate(average, val_inputs, val_truth)
        seconds = time.perf_counter() - started
        history.append(
            {
                "epoch": epoch + 1,
                "train_loss": float(np.mean(losses)),
                "val_iou": val_iou,
                "seconds": seconds,
            }
        )
        _write_history(output / "history.csv", history)
        figures = metadata | {"epoch": str(epoch + 1), "val_iou": f"{val_iou:.3f}"}
        save_checkpoint(
            average, output / "last.safetensors", preprocess=preprocess, metadata=figures
        )
        if val_iou > best[0]:
            best = (val_iou, epoch + 1)
            save_checkpoint(
                average, output / "best.safetensors", preprocess=preprocess, metadata=figures
            )
        log.info(
            "epoch %d/%d: loss %.4f, val IoU %.3f (best %.3f at %d), %.1f s",
            epoch + 1,
            recipe.epochs,
            history[-1]["train_loss"],
            val_iou,
            best[0],
            best[1],
            seconds,
        )
    return TrainingResult(
        checkpoint=output / "best.safetensors", best_epoch=best[1], best_val_iou=best[0]
    )


def evaluate(model: nn.Module, inputs: Tensor, truth: NDArray[np.bool_]) -> float:
    """Published IoU in percent of a network that ends in logits.

    Args:
        model: from (N, 3, H, W) to logits (N, 1, H, W).
        inputs: float32 (N, 3, H, W).
        truth: bool (N, H, W).
    """
    predictions = []
    with torch.inference_mode():
        for batch in inputs.split(EVALUATION_BATCH):
            probability = model(batch.to(memory_format=torch.channels_last)).sigmoid()
            predictions.append((probability[:, 0] >= FOREGROUND_PROBABILITY).numpy())
    return float(iou_per_image(np.concatenate(predictions), truth).mean())


def _initial(recipe: Recipe) -> Network:
    """The network to start from: random weights, or those of a checkpoint."""
    if recipe.pretrained is None:
        recurrence = recipe.recurrence or DEFAULT_RECURRENCE
        return build_network(recipe.arch, width=recipe.width, recurrence=recurrence)
    start = load_checkpoint(recipe.pretrained, arch=recipe.arch, recurrence=recipe.recurrence)
    if recipe.width not in (None, start.detected.width):
        raise UsageError(
            f"width {recipe.width}, but {recipe.pretrained} has {start.detected.width}; drop one"
        )
    return start.network


def _load(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> _Cached:
    return _Cached(
        torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(mask.copy())[None]
    )


def _batch(
    samples: list[_Cached],
    preprocess: Preprocess,
    generator: Generator,
    augmentation: Augmentation,
) -> tuple[Tensor, Tensor]:
    """Augmented inputs (N, 3, h, w), channels_last, and truth (N, 1, h, w) of 0 and 1."""
    inputs, truths = [], []
    for cached in samples:
        grid = random_grid(preprocess.size, generator, augmentation)
        view = jitter_colour(sample(cached.image, grid), generator, augmentation)
        pixels = view.round_().byte().permute(1, 2, 0).numpy()
        inputs.append(torch.from_numpy(preprocess.normalise(pixels)))
        truths.append((sample(cached.mask, grid) >= 125).float())
    stacked = torch.stack(inputs).contiguous(memory_format=torch.channels_last)
    return stacked, torch.stack(truths)


def _update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential moving average of parameters and BatchNorm statistics, in place."""
    with torch.no_grad():
        for mean, value in zip(
            average.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
