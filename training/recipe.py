"""Everything that decides the outcome of a training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.augment import STRONG, Augmentation


class Loss(Enum):
    """What is minimised; see ``training.losses``."""

    BCE_DICE = "bce-dice"
    BCE_LOVASZ = "bce-lovasz"


class Schedule(Enum):
    """How the learning rate moves; see ``training.schedule``."""

    ONE_CYCLE = "one-cycle"
    COSINE = "cosine"
    STEP = "step"
    CONSTANT = "constant"


class Amp(Enum):
    """Arithmetic of forward and backward; the weights stay fp32.

    ``FP16`` scales the loss, because small gradients vanish in fp16.
    """

    OFF = "off"
    BF16 = "bf16"
    FP16 = "fp16"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training, besides the data and the device.

    Attributes:
        arch: the network.
        epochs: after each the network is scored and the state saved.
        passes: passes over the train split in an epoch.
        batch: images a step and process; n processes make steps of n times as many.
        learning_rate: the largest; AdamW.
        weight_decay: AdamW's.
        schedule: how the learning rate moves from step to step.
        warmup_share: share of all steps in which it rises.
        loss: on the logits, averaged over the heads.
        amp: arithmetic of forward and backward.
        clip_norm: gradients longer than this (L2, all parameters) are shortened to it.
        ema: decay, per step, of the weight average that is evaluated and saved.
        freeze_statistics_from: epoch (from 1) at whose start the BatchNorm statistics become
            constants; see ``training.batch_norm``.
        sparsity: weight of the L1 norm of the BatchNorm scales in the loss.
        slim: share of the convolutions' work to silence by whole channels; see
            ``training.slimming``.
        patience: epochs without a better validation IoU after which training ends.
        recurrence: R2U-Net's t; by default the pretrained checkpoint's, else the published 2.
        width: channels of the first level; by default likewise.
        augmentation: how far views depart from the images.
        patch: side of the square that is cut from each view, in pixels of the input contract;
            ``None`` trains on whole views.
        pretrained: checkpoint to start from instead of random weights.
        seed: of weights, order and views.

    Raises:
        UsageError: a value outside its range; the message names it.
    """

    arch: Architecture = Architecture.UNET_PLUS_PLUS
    epochs: int = 60
    passes: int = 1
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    schedule: Schedule = Schedule.ONE_CYCLE
    warmup_share: float = 0.15
    loss: Loss = Loss.BCE_DICE
    amp: Amp = Amp.BF16
    clip_norm: float | None = None
    ema: float = 0.99
    freeze_statistics_from: int | None = None
    sparsity: float = 0.0
    slim: float = 0.0
    patience: int | None = None
    recurrence: int | None = None
    width: int | None = None
    augmentation: Augmentation = STRONG
    patch: int | None = None
    pretrained: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed, expected in _RANGES:
            value = getattr(self, name)
            if value is not None and not allowed(value):
                raise UsageError(f"{name} is {value}; expected {expected}")
        if self.slim and self.epochs < 2:
            raise UsageError(f"slim is {self.slim} over one epoch; channels need 2 to fall silent")

    def to_json(self) -> str:
        """All settings as one line of JSON, by name; of a file its name, not where it lies."""
        return json.dumps(asdict(self), default=_plain, sort_keys=True)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return value.name
    return value.value if isinstance(value, Enum) else str(value)


_COUNTS = (
    *("epochs", "passes", "batch", "freeze_statistics_from", "patience", "recurrence", "width"),
)
_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    *((name, lambda value: value >= 1, "at least 1") for name in _COUNTS),
    ("learning_rate", lambda value: 0 < value < math.inf, "a number above 0"),
    ("clip_norm", lambda value: 0 < value < math.inf, "a number above 0"),
    ("weight_decay", lambda value: 0 <= value < math.inf, "a number of 0 or more"),
    ("sparsity", lambda value: 0 <= value < math.inf, "a number of 0 or more"),
    ("warmup_share", lambda value: 0 < value < 1, "between 0 and 1"),
    ("ema", lambda value: 0 <= value <= 1, "0 to 1"),
    ("slim", lambda value: 0 <= value < 1, "a share from 0 to below 1"),
    ("patch", lambda value: value >= 16 and value % 16 == 0, "a multiple of 16"),
)
"""Field, test, and what a value must be."""
