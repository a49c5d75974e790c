from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from tiny import TINY
from torch import Generator, Tensor, nn

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.networks import Network, build_network
from segdeploy.deploy.system.checksums import CHECKSUMS
from segdeploy.deploy.system.errors import InputError, RunError, UsageError
from segdeploy.training.augment import jitter_colour, random_grid, sample
from segdeploy.training.augmentation import MILD, STRONG, WIDE, Augmentation
from segdeploy.training.evaluate import ValidationSet, evaluate
from segdeploy.training.files import FILES
from segdeploy.training.loop import Settings, TrainingResult, train
from segdeploy.training.losses import bce_dice
from segdeploy.training.recipe import Recipe

SEEDS = st.integers(0, 2**31)


def generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


# --- augmentation ------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 3), SEEDS)
def test_the_identity_view_is_the_contracts_resize(
    height: int, width: int, scale: int, seed: int
) -> None:
    size = (16 * scale, 32)
    pixels = torch.randint(256, (3, height, width), generator=generator(seed), dtype=torch.uint8)
    identity = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    grid = functional.affine_grid(identity, [1, 1, *size], align_corners=False)
    view = sample(pixels, grid).permute(1, 2, 0).numpy()
    assert np.abs(view - resize(pixels.permute(1, 2, 0).numpy(), size)).max() <= 0.51


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_view_is_made_by_its_seed(seed: int) -> None:
    pixels = torch.randint(256, (3, 40, 48), generator=generator(seed), dtype=torch.uint8)
    kept = pixels.clone()
    views = []
    for start in (seed, seed, seed + 1):
        source = generator(start)
        grid = random_grid((32, 48), source)
        assert grid.shape == (1, 32, 48, 2)
        view = sample(pixels, grid)
        cut = view.clone()
        views.append(jitter_colour(view, source))
        assert torch.equal(view, cut), "jitter_colour wrote to its input"
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert torch.equal(pixels, kept)
    for view in views:
        assert (view.shape, view.dtype) == ((3, 32, 48), torch.float32)
        assert view.min() >= 0
        assert view.max() <= 255


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_image_and_mask_move_together(seed: int) -> None:
    grey = torch.randint(256, (1, 40, 48), generator=generator(seed), dtype=torch.uint8)
    grid = random_grid((32, 32), generator(seed))
    image = sample(grey.expand(3, -1, -1), grid)
    assert torch.equal(image, sample(grey, grid).expand(3, -1, -1))


def test_views_turn_and_mirror() -> None:
    """The direction in which x grows, and whether the view is a mirror image."""
    seen = set()
    for seed in range(64):
        grid = random_grid((32, 32), generator(seed))[0]
        right, down = (grid[:, -1] - grid[:, 0]).mean(dim=0), (grid[-1] - grid[0]).mean(dim=0)
        quarter = round(math.atan2(float(right[1]), float(right[0])) / (math.pi / 2)) % 4
        seen.add((quarter, bool(right[0] * down[1] - right[1] * down[0] > 0)))
    assert seen == {(quarter, sign) for quarter in range(4) for sign in (False, True)}


@pytest.mark.parametrize("augmentation", [WIDE, STRONG, MILD])
def test_a_view_departs_from_the_image_no_further_than_it_may(augmentation: Augmentation) -> None:
    """Zoom, stretch and shift, measured on the grids with the elastic field switched off."""
    still = dataclasses.replace(augmentation, elastic_std=0.0)
    narrow, wide = augmentation.zoom
    least = 1 - augmentation.anisotropy  # one side times 1 + a, the other over it
    for seed in range(64):
        grid = random_grid((32, 32), generator(seed), still)[0]
        right = (grid[:, -1] - grid[:, 0]).mean(dim=0) / (2 * 31 / 32)
        down = (grid[-1] - grid[0]).mean(dim=0) / (2 * 31 / 32)
        for side in (right, down):
            assert narrow * least - 1e-4 <= side.norm() <= wide / least + 1e-4
        centre = grid.mean(dim=(0, 1)).abs().max()
        assert centre <= augmentation.shift + max(0.0, 1 - narrow) + 1e-5


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_a_stain_turns_light_and_dark_around_in_each_channel(seed: int) -> None:
    ramp = torch.linspace(0, 255, 64).expand(3, 8, 64)
    stain = dataclasses.replace(WIDE, colour=0.0, stain=1.0)
    stained = jitter_colour(ramp, generator(seed), stain)
    assert (stained.diff(dim=2) <= 0).all()
    assert stained[:, :, 0].eq(255).all()
    assert stained[:, :, -1].eq(0).all()
    assert not torch.equal(stained[0], stained[1])  # each channel has a gamma of its own


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_no_augmentation_leaves_the_eight_symmetries(seed: int) -> None:
    none = Augmentation(
        zoom=(1.0, 1.0), anisotropy=0, tilt_radians=0, shift=0, elastic_std=0, colour=0
    )
    pixels = torch.randint(256, (3, 32, 32), generator=generator(seed), dtype=torch.uint8)
    source = generator(seed)
    view = jitter_colour(sample(pixels, random_grid((32, 32), source, none)), source, none)
    symmetries = [
        torch.rot90(image, turns, dims=(1, 2))
        for image in (pixels, pixels.flip(2))
        for turns in range(4)
    ]
    assert min((view - image).abs().max().item() for image in symmetries) < 0.05


# --- evaluation --------------------------------------------------------------------------------


class Echo(nn.Module):
    """Returns the first channel as logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


def validation(logits: NDArray[np.float32], truth: NDArray[np.bool_]) -> ValidationSet:
    return ValidationSet(
        inputs=torch.from_numpy(np.repeat(logits[:, None], 3, axis=1)),
        truth=torch.from_numpy(truth).float()[:, None],
        field=None,
    )


def test_evaluate_is_the_mean_over_images_in_any_number_of_batches() -> None:
    truth = np.zeros((37, 96, 96), np.bool_)
    truth[:, :48] = True
    logits = np.where(truth, 3.0, -3.0).astype(np.float32)
    assert evaluate(Echo(), validation(logits, truth), bce_dice).iou == 100
    assert evaluate(Echo(), validation(-logits, truth), bce_dice).iou == 0
    logits[0, 24:48] = -3.0  # one image of 37 keeps half of its foreground
    found = evaluate(Echo(), validation(logits, truth), bce_dice)
    assert found.iou == pytest.approx(100 * 36.5 / 37)
    whole = validation(logits, truth)
    assert found.loss == pytest.approx(bce_dice(whole.inputs[:, :1], whole.truth).item(), rel=1e-5)


def test_evaluate_looks_inside_the_field_only() -> None:
    truth = np.zeros((2, 16, 16), np.bool_)
    truth[:, :8] = True
    logits = np.where(truth, 3.0, -3.0).astype(np.float32)
    logits[:, :, 8:] *= -1  # the right half is all wrong
    images = validation(logits, truth)
    assert evaluate(Echo(), images, bce_dice).iou == pytest.approx(100 / 3)
    field = torch.zeros(2, 1, 16, 16)
    field[..., :8] = 1
    assert evaluate(Echo(), dataclasses.replace(images, field=field), bce_dice).iou == 100


# --- the loop ----------------------------------------------------------------------------------


def run(folder: Path, output: Path, **changes: object) -> TrainingResult:
    recipe = Recipe(**({"epochs": 2, "batch": 4, "width": 4} | changes))  # type: ignore[arg-type]  # keyword by keyword
    return train(
        recipe,
        train_set=open_set(folder, "train"),
        val_set=open_set(folder, "val"),
        preprocess=TINY,
        output=output,
        settings=Settings(quiet=True),
    )


def history(output: Path) -> list[dict[str, float]]:
    with (output / "history.csv").open(newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).network.state_dict()


@pytest.mark.parametrize("arch", list(Architecture))
def test_training_leaves_a_checkpoint_that_scores_what_it_says(
    arch: Architecture, image_set: Path, tmp_path: Path
) -> None:
    result = run(image_set, tmp_path / "out", arch=arch, ema=0.5)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names | {"curves.png"} == {*FILES, CHECKSUMS}  # curves need matplotlib
    rows = history(tmp_path / "out")
    assert [row["epoch"] for row in rows] == [1, 2]
    ious = [row["val_iou"] for row in rows]
    assert result.best_val_iou == max(ious)
    assert result.best_epoch == 1 + ious.index(max(ious))
    loaded = load_checkpoint(result.checkpoint)
    assert loaded.arch is arch
    assert loaded.preprocess == TINY
    val = ValidationSet.of(open_set(image_set, "val"), TINY)
    again = evaluate(loaded.network, val, bce_dice)
    assert again.iou == result.best_val_iou
    assert again.loss == rows[result.best_epoch - 1]["val_loss"]
    assert all(row["images_per_s"] > 0 and row["seconds"] > 0 for row in rows)
    with safe_open(result.checkpoint, framework="pt") as stream:
        metadata = stream.metadata()
    assert metadata["epoch"] == str(result.best_epoch)
    assert float(metadata["val_iou"]) == pytest.approx(result.best_val_iou, abs=5e-4)


def test_a_checkpoint_states_the_recurrence_it_was_trained_with(
    image_set: Path, tmp_path: Path
) -> None:
    changes = {"arch": Architecture.R2U_NET, "recurrence": 1, "epochs": 1, "width": 2}
    result = run(image_set, tmp_path / "out", **changes)
    assert load_checkpoint(result.checkpoint).recurrence == 1


def test_two_epochs_are_one_of_two_passes(image_set: Path, tmp_path: Path) -> None:
    run(image_set, tmp_path / "epochs", epochs=2)
    run(image_set, tmp_path / "passes", epochs=1, passes=2)
    assert [len(history(tmp_path / name)) for name in ("epochs", "passes")] == [2, 1]
    epochs, passes = (weights(tmp_path / n / "last.safetensors") for n in ("epochs", "passes"))
    assert all(torch.equal(epochs[key], passes[key]) for key in epochs)


def test_the_same_seed_gives_the_same_run_and_another_does_not(
    image_set: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(7)  # whatever happened before must not matter
        run(image_set, tmp_path / name, seed=seed, width=2)
    one, two, three = (tmp_path / name for name in "abc")
    for name in ("best", "last"):
        file = f"{name}.safetensors"
        assert (one / file).read_bytes() == (two / file).read_bytes()
        assert (one / file).read_bytes() != (three / file).read_bytes()
    assert [r["train_loss"] for r in history(one)] == [r["train_loss"] for r in history(two)]
    assert [r["train_loss"] for r in history(one)] != [r["train_loss"] for r in history(three)]


def test_training_learns(image_set: Path, tmp_path: Path) -> None:
    result = run(image_set, tmp_path / "out", epochs=30, ema=0.5, learning_rate=1e-2)
    rows = history(tmp_path / "out")
    assert rows[-1]["train_loss"] < 0.6 * rows[0]["train_loss"]
    assert result.best_val_iou > 70


@pytest.mark.parametrize(("every_s", "lengths"), [(60.0, [3]), (0.0, [1, 2, 3, 3])])
def test_curves_are_drawn_at_the_end_and_as_often_as_one_may_look(
    image_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_s: float,
    lengths: list[int],
) -> None:
    drawn = []

    def write_curves(rows: list[object], folder: Path, *, since: int) -> bool:
        drawn.append(len(rows))
        return True

    for module in ("loop", "folder"):
        monkeypatch.setattr(f"segdeploy.training.{module}.write_curves", write_curves)
    monkeypatch.setattr("segdeploy.training.loop.CURVES_EVERY_S", every_s)
    run(image_set, tmp_path / "out", epochs=3, width=2)
    run(image_set, tmp_path / "out", epochs=3, width=2)  # finished: nothing is drawn again
    assert drawn == lengths


def test_the_saved_weights_are_the_average_not_the_last_step(
    image_set: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    initial: Network = build_network(Architecture.UNET_PLUS_PLUS, width=2)
    run(image_set, tmp_path / "frozen", ema=1.0, seed=5, width=2)
    run(image_set, tmp_path / "instant", ema=0.0, seed=5, width=2)
    run(image_set, tmp_path / "between", ema=0.9, seed=5, width=2)
    frozen, instant, between = (
        weights(tmp_path / name / "last.safetensors") for name in ("frozen", "instant", "between")
    )
    for key, value in initial.state_dict().items():
        if not value.is_floating_point():
            continue
        assert torch.equal(frozen[key], value), key
    moved = [key for key in instant if not torch.equal(instant[key], frozen[key])]
    assert "conv0_0.conv.0.weight" in moved
    assert "conv0_0.conv.1.running_mean" in moved
    for key in ("conv0_0.conv.0.weight", "conv0_0.conv.1.running_var"):
        assert 0 < (between[key] - frozen[key]).norm() < (instant[key] - frozen[key]).norm()


def test_a_pretrained_checkpoint_is_the_start(
    image_set: Path, tmp_path: Path, tiny_r2u_checkpoint: Path
) -> None:
    changes = {"arch": Architecture.R2U_NET, "pretrained": tiny_r2u_checkpoint, "ema": 1.0}
    run(image_set, tmp_path / "out", epochs=1, **changes)
    start, end = weights(tiny_r2u_checkpoint), weights(tmp_path / "out" / "last.safetensors")
    for key, value in start.items():
        assert torch.equal(end[key], value) or not value.is_floating_point(), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recurrence": 3}, "recurrence 3, but .*tiny_r2u.* states 2"),
        ({"width": 8}, "width 8, but .*tiny_r2u.* has 4"),
        ({"arch": Architecture.UNET_PLUS_PLUS}, "arch unet_plus_plus, but .*tiny_r2u"),
    ],
)
def test_a_pretrained_checkpoint_that_contradicts_the_recipe(
    image_set: Path,
    tmp_path: Path,
    tiny_r2u_checkpoint: Path,
    changes: dict[str, object],
    message: str,
) -> None:
    recipe = {"arch": Architecture.R2U_NET, "pretrained": tiny_r2u_checkpoint} | changes
    with pytest.raises(UsageError, match=message):
        run(image_set, tmp_path / "out", **recipe)


def test_a_diverged_training_stops_and_leaves_no_broken_checkpoint(
    image_set: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"epoch 1: the loss became (nan|inf); lower the learning"):
        run(image_set, tmp_path / "out", learning_rate=1e30)
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"recurrence": 0},
        {"width": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"warmup_share": 1.0},
        {"ema": 1.5},
        {"patience": 0},
        {"freeze_statistics_from": 0},
        {"clip_norm": -1.0},
        {"sparsity": -0.1},
        {"slim": 1.0},
        {"slim": 0.5, "epochs": 1},
        {"patch": 40},
    ],
)
def test_a_recipe_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Recipe(**wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_an_unreadable_training_image_is_named(image_set: Path, tmp_path: Path) -> None:
    path = open_set(image_set, "train").samples[2].image_path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        run(image_set, tmp_path / "out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out" / "best.safetensors").exists()
