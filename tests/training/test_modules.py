"""Any module in our loop: the same bits after an interruption, weights that load again."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import TINY, write_discs
from torch import Tensor, nn

import segdeploy.training.loop
from segdeploy.api.load import load
from segdeploy.api.train import train
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.recipe import Recipe
from segdeploy.verify.verify import verify

FACTORY = f"{__name__}:TwoHeads"
RECIPE = Recipe(epochs=2, batch=2, learning_rate=0.05, ema=0.5)


class TwoHeads(nn.Module):
    """A deep and a shallow output, with dropout and a BatchNorm without scales."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4, affine=False),
            nn.Dropout(0.2),
            nn.LeakyReLU(0.1),
        )
        self.deep, self.shallow = nn.Conv2d(4, 1, 3, padding=1), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"shallow": self.shallow(x), "deep": self.deep(self.body(x))}


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = ["train"] * 4 + ["val"] * 2 + ["test"]
    return write_discs(tmp_path_factory.mktemp("discs"), splits, seed=1, area=(40, 90))


def trained(discs: Path, out: Path, module: nn.Module | str = FACTORY, **more: object) -> Path:
    recipe = dataclasses.replace(RECIPE, **more)  # type: ignore[arg-type]  # keyword by keyword
    found = train(discs, out, module=module, recipe=recipe, preprocess=TINY, threads=1, quiet=True)
    return found.checkpoint


def test_an_interrupted_training_ends_with_the_same_bits_and_loads_again(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = trained(discs, tmp_path / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(segdeploy.training.loop, "evaluate", _interrupted_in_epoch_2())
        with pytest.raises(KeyboardInterrupt):
            trained(discs, tmp_path / "stopped")
    trained(discs, tmp_path / "stopped")
    for name in ("best.safetensors", "last.safetensors"):
        one, other = ((tmp_path / where / name).read_bytes() for where in ("whole", "stopped"))
        assert one == other, name

    again = load(best, module=FACTORY)  # the contract is stored with the weights
    assert isinstance(again, LoadedModule)
    assert again.preprocess == TINY
    assert set(again.network.state_dict()) == set(TwoHeads().state_dict())
    assert not verify(tmp_path / "whole").changes


def _interrupted_in_epoch_2() -> Callable[..., object]:
    evaluate, calls = segdeploy.training.loop.evaluate, itertools.count(1)

    def interrupted(*arguments: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)  # type: ignore[arg-type]  # passed on as they came

    return interrupted


def test_what_is_given_stays_as_it_is_and_every_head_is_trained(
    discs: Path, tmp_path: Path
) -> None:
    given = TwoHeads().train()
    before = {key: value.clone() for key, value in given.state_dict().items()}
    best = trained(discs, tmp_path / "out", given)
    assert all(torch.equal(value, before[key]) for key, value in given.state_dict().items())
    assert given.training
    found = load(best, module=FACTORY)
    assert isinstance(found, LoadedModule)
    after = found.network.state_dict()
    for key in ("deep.weight", "shallow.weight", "body.0.weight"):
        assert not torch.equal(after[key], before[key]), key


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"width": 8}, "width is 8"),
        ({"recurrence": 2}, "recurrence is 2"),
        ({"slim": 0.2}, "slim is 0.2"),
        ({"sparsity": 0.1}, "sparsity is 0.1"),
    ],
)
def test_settings_of_known_networks_are_refused(
    discs: Path, tmp_path: Path, setting: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        trained(discs, tmp_path / "out", **setting)
    assert not (tmp_path / "out").exists()


def test_probabilities_and_several_channels_are_refused(discs: Path, tmp_path: Path) -> None:
    ends = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid())
    with pytest.raises(InputError, match="before its sigmoid"):
        trained(discs, tmp_path / "out", ends)
    two = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Softmax(1))
    with pytest.raises(InputError):
        trained(discs, tmp_path / "out", two)
