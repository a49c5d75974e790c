from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from segdeploy.training.losses import LOSSES, LossFunction, bce_dice, bce_lovasz

SEEDS = st.integers(0, 2**31)


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def random_case(shape: tuple[int, ...], seed: int, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    logits = torch.randn(shape, generator=generator(seed)) * spread
    truth = (torch.rand(shape, generator=generator(seed + 1)) < 0.3).float()
    return logits, truth


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), SEEDS, st.floats(0.1, 20))
def test_bce_dice_is_its_formula(batch: int, seed: int, spread: float) -> None:
    logits, truth = random_case((batch, 1, 5, 6), seed, spread)
    x, t = logits.double().numpy(), truth.double().numpy()
    p = 1 / (1 + np.exp(-x))
    bce = np.mean(np.logaddexp(0, x) - t * x)
    dice = [(2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, t, strict=True)]
    assert bce_dice(logits, truth).item() == pytest.approx(bce + 1 - np.mean(dice), rel=1e-4)


def test_bce_dice_of_sure_predictions() -> None:
    truth = torch.zeros(2, 1, 8, 8)
    truth[0, 0, :4] = 1  # the second image is empty
    right = (truth * 2 - 1) * 50
    assert bce_dice(right, truth).item() == pytest.approx(0, abs=1e-6)
    # Wrong everywhere: BCE 50; Dice 1 / 65 on both (32 + 32 and 64 + 0 pixels).
    assert bce_dice(-right, truth).item() == pytest.approx(50 + 1 - 1 / 65, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES.values())
@pytest.mark.parametrize("value", [-1e4, 0.0, 1e4])
def test_a_loss_has_a_finite_gradient_in_single_precision(loss: LossFunction, value: float) -> None:
    logits = torch.full((2, 1, 4, 4), value, dtype=torch.bfloat16, requires_grad=True)
    truth = torch.zeros(2, 1, 4, 4)
    truth[0] = 1
    found = loss(logits, truth, None)
    assert found.dtype == torch.float32
    found.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), SEEDS)
def test_the_lovasz_hinge_at_its_corners_is_the_jaccard_loss(batch: int, seed: int) -> None:
    """With logits of +1 and -1 every hinge is 0 or 2: the extension is 2 (1 - IoU)."""
    _, truth = random_case((batch, 1, 6, 5), seed)
    signs, _ = random_case((batch, 1, 6, 5), seed + 2)
    logits = torch.where(signs > 0, 1.0, -1.0)
    found, wanted = (logits > 0).flatten(1), (truth > 0).flatten(1)
    union = (found | wanted).sum(1)
    iou = torch.where(union == 0, 1.0, (found & wanted).sum(1) / union.clamp(min=1))
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    expected = 0.5 * bce + 0.5 * (2 * (1 - iou)).mean()
    assert bce_lovasz(logits, truth).item() == pytest.approx(expected.item(), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_the_lovasz_hinge_is_convex(seed: int) -> None:
    a, truth = random_case((1, 1, 5, 5), seed)
    b, _ = random_case((1, 1, 5, 5), seed + 7)
    middle = bce_lovasz((a + b) / 2, truth)
    assert middle <= (bce_lovasz(a, truth) + bce_lovasz(b, truth)) / 2 + 1e-5


@pytest.mark.parametrize("loss", LOSSES.values())
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_what_lies_outside_the_field_does_not_count(loss: LossFunction, seed: int) -> None:
    logits, truth = random_case((2, 1, 6, 8), seed)
    field = torch.zeros(2, 1, 6, 8)
    field[:, :, 1:5, 2:7] = 1
    inside = loss(logits[:, :, 1:5, 2:7], truth[:, :, 1:5, 2:7], None)
    assert loss(logits, truth, field).item() == pytest.approx(inside.item(), rel=1e-5)
    logits.requires_grad_()
    loss(logits, truth, field).backward()
    assert logits.grad is not None
    assert logits.grad[field == 0].abs().max() == 0
    assert logits.grad[field == 1].abs().max() > 0
    everywhere = loss(logits.detach(), truth, torch.ones_like(truth))
    assert everywhere.item() == pytest.approx(loss(logits.detach(), truth, None).item(), rel=1e-5)
