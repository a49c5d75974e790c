from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import Network, build_network
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.rewrites.channel_activity import channel_activity
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.rewrite import RewriteName, rewrite
from segdeploy.deploy.system.errors import UsageError
from segdeploy.training.batch_norm import batch_norms
from segdeploy.training.loop import Settings, train
from segdeploy.training.recipe import Recipe
from segdeploy.training.slimming import (
    choose_silent,
    complete_from,
    importance_of_step,
    share_at,
    silence,
    sparsity,
)

EXAMPLE = torch.zeros(1, 3, 32, 32)
SLIMMED = [arch for arch in Architecture if not arch.gated]


def network(arch: Architecture) -> Network:
    torch.manual_seed(0)
    made: Network = build_network(arch, width=16)
    for _, norm in batch_norms(made):
        nn.init.uniform_(norm.weight, 0.3, 0.8)
        nn.init.uniform_(norm.bias, 0.3, 0.8)  # whatever is not silent fires
        nn.init.constant_(norm.running_var, 2)
    return made


def importance(made: nn.Module, *, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(m.num_features, generator=generator) for n, m in batch_norms(made)}


def test_importance_is_what_the_loss_loses_without_the_channel() -> None:
    """For a loss linear in scale and offset the first order is exact."""
    made = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    torch.manual_seed(3)
    nn.init.normal_(made[1].weight)
    nn.init.normal_(made[1].bias)
    inputs, weights = torch.randn(4, 2, 5, 5), torch.randn(4, 3, 5, 5)

    def loss() -> Tensor:
        return (made(inputs) * weights).sum()

    whole = loss()
    whole.backward()
    found = importance_of_step(made)["1"]
    for channel in range(3):
        kept = copy.deepcopy(made.state_dict())
        silence(made, {"1": torch.arange(3) == channel})
        change = (loss() - whole).item()
        made.load_state_dict(kept)
        assert found[channel].item() == pytest.approx(change**2, rel=1e-3)


def test_without_gradients_nothing_matters() -> None:
    assert importance_of_step(nn.Sequential(nn.BatchNorm2d(2)))["0"].tolist() == [0, 0]


@pytest.mark.parametrize("arch", SLIMMED)
def test_a_larger_share_silences_more_and_never_less(arch: Architecture) -> None:
    made = network(arch)
    before = None
    for share in (0.0, 0.2, 0.5, 0.9):
        silent = choose_silent(made, importance(made), share=share, example=EXAMPLE)
        count = sum(int(channels.sum()) for channels in silent.values())
        assert before is None or count > before
        assert (count == 0) == (share == 0)
        before = count
        for name, norm in batch_norms(made):
            block = min(16, norm.num_features // 2)
            assert silent[name].sum() % block == 0
            assert silent[name].sum() <= norm.num_features - block


@pytest.mark.parametrize("arch", SLIMMED)
def test_what_is_silent_stays_chosen(arch: Architecture) -> None:
    made = network(arch)
    first = choose_silent(made, importance(made), share=0.2, example=EXAMPLE)
    later = importance(made, seed=1)
    for name, channels in first.items():
        later[name][channels] = 0
    again = choose_silent(made, later, share=0.4, example=EXAMPLE)
    for name, channels in first.items():
        assert (again[name] | ~channels).all(), name


def test_the_share_is_of_the_work() -> None:
    """Two layers that matter alike: the dearer one, on the larger map, goes first."""
    made = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
    )
    works = {"1": 27 * 32 * 32, "5": 288 * 8 * 8}  # multiply-adds of one output channel
    total = 32 * sum(works.values())
    alike = {name: torch.ones(32) for name in works}
    share = 16 * works["1"] / total + 1e-6
    silent = choose_silent(made, alike, share=share, example=EXAMPLE)
    assert {name: int(channels.sum()) for name, channels in silent.items()} == {"1": 16, "5": 0}


@pytest.mark.parametrize("arch", SLIMMED)
def test_the_rewrite_leaves_out_silent_channels_on_any_input(
    arch: Architecture, image_set: Path, tmp_path: Path
) -> None:
    made = network(arch).eval()
    silence(made, choose_silent(made, importance(made), share=0.3, example=EXAMPLE))
    contract = Preprocess(size=(32, 32))
    save_checkpoint(made, tmp_path / "net.safetensors", preprocess=contract)
    artifact = export(load_checkpoint(tmp_path / "net.safetensors"), tmp_path / "net.onnx")
    one_image = open_set(image_set, "val").samples[:1]
    activity = channel_activity(artifact.path, one_image, preprocess=contract, threads=1)
    names = [RewriteName.RECURRENT_SUM, RewriteName.DEAD_CHANNELS]
    smaller = rewrite(artifact, tmp_path / "small.onnx", names=names, activity=activity)
    assert onnx_cost(smaller.path).macs < 0.85 * onnx_cost(artifact.path).macs
    inputs = np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32) * 3
    before, after = (
        onnxruntime.InferenceSession(str(a.path)).run(None, {a.inputs[0].name: inputs})[0]
        for a in (artifact, smaller)
    )
    assert np.ptp(before) > 0.01
    np.testing.assert_allclose(after, before, atol=1e-4)


def test_the_penalty_is_the_mean_scale_and_pulls_towards_zero() -> None:
    made = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    made[1].weight.data[:] = torch.tensor([0.5, -2.0])
    penalty = sparsity(made)
    penalty.backward()
    assert penalty.item() == pytest.approx(1.25)
    assert made[1].weight.grad is not None
    assert made[1].weight.grad.tolist() == [0.5, -0.5]


def test_the_share_grows_to_its_target_in_half_of_the_epochs() -> None:
    shares = [share_at(epoch, epochs=20, target=0.4) for epoch in range(1, 21)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[9] < 0.4
    assert shares[10:] == [0.4] * 10
    assert complete_from(Recipe(epochs=20, slim=0.4)) == 11
    assert complete_from(Recipe(epochs=2, slim=0.4)) == 2


@pytest.mark.parametrize("arch", [arch for arch in Architecture if arch.gated])
def test_networks_with_gates_are_not_slimmed(arch: Architecture) -> None:
    with pytest.raises(UsageError, match=r"slim is 0\.3 for .*expected 0: a gate adds up channels"):
        Recipe(arch=arch, slim=0.3)


def test_the_best_epoch_is_one_that_is_slim(image_set: Path, tmp_path: Path) -> None:
    """Epochs before do not count, however good: every layer of the best has lost channels."""
    recipe = Recipe(epochs=4, batch=4, width=4, slim=0.3, ema=0.0)
    result = train(
        recipe,
        train_set=open_set(image_set, "train"),
        val_set=open_set(image_set, "val"),
        preprocess=Preprocess(size=(32, 32)),
        output=tmp_path,
        settings=Settings(quiet=True),
    )
    assert result.best_epoch >= 3
    norms = dict(batch_norms(load_checkpoint(result.checkpoint).network))
    silent = sum(int((norm.weight == 0).sum()) for norm in norms.values())
    assert silent > 0.1 * sum(norm.num_features for norm in norms.values())
    for norm in norms.values():
        assert (norm.bias[norm.weight == 0] == 0).all()
        assert (norm.weight != 0).any()
