from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.optim.swa_utils import AveragedModel

from segdeploy.deploy.models import UNet, UNetPlusPlus
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.models.networks import Network, build_network
from segdeploy.deploy.models.state_dicts import UNNAMED, find, weights_in
from segdeploy.deploy.system.errors import InputError, UsageError

StateDict = dict[str, Tensor]

WORDS = st.sampled_from(["model", "ema", "net", "best", "state_dict", "weights", "0"])
PREFIXES = st.sampled_from(["module.", "_orig_mod.", "model.", "ema_model.", "net.G."])


def state(arch: Architecture, *, fill: float = 0.0) -> StateDict:
    network = build_network(arch, width=1, deep_supervision=False)
    return {
        key: torch.full_like(value, fill) if value.is_floating_point() else value
        for key, value in network.state_dict().items()
    }


def prefixed(tensors: StateDict, prefix: str) -> StateDict:
    return {prefix + key: value for key, value in tensors.items()}


def same(found: StateDict, expected: StateDict) -> bool:
    return found.keys() == expected.keys() and all(found[key] is expected[key] for key in expected)


@settings(max_examples=60, deadline=None)
@given(
    arch=st.sampled_from(Architecture),
    path=st.lists(WORDS, max_size=3),
    prefix=st.lists(PREFIXES, max_size=3).map("".join),
)
def test_one_network_is_found_however_it_is_wrapped(
    arch: Architecture, path: list[str], prefix: str
) -> None:
    expected = state(arch)
    beside = {"n_averaged": torch.tensor(3)} if prefix else {}
    content: object = prefixed(expected, prefix) | beside
    for word in reversed(path):
        content = {"epoch": 3, word: content, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}
    tensors, name = weights_in(content, source="x.pth")
    assert same(tensors, expected)
    assert name is None, "only one of several has a name"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, PREFIXES), min_size=2, max_size=4, unique_by=lambda t: t[0]))
def test_several_networks_are_named_and_each_name_leads_to_its_own(
    places: list[tuple[str, str]],
) -> None:
    states = [state(Architecture.U_NET, fill=float(index)) for index in range(len(places))]
    content = {
        word: prefixed(tensors, prefix)
        for (word, prefix), tensors in zip(places, states, strict=True)
    }
    found = find(content)
    assert len({weights.name for weights in found}) == len(places)
    with pytest.raises(UsageError, match=f"holds {len(places)} networks that fit") as caught:
        weights_in(content, source="x.pth")
    for weights, expected in zip(found, states, strict=True):
        assert weights.name in str(caught.value)
        tensors, name = weights_in(content, source="x.pth", chosen=weights.name)
        assert name == weights.name
        assert same(tensors, expected)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"model": {}, "ema": {}}, ["model", "ema"]),
        ({"state_dict": {"module.": {}}, "state_dict_ema": {"module.": {}}}, None),
        ({"state_dict": {"model.": {}, "model_ema.module.": {}}}, None),
    ],
)
def test_names_say_where_the_weights_stand(
    content: dict[str, dict[str, object]], names: list[str] | None
) -> None:
    """As timm, Lightning and others nest them; ``module`` says nothing and is left out."""
    unet = state(Architecture.U_NET)
    built: dict[str, object] = {
        key: {k: v for prefix in prefixes or [""] for k, v in prefixed(unet, prefix).items()}
        for key, prefixes in content.items()
    }
    expected = names or [
        ".".join([key, *(part for part in prefix.split(".") if part not in ("", "module"))])
        for key, prefixes in content.items()
        for prefix in prefixes
    ]
    assert [weights.name for weights in find(built)] == expected


def test_names_that_would_be_the_same_keep_what_tells_them_apart() -> None:
    unet = state(Architecture.U_NET)
    found = find(prefixed(unet, "model.") | prefixed(unet, "model.module."))
    assert [weights.name for weights in found] == ["model", "model.module"]


def test_a_copy_under_a_prefix_stands_beside_the_plain_one() -> None:
    plain, average = state(Architecture.U_NET), state(Architecture.U_NET, fill=1)
    content = plain | prefixed(average, "ema.")
    assert [weights.name for weights in find(content)] == [UNNAMED, "ema"]
    assert same(weights_in(content, source="x", chosen=UNNAMED)[0], plain)
    assert same(weights_in(content, source="x", chosen="ema")[0], average)


def test_what_is_the_same_mapping_is_one_network() -> None:
    unet = state(Architecture.U_NET)
    tensors, name = weights_in({"model": unet, "state_dict": unet}, source="x.pth")
    assert same(tensors, unet)
    assert name is None


def test_a_name_that_is_not_there() -> None:
    content = {"model": state(Architecture.U_NET), "ema": state(Architecture.U_NET)}
    with pytest.raises(UsageError, match=r"--weights swa: not in x\.pth; it holds model, ema"):
        weights_in(content, source="x.pth", chosen="swa")
    with pytest.raises(UsageError, match="it holds no known network"):
        weights_in({"fc.weight": torch.zeros(1)}, source="x.pth", chosen="swa")


def test_the_only_network_may_be_named() -> None:
    unet = state(Architecture.U_NET)
    assert weights_in({"ema": unet}, source="x.pth", chosen="ema")[1] is None


def test_without_a_known_network_what_stands_there_is_judged_as_before() -> None:
    with pytest.raises(InputError, match="holds no tensors"):
        weights_in({"epoch": 3}, source="x.pth")


def test_a_file_that_claims_endless_networks_is_taken_apart_in_time() -> None:
    content = {f"{i}.Conv1.conv.0.weight": torch.zeros(1) for i in range(20_000)}
    with pytest.raises(UsageError, match="holds 32 networks that fit"):
        weights_in(content, source="x.pth")


def test_weights_averaged_by_torch(tmp_path: Path) -> None:
    """``AveragedModel`` puts ``module.`` before every key but one, ``n_averaged``."""
    torch.manual_seed(0)
    network = UNetPlusPlus(width=2, deep_supervision=False).eval()
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    torch.save(averaged.state_dict(), tmp_path / "swa.pth")
    assert_same_output(load_checkpoint(tmp_path / "swa.pth").network, network)


def test_a_training_state_with_an_average(tmp_path: Path) -> None:
    """Plain weights, their average, optimizer and counters in one file; the name decides."""
    torch.manual_seed(0)
    network = UNet(width=2).eval()
    average = copy.deepcopy(network)
    with torch.no_grad():
        average.Conv_1x1.bias.add_(1)  # type: ignore[union-attr]  # it has one
    optimizer = optim.Adam(network.parameters())
    network(torch.zeros(1, 3, 16, 16)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.pkl"
    data_parallel = nn.DataParallel(network)
    content = {
        "epoch": 7,
        "model": data_parallel.state_dict(),
        "model_ema": OrderedDict(average.state_dict()),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)
    with pytest.raises(UsageError, match=r"networks that fit: model, model_ema; .*--weights model"):
        load_checkpoint(path, image_sizes=lambda: [(64, 64)])
    for name, expected in (("model", network), ("model_ema", average)):
        loaded = load_checkpoint(path, weights=name, image_sizes=lambda: [(64, 64)])
        assert loaded.weights == name
        assert_same_output(loaded.network, expected)


def test_a_lightning_checkpoint(tmp_path: Path) -> None:
    """``.ckpt``: ``state_dict`` under the attribute's name, beside a loss with weights."""
    network = UNetPlusPlus(width=2).eval()
    state_dict = prefixed(dict(network.state_dict()), "model.") | {"loss.weight": torch.ones(1)}
    content = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state_dict,
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 1e-3}]}],
        "hyper_parameters": {"lr": 1e-3},
    }
    torch.save(content, tmp_path / "epoch=1.ckpt")
    loaded = load_checkpoint(tmp_path / "epoch=1.ckpt")
    assert loaded.weights is None
    assert_same_output(loaded.network, network)


def assert_same_output(found: Network, expected: Network) -> None:
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(found(x), expected(x))
