"""Everything that decides the outcome of a training, each setting once. Imports nothing heavy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.flag_values import count, positive, positive_int
from segdeploy.training.augmentation import AUGMENTATIONS, STRONG, Augmentation


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
class Setting:
    """How a field of a recipe is given in words: as a flag, or in a recipe's file.

    Attributes:
        help: what it does, beside its default.
        read: makes a value of a word; ``None`` where ``choices`` do.
        choices: word to value.
        word: the flag's name where it is not the field's.
        metavar: what stands for the value in the help.
    """

    help: str
    read: Callable[[str], Any] | None = None
    choices: Mapping[str, Any] | None = None
    word: str = ""
    metavar: str | None = None

    def value(self, given: Any) -> Any:
        """The field's value of what a flag made of its word."""
        return given if self.choices is None else self.choices[given]

    def shown(self, value: Any) -> str:
        """A value as it is given in words."""
        if self.choices is None:
            return str(value)
        return next(word for word, choice in self.choices.items() if choice == value)


def _flag(**about: Any) -> dict[str, Setting]:
    """What a field says of its flag."""
    return {"setting": Setting(**about)}


def _words(kind: type[Enum]) -> dict[str, Enum]:
    return {str(each.value): each for each in kind}


QUANTIZED: Mapping[str, Any] = {
    "epochs": 6,
    "learning_rate": 2e-4,
    "ema": 0.98,
    "amp": Amp.OFF,
    "augmentation": AUGMENTATIONS["light"],
}
"""Defaults of a training with ``quantize``: short, and in the arithmetic of the integers."""


def _words_of_quantized() -> str:
    words = {each: value for each, value in QUANTIZED.items() if each != "augmentation"}
    words["amp"] = QUANTIZED["amp"].value
    return ", ".join([f"{name} {value}" for name, value in words.items()] + ["augment light"])


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
        quantize: target whose integers the network is trained with; see ``training.quantized``.
        seed: of weights, order and views.

    Raises:
        UsageError: a value outside its range; the message names it.
    """

    arch: Architecture = field(
        default=Architecture.UNET_PLUS_PLUS,
        metadata=_flag(help="network", choices=_words(Architecture)),
    )
    epochs: int = field(
        default=60, metadata=_flag(help="scored and saved after each", read=positive_int)
    )
    passes: int = field(
        default=1, metadata=_flag(help="over the images in an epoch", read=positive_int)
    )
    batch: int = field(
        default=8, metadata=_flag(help="images a step and process", read=positive_int)
    )
    learning_rate: float = field(default=2e-3, metadata=_flag(help="the largest", read=positive))
    weight_decay: float = field(default=1e-2, metadata=_flag(help="AdamW's", read=float))
    schedule: Schedule = field(
        default=Schedule.ONE_CYCLE,
        metadata=_flag(help="how the learning rate moves", choices=_words(Schedule)),
    )
    warmup_share: float = field(
        default=0.15,
        metadata=_flag(help="share of the steps in which the learning rate rises", read=positive),
    )
    loss: Loss = field(
        default=Loss.BCE_DICE, metadata=_flag(help="what is minimised", choices=_words(Loss))
    )
    amp: Amp = field(
        default=Amp.BF16, metadata=_flag(help="arithmetic; weights stay fp32", choices=_words(Amp))
    )
    clip_norm: float | None = field(
        default=None, metadata=_flag(help="largest length of the gradient", read=positive)
    )
    ema: float = field(
        default=0.99, metadata=_flag(help="decay of the saved weight average", read=float)
    )
    freeze_statistics_from: int | None = field(
        default=None,
        metadata=_flag(
            help="BatchNorm statistics are constants from this epoch on; R2U-Net needs it",
            read=positive_int,
            metavar="EPOCH",
        ),
    )
    sparsity: float = field(
        default=0.0, metadata=_flag(help="weight of the L1 norm of BatchNorm scales", read=float)
    )
    slim: float = field(
        default=0.0,
        metadata=_flag(
            help="silence channels that take this share of the convolutions' work",
            read=float,
            metavar="SHARE",
        ),
    )
    patience: int | None = field(
        default=None,
        metadata=_flag(
            help="stop after this many epochs without a better val IoU", read=positive_int
        ),
    )
    recurrence: int | None = field(
        default=None,
        metadata=_flag(
            help="R2U-Net's t (default: the pretrained checkpoint's, else 2)", read=positive_int
        ),
    )
    width: int | None = field(
        default=None,
        metadata=_flag(
            help="channels of the first level (default: the pretrained checkpoint's, else the "
            "published network's)",
            read=positive_int,
        ),
    )
    augmentation: Augmentation = field(
        default=STRONG,
        metadata=_flag(
            help="wide for long trainings on few images, strong for shorter ones, mild and light "
            "to finish",
            choices=AUGMENTATIONS,
            word="augment",
        ),
    )
    patch: int | None = field(
        default=None,
        metadata=_flag(
            help="train on squares of this side (default: whole views)", read=positive_int
        ),
    )
    pretrained: Path | None = field(
        default=None, metadata=_flag(help="checkpoint to start from", read=Path)
    )
    quantize: str | None = field(
        default=None,
        metadata=_flag(
            help="fine-tune --pretrained with the integers of this target, and write its int8 file "
            f"(defaults: {_words_of_quantized()})",
            read=str,
            metavar="TARGET",
        ),
    )
    seed: int = field(default=0, metadata=_flag(help="of weights, order and views", read=count))

    def __post_init__(self) -> None:
        for name, allowed, expected in _RANGES:
            value = getattr(self, name)
            if value is not None and not allowed(value):
                raise UsageError(f"{name} is {value}; expected {expected}")
        if self.quantize is not None and self.pretrained is None:
            raise UsageError("quantize fine-tunes a trained network; expected a pretrained one")
        if self.quantize is not None and (self.slim or self.sparsity):
            raise UsageError("slim and sparsity choose channels; do that before quantize")
        if self.slim and self.epochs < 2:
            raise UsageError(f"slim is {self.slim} over one epoch; channels need 2 to fall silent")
        if self.slim and self.arch.gated:
            raise UsageError(
                f"slim is {self.slim} for {self.arch.label}; expected 0: a gate adds up channels, "
                "so that one that falls silent leaves nothing out"
            )

    def to_json(self, *, of_module: bool = False) -> str:
        """All settings as one line of JSON, by name; of a file its name, not where it lies.

        Args:
            of_module: leave out what only networks of the known families have.
        """
        left_out = OF_FAMILIES if of_module else {}
        stated = {name: value for name, value in asdict(self).items() if name not in left_out}
        return json.dumps(stated, default=_plain, sort_keys=True)

    def require_of_module(self, name: str) -> None:
        """Refuse what only networks of the known families have.

        Args:
            name: of the module.

        Raises:
            UsageError: naming the first such setting.
        """
        for each, (default, why) in OF_FAMILIES.items():
            if getattr(self, each) != default:
                raise UsageError(
                    f"{each} is {_plain(getattr(self, each))}, and {name} is a module; {why}: "
                    f"leave it out"
                )


OF_FAMILIES: Mapping[str, tuple[Any, str]] = {
    "arch": (Architecture.UNET_PLUS_PLUS, "its own code says what it is"),
    "width": (None, "its own code says how wide it is"),
    "recurrence": (None, "only R2U-Net has it"),
    "slim": (0.0, "channels fall silent in networks whose BatchNorms each follow a convolution"),
    "sparsity": (0.0, "it is the first half of slim"),
}
"""Settings that mean nothing to a module: their defaults, and why."""


def settings() -> dict[str, tuple[Setting, Any]]:
    """Each field of a recipe: how it is given in words, and its default."""
    return {each.name: (each.metadata["setting"], each.default) for each in fields(Recipe)}


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
