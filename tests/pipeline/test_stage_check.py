"""A stage stops the run where its file has little to do with its parent, not where it loses."""

from __future__ import annotations

import numpy as np
import pytest

from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.pipeline.stage_check import unrelated

ONE = OutputContract()
FOUR = OutputContract(activation=Activation.SOFTMAX, classes=tuple("abcd"))
CONTRACTS = {"one label": ONE, "four classes": FOUR}


def probabilities(output: OutputContract, *, seed: int, gain: float = 3.0) -> np.ndarray:  # type: ignore[type-arg]  # of float64
    """Of smooth maps, so that most pixels are far from a tie."""
    logits = gain * np.random.default_rng(seed).normal(size=(4, output.channels, 16, 16))
    if output.binary:
        return np.asarray(1 / (1 + np.exp(-logits)))
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("name", CONTRACTS)
def test_another_output_is_unrelated_and_a_noisy_one_is_not(name: str) -> None:
    output = CONTRACTS[name]
    before, other = (probabilities(output, seed=seed) for seed in (0, 1))
    assert unrelated(before, other, output, percent=10)
    mixed = 0.6 * before + 0.4 * other
    changed = output.members(before) != output.members(mixed)
    assert changed.any(axis=1).mean() > 0.05
    assert not unrelated(before, mixed, output, percent=1)


@pytest.mark.parametrize("name", CONTRACTS)
def test_one_class_everywhere_is_unrelated(name: str) -> None:
    output = CONTRACTS[name]
    before = probabilities(output, seed=0)
    after = np.zeros_like(before)
    after[:, 0] = 1
    assert unrelated(before, after, output, percent=10)


def test_ties_that_break_the_other_way_are_no_fault() -> None:
    before = np.full((1, 1, 8, 8), 0.49)
    assert not unrelated(before, before + 0.02, ONE, percent=10)
