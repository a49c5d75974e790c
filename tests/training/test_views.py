from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import TINY

import segdeploy.training.views
from segdeploy.deploy.data.image_set import open_set
from segdeploy.training.augment import PASTED
from segdeploy.training.augmentation import Augmentation
from segdeploy.training.recipe import Recipe
from segdeploy.training.views import Pixels, Views, pass_order

STILL = Augmentation(
    zoom=(1.0, 1.0), anisotropy=0, tilt_radians=0, shift=0, elastic_std=0, colour=0
)


@given(st.integers(1, 50), st.integers(0, 9), st.integers(1, 9), st.integers(1, 60))
def test_a_pass_shows_every_image_once(count: int, seed: int, turn: int, batch: int) -> None:
    order = list(pass_order(count, seed=seed, turn=turn, batch=batch))
    assert sorted(i for indices in order for i in indices) == list(range(count))
    assert all(len(indices) == batch for indices in order[:-1])
    assert order == list(pass_order(count, seed=seed, turn=turn, batch=batch))


def test_another_pass_has_another_order() -> None:
    orders = {tuple(next(pass_order(50, seed=s, turn=t, batch=50))) for s in (0, 1) for t in (1, 2)}
    assert len(orders) == 4


def test_a_view_depends_on_seed_pass_and_image_alone(image_set: Path) -> None:
    samples = open_set(image_set, "train")
    views = Views(samples, Recipe(), TINY)
    again = Views(samples, Recipe(), TINY)
    first = views[1, 3]
    again[1, 2], again[2, 3]
    assert torch.equal(first[0], again[1, 3][0])
    others = [views[2, 3], views[1, 2], Views(samples, Recipe(seed=1), TINY)[1, 3]]
    assert not any(torch.equal(first[0], other[0]) for other in others)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_views_they_are_asked_for(image_set: Path, workers: int) -> None:
    views = Views(open_set(image_set, "train"), Recipe(), TINY)
    places = [[(1, 0), (1, 5)], [(1, 2)]]
    batches = list(views.batches(places, workers=workers))
    for batch, asked in zip(batches, places, strict=True):
        assert batch.inputs.shape == (len(asked), 3, 32, 32)
        assert batch.field is None
        for i, place in enumerate(asked):
            assert torch.equal(batch.inputs[i], views[place][0])
            assert torch.equal(batch.truth[i], views[place][1])


def test_images_beyond_the_cache_are_read_when_they_are_drawn(
    image_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = open_set(image_set, "train")
    cached = Views(samples, Recipe(), TINY)
    monkeypatch.setattr(segdeploy.training.views, "CACHE_BYTES", 20_000)
    partly = Views(samples, Recipe(), TINY)
    assert 0 < len(partly.cache) < len(cached.cache) == len(samples)
    for index in range(len(samples)):
        assert torch.equal(partly[1, index][0], cached[1, index][0])


def test_patches_are_parts_of_the_view(image_set: Path) -> None:
    """Without augmentation, up to one of the eight symmetries of the whole image."""
    samples = open_set(image_set, "train")
    recipe = Recipe(augmentation=STILL, patch=16)
    patches = Views(samples, recipe, TINY)
    truth = torch.from_numpy(samples.truths(TINY)[0]).float()[None]
    turned = [
        torch.rot90(image, turns, dims=(1, 2))
        for image in (truth, truth.flip(2))
        for turns in range(4)
    ]
    places = set()
    for epoch in range(1, 9):
        inputs, patch, _ = patches[epoch, 0]
        assert inputs.shape == (3, 16, 16)
        found = [
            (n, top, left)
            for n, image in enumerate(turned)
            for top in range(17)
            for left in range(17)
            if (image[:, top : top + 16, left : left + 16] != patch).float().mean() < 0.02
        ]
        assert found
        places.add(found[0])
    assert len(places) > 1


def test_a_mixed_view_shows_a_rectangle_of_another_image(image_set: Path) -> None:
    """Dark empty images, and one that is bright and all nucleus."""
    mixed = replace(STILL, mix=1.0)
    views = Views(open_set(image_set, "train"), Recipe(augmentation=mixed), TINY)
    for index, pixels in views.cache.items():
        value = 255 if index == 1 else 0
        views.cache[index] = Pixels(
            image=torch.full_like(pixels.image, value),
            mask=torch.full_like(pixels.mask, value),
            field=None,
        )
    shares = []
    for turn in range(1, 41):
        inputs, truth, _ = views[turn, 0]
        assert torch.equal(inputs[0] > 0, truth[0] > 0)  # image and mask change together
        rows, columns = truth[0].any(dim=1), truth[0].any(dim=0)
        assert torch.equal(truth[0] > 0, rows[:, None] & columns[None])
        if truth.any():
            shares += [rows.float().mean().item(), columns.float().mean().item()]
    assert len(shares) > 4
    assert PASTED[0] - 0.02 <= min(shares) < max(shares) <= PASTED[1] + 0.02


def test_patches_lie_in_the_field_of_view(image_set: Path) -> None:
    """Only the right half is seen: the centre of each patch is there, and the field says so."""
    (image_set / "fov").mkdir()
    for path in (image_set / "masks").iterdir():
        with Image.open(path) as mask:
            field = np.zeros((mask.height, mask.width), np.uint8)
        field[:, field.shape[1] // 2 :] = 255
        Image.fromarray(field).save(image_set / "fov" / path.name)
    samples = open_set(image_set, "train")
    views = Views(samples, Recipe(augmentation=STILL, patch=16), TINY)
    for epoch in range(1, 6):
        batch = next(iter(views.batches([[(epoch, i) for i in range(len(samples))]], workers=0)))
        assert batch.field is not None
        assert batch.field.shape == batch.truth.shape
        assert set(batch.field.unique().tolist()) <= {0.0, 1.0}
        assert (batch.field[:, 0, 7:10, 7:10] == 1).any(dim=(1, 2)).all()
        assert 0.3 < batch.field.mean() <= 1
