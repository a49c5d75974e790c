"""How the learning rate moves from step to step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from segdeploy.training.recipe import Recipe, Schedule

STEP_SHARES = (0.6, 0.85)
"""Where along the training the step schedule divides the learning rate by ten."""


def scheduler(recipe: Recipe, optimiser: Optimizer, *, steps: int) -> LRScheduler:
    """The recipe's schedule over ``steps`` optimiser steps; call its ``step()`` after each."""
    if recipe.schedule is Schedule.ONE_CYCLE:
        return OneCycleLR(
            optimiser,
            max_lr=recipe.learning_rate,
            total_steps=steps,
            pct_start=recipe.warmup_share,
        )
    return LambdaLR(optimiser, lambda step: share_of_largest(recipe, step / steps))


def share_of_largest(recipe: Recipe, progress: float) -> float:
    """Learning rate over its largest value: a linear rise, then what the schedule says.

    Example:
        >>> recipe = Recipe(schedule=Schedule.COSINE, warmup_share=0.2)
        >>> [round(share_of_largest(recipe, p), 2) for p in (0.1, 0.2, 0.6, 1.0)]
        [0.5, 1.0, 0.5, 0.0]

    Args:
        recipe: cosine, step or constant.
        progress: share of all steps that are done, 0 to 1.
    """
    if progress < recipe.warmup_share:
        return progress / recipe.warmup_share
    if recipe.schedule is Schedule.COSINE:
        after = (progress - recipe.warmup_share) / (1 - recipe.warmup_share)
        return (1 + math.cos(math.pi * after)) / 2
    if recipe.schedule is Schedule.STEP:
        return 0.1 ** sum(progress >= share for share in STEP_SHARES)
    return 1.0
