"""One optimiser step, on one process or several, in the arithmetic the recipe asks for."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segdeploy.deploy.distributed.shard import Shard
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.system.errors import RunError
from segdeploy.training.batch_norm import freeze_statistics, share_statistics
from segdeploy.training.heads import HeadedModule
from segdeploy.training.losses import LOSSES
from segdeploy.training.quantized_graph import QuantizedGraph
from segdeploy.training.recipe import Amp, Recipe
from segdeploy.training.schedule import scheduler
from segdeploy.training.slimming import (
    Silent,
    choose_silent,
    importance_of_step,
    share_at,
    silence,
    sparsity,
)
from segdeploy.training.views import Batch

AUTOCAST = {Amp.OFF: torch.float32, Amp.BF16: torch.bfloat16, Amp.FP16: torch.float16}


Trained = Network | HeadedModule | QuantizedGraph
"""What moves in a training: the network of a family, of yours, or an int8 graph."""


class Stepper:
    """A network with all that moves it: optimiser, schedule, loss scaling, weight average.

    Args:
        recipe: how to train.
        network: trained in place; the same on all processes.
        steps: optimiser steps of the whole training.
        device: where it trains.
        shard: which of how many processes this is.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: Trained,
        *,
        steps: int,
        device: torch.device,
        shard: Shard,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.shard = shard
        # torch's stubs lack memory_format
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average: Trained = copy.deepcopy(self.network).eval()
        self._lerp = get_ema_multi_avg_fn(recipe.ema)
        self.loss = LOSSES[recipe.loss]
        self.silent: Silent = {}
        self.importance = importance_of_step(self.network) if recipe.slim else {}
        self._heads: nn.Module = _Heads(self.network)
        if shard.size > 1:
            share_statistics(self.network)
            self._heads = DistributedDataParallel(self._heads)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.schedule = scheduler(recipe, self.optimiser, steps=steps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.amp is Amp.FP16)

    def begin_epoch(self, epoch: int, *, size: tuple[int, int]) -> None:
        """Training mode, with what is frozen and silent in this epoch.

        Args:
            epoch: from 1.
            size: (height, width) of the inputs.
        """
        self._heads.train()
        if self.recipe.slim:
            self._choose_silent(epoch, size)
        frozen_from = self.recipe.freeze_statistics_from
        if frozen_from is not None and epoch >= frozen_from:
            freeze_statistics(self.network)

    def step(self, batch: Batch, *, images_everywhere: int) -> float:
        """Move the weights by one batch.

        Args:
            batch: this process's images.
            images_everywhere: images in the batches of all processes.

        Returns:
            This process's part of the loss: the parts of all processes add up to the mean over
            all images.

        Raises:
            RunError: the loss is not finite.
        """
        inputs = batch.inputs.to(self.device, memory_format=torch.channels_last)
        truth = batch.truth.to(self.device)
        field = None if batch.field is None else batch.field.to(self.device)
        amp = self.recipe.amp
        with torch.autocast(self.device.type, dtype=AUTOCAST[amp], enabled=amp is not Amp.OFF):
            heads = self._heads(inputs)
        loss = torch.stack([self.loss(logits, truth, field) for logits in heads]).mean()
        part = len(inputs) / images_everywhere
        value = loss.item() * part
        if not math.isfinite(value):
            raise RunError(
                f"the loss became {loss.item()}; lower the learning rate "
                f"({self.recipe.learning_rate})"
            )
        # Gradients are averaged over the processes: each counts by its images.
        self._move(loss * (part * self.shard.size))
        self._update_average()
        return value

    def _move(self, loss: Tensor) -> None:
        if self.recipe.sparsity:
            loss = loss + self.recipe.sparsity * sparsity(self.network)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        if self.recipe.slim:
            for name, value in importance_of_step(self.network).items():
                self.importance[name] += value
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        silence(self.network, self.silent)
        if self.scaler.get_scale() >= scale:  # else the step overflowed and was left out
            self.schedule.step()

    def _update_average(self) -> None:
        """Exponential moving average of parameters and BatchNorm statistics, in place."""
        mean = [*self.average.parameters(), *self.average.buffers()]
        now = [*self.network.parameters(), *self.network.buffers()]
        pairs = list(zip(mean, now, strict=True))
        with torch.no_grad():
            floating = [(m, n) for m, n in pairs if m.is_floating_point()]
            self._lerp([m for m, _ in floating], [n for _, n in floating], None)
            for m, n in pairs:
                if not m.is_floating_point():
                    m.copy_(n)

    def _choose_silent(self, epoch: int, size: tuple[int, int]) -> None:
        """Silence what mattered least in the epoch before; begin to count again."""
        recipe = self.recipe
        self.silent = choose_silent(
            self.network,
            self.importance,
            share=share_at(epoch, epochs=recipe.epochs, target=recipe.slim),
            example=torch.zeros(1, 3, *size, device=self.device),
        )
        silence(self.network, self.silent)
        self.importance = {name: torch.zeros_like(v) for name, v in self.importance.items()}

    def end_epoch(self) -> None:
        """What is silent is silent in the average, too."""
        silence(self.average, self.silent)

    def state(self) -> dict[str, Any]:
        """Everything that ``load_state`` needs to go on bit for bit."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "importance": self.importance,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what ``state`` returned."""
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.importance = {
            name: value.to(self.device) for name, value in state["importance"].items()
        }


class _Heads(nn.Module):
    """A network whose ``forward`` returns the logits of every head, as DDP needs it."""

    def __init__(self, network: Trained) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> list[Tensor]:
        heads: list[Tensor] = self.network.heads(inputs)
        return heads
