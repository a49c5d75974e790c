from __future__ import annotations

import contextlib
import copy
import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.families import SHOWN_KEYS, Family, describe_misfit, detect, shown
from segdeploy.deploy.models.networks import DEFAULT_RECURRENCE, Network, build_network
from segdeploy.deploy.models.state_dicts import PREFIXES, WRAPPERS, unwrap
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError

StateDict = dict[str, Tensor]

NESTED_CONTRACT = Preprocess(
    mean=(0.485, 0.456, 0.406), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SUFFIXES = (".pth", ".pt", ".safetensors")


@pytest.fixture(scope="module")
def single_head(randomise: Callable[[Network], Network]) -> Network:
    return randomise(UNetPlusPlus(width=4, deep_supervision=False))


def logits_of(network: Network) -> Tensor:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        logits: Tensor = network(x)
    return logits


def write(content: object, path: Path) -> Path:
    """What a training script leaves: torch.save, or a plain safetensors file without metadata."""
    if path.suffix == ".safetensors":
        assert isinstance(content, dict)
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


# --- public keys -------------------------------------------------------------------------------


def conv_keys(name: str) -> set[str]:
    return {f"{name}.weight", f"{name}.bias"}


def norm_keys(name: str) -> set[str]:
    return {f"{name}.{part}" for part in NORM}


def nested_keys(layers: Mapping[str, bool], heads: list[str]) -> set[str]:
    """Keys of a public UNet++: for each node its layers (name: is it a BatchNorm), and heads."""
    keys = {key for head in heads for key in conv_keys(head)}
    for level in range(5):
        for column in range(5 - level):
            for layer, is_norm in layers.items():
                name = f"conv{level}_{column}.{layer}"
                keys |= norm_keys(name) if is_norm else conv_keys(name)
    return keys


def r2u_keys() -> set[str]:
    keys = conv_keys("Conv_1x1")
    blocks = [f"RRCNN{i}" for i in range(1, 6)] + [f"Up_RRCNN{i}" for i in range(2, 6)]
    for block in blocks:
        keys |= conv_keys(f"{block}.Conv_1x1")
        for i in (0, 1):
            keys |= conv_keys(f"{block}.RCNN.{i}.conv.0") | norm_keys(f"{block}.RCNN.{i}.conv.1")
    for i in range(2, 6):
        keys |= conv_keys(f"Up{i}.up.1") | norm_keys(f"Up{i}.up.2")
    return keys


ZOO_LAYERS = {"conv.0": False, "conv.1": True, "conv.3": False, "conv.4": True}
NESTED_LAYERS = {"conv1": False, "bn1": True, "conv2": False, "bn2": True}
FOUR_HEADS = [f"final{i}" for i in range(1, 5)]


def to_nested_unet(state: StateDict) -> StateDict:
    """UNET-ZOO keys to those of pytorch-nested-unet, as its authors named them."""
    for ours, theirs in zip(ZOO_LAYERS, NESTED_LAYERS, strict=True):
        state = {key.replace(f".{ours}.", f".{theirs}."): state[key] for key in state}
    return state


def test_our_keys_are_the_public_keys() -> None:
    assert set(R2UNet(width=1).state_dict()) == r2u_keys()
    deep, plain = UNetPlusPlus(width=1), UNetPlusPlus(width=1, deep_supervision=False)
    for network, heads in ((deep, FOUR_HEADS), (plain, ["final"])):
        assert set(network.state_dict()) == nested_keys(ZOO_LAYERS, heads)
        renamed = to_nested_unet(network.state_dict())
        assert set(renamed) == nested_keys(NESTED_LAYERS, heads)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("fixture", "rename", "family", "detected_logits"),
    [
        ("tiny_r2u", dict, Family.SHARED, None),
        ("tiny_unet", dict, Family.UNET_ZOO, False),
        ("single_head", dict, Family.UNET_ZOO, False),
        ("tiny_unet", to_nested_unet, Family.NESTED_UNET, True),
        ("single_head", to_nested_unet, Family.NESTED_UNET, True),
    ],
)
def test_each_family_loads_with_identical_outputs(
    fixture: str,
    rename: Callable[[StateDict], StateDict],
    family: Family,
    detected_logits: bool | None,
    suffix: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    network: Network = request.getfixturevalue(fixture)
    path = write(rename(network.state_dict()), tmp_path / f"public{suffix}")
    loaded = load_checkpoint(path)
    assert torch.equal(logits_of(loaded.network), logits_of(network))
    assert not loaded.network.training
    assert loaded.detected.family is family
    assert loaded.detected.logits is detected_logits
    assert loaded.logits is bool(detected_logits)
    assert loaded.detected.deep_supervision is (fixture == "tiny_unet")
    assert loaded.detected.width == 4
    assert (loaded.path, loaded.sha256) == (path, sha256_of(path))
    is_r2u = fixture == "tiny_r2u"
    assert loaded.arch is (Architecture.R2U_NET if is_r2u else Architecture.UNET_PLUS_PLUS)
    assert (loaded.recurrence, loaded.head) == ((DEFAULT_RECURRENCE, None) if is_r2u else (None, 4))
    assert loaded.parameters == sum(p.numel() for p in network.parameters())
    contract = NESTED_CONTRACT if family is Family.NESTED_UNET else Preprocess()
    assert loaded.preprocess == contract


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(WRAPPERS), max_size=2), st.lists(st.sampled_from(PREFIXES), max_size=3)
)
def test_wrappers_and_prefixes_come_off(wrappers: list[str], prefixes: list[str]) -> None:
    state = UNetPlusPlus(width=1, deep_supervision=False).state_dict()
    prefix = "".join(prefixes)
    wrapped: object = {prefix + key: value for key, value in state.items()}
    for wrapper in wrappers:
        wrapped = {"epoch": 3, wrapper: wrapped, "optimizer": {"state": {}}}
    found = unwrap(wrapped, source="x.pth")
    assert found.keys() == state.keys()
    assert all(found[key] is state[key] for key in state)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_files_load(
    tiny_r2u: R2UNet, tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    state = {prefix + key: value for key, value in tiny_r2u.state_dict().items()}
    content = {wrapper: state, "epoch": 7} if wrapper else state
    loaded = load_checkpoint(write(content, tmp_path / "wrapped.pth"))
    assert torch.equal(logits_of(loaded.network), logits_of(tiny_r2u))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_float_types_load_as_the_values_they_hold(
    tiny_unet: UNetPlusPlus, tmp_path: Path, dtype: torch.dtype, suffix: str
) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in _state(tiny_unet).items()}
    loaded = load_checkpoint(write(state, tmp_path / f"typed{suffix}"))
    expected = copy.deepcopy(tiny_unet)
    expected.load_state_dict(state)
    assert torch.equal(logits_of(loaded.network), logits_of(expected))
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}


def _state(network: Network) -> StateDict:
    return dict(network.state_dict())


def test_probability_is_one_sigmoid_whatever_the_source_returned(
    tiny_unet: UNetPlusPlus, tmp_path: Path
) -> None:
    path = write(tiny_unet.state_dict(), tmp_path / "x.pth")
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = 1 / (1 + torch.exp(-tiny_unet(x)))
        for logits in (None, True, False):
            loaded = load_checkpoint(path, logits=logits)
            assert loaded.logits is bool(logits)
            torch.testing.assert_close(loaded.probability()(x), expected)


# --- flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", range(1, 5))
def test_head_flag_chooses_the_head(
    tiny_unet: UNetPlusPlus, tiny_unet_checkpoint: Path, head: int
) -> None:
    loaded = load_checkpoint(tiny_unet_checkpoint, head=head)
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert torch.equal(loaded.network(x), tiny_unet.heads(x)[head - 1])
    assert loaded.head == head


def test_head_4_of_a_single_head_network_is_its_output(
    single_head: Network, tmp_path: Path
) -> None:
    path = write(single_head.state_dict(), tmp_path / "x.pth")
    assert torch.equal(
        logits_of(load_checkpoint(path, head=4).network), logits_of(load_checkpoint(path).network)
    )


def test_recurrence_is_the_files_else_the_callers_else_the_published(
    randomise: Callable[[Network], Network], tmp_path: Path
) -> None:
    network = randomise(R2UNet(width=4, recurrence=3))
    plain = write(network.state_dict(), tmp_path / "plain.pth")
    save_checkpoint(network, tmp_path / "own.safetensors", preprocess=Preprocess())
    for path, asked, expected in (
        (plain, None, 2),
        (plain, 3, 3),
        (tmp_path / "own.safetensors", None, 3),
        (tmp_path / "own.safetensors", 3, 3),
    ):
        loaded = load_checkpoint(path, recurrence=asked)
        assert loaded.recurrence == expected
        same = torch.equal(logits_of(loaded.network), logits_of(network))
        assert same == (expected == 3)


@pytest.mark.parametrize(
    ("fixture", "flags", "message"),
    [
        ("tiny_unet", {"arch": Architecture.R2U_NET}, "--arch r2u_net, but .*unet_plus_plus"),
        ("tiny_r2u", {"arch": Architecture.UNET_PLUS_PLUS}, "--arch unet_plus_plus, but .*r2u_net"),
        ("tiny_r2u", {"head": 4}, "--head chooses a UNet\\+\\+ head"),
        ("tiny_unet", {"recurrence": 2}, "--recurrence is R2U-Net's t"),
        ("single_head", {"head": 1}, "--head 1 needs .* deep supervision; .* has one head"),
        ("tiny_unet", {"head": 0}, "--head 0 does not exist; .* 1 to 4"),
        ("tiny_unet", {"head": 5}, "--head 5 does not exist; .* 1 to 4"),
        ("tiny_r2u", {"recurrence": 0}, "--recurrence 0: .* at least 1"),
        ("tiny_r2u", {"recurrence": -1}, "--recurrence -1: .* at least 1"),
        ("tiny_r2u", {"recurrence": 3}, "--recurrence 3, but .* states 2"),
    ],
)
def test_flags_that_contradict_the_file(
    fixture: str,
    flags: dict[str, object],
    message: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(request.getfixturevalue(fixture), path, preprocess=Preprocess())
    with pytest.raises(UsageError, match=message) as caught:
        load_checkpoint(path, **flags)  # type: ignore[arg-type]  # one flag at a time
    assert caught.value.exit_code == 2


def test_flags_that_agree_with_the_file(
    tiny_unet_checkpoint: Path, tiny_r2u_checkpoint: Path
) -> None:
    unet = load_checkpoint(tiny_unet_checkpoint, arch=Architecture.UNET_PLUS_PLUS, head=4)
    assert unet.head == 4
    r2u = load_checkpoint(tiny_r2u_checkpoint, arch=Architecture.R2U_NET, recurrence=2)
    assert r2u.recurrence == 2


def test_the_callers_contract_wins_over_the_files(tiny_unet_checkpoint: Path) -> None:
    assert load_checkpoint(tiny_unet_checkpoint).preprocess == Preprocess(size=(32, 32))
    other = Preprocess(size=(64, 48), channel_order="RGB")
    assert load_checkpoint(tiny_unet_checkpoint, preprocess=other).preprocess == other


# --- saving ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["tiny_unet", "tiny_r2u", "single_head"])
def test_save_then_load_is_the_identity(
    fixture: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    network: Network = request.getfixturevalue(fixture)
    preprocess = Preprocess(size=(48, 64), channel_order="RGB", mean=(0.4, 0.5, 0.6))
    path = tmp_path / "x.safetensors"
    save_checkpoint(network, path, preprocess=preprocess, metadata={"note": "übung"})
    loaded = load_checkpoint(path)
    assert loaded.preprocess == preprocess
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value), key
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    assert (metadata["note"], metadata["arch"]) == ("übung", loaded.arch.value)
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_the_same_network_gives_the_same_bytes(tiny_r2u: R2UNet, tmp_path: Path) -> None:
    metadata = {name: name * 3 for name in "abcdefgh"}
    path, digests = tmp_path / "x.safetensors", set()
    for _ in range(6):
        save_checkpoint(tiny_r2u, path, preprocess=Preprocess(), metadata=metadata)
        digests.add(sha256_of(path))
    assert len(digests) == 1


def test_half_precision_and_channels_last_save(tiny_unet: UNetPlusPlus, tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    scattered = copy.deepcopy(tiny_unet).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    save_checkpoint(scattered, full, preprocess=Preprocess())
    save_checkpoint(tiny_unet, half, preprocess=Preprocess(), dtype=torch.float16)
    assert torch.equal(logits_of(load_checkpoint(full).network), logits_of(tiny_unet))
    rounded = copy.deepcopy(tiny_unet).half().float()
    assert torch.equal(logits_of(load_checkpoint(half).network), logits_of(rounded))
    with safe_open(half, framework="pt") as stream:
        kinds = {stream.get_tensor(key).dtype for key in rounded.state_dict()}
    assert kinds == {torch.float16, torch.int64}


def test_a_folder_that_does_not_exist_is_an_os_error(tiny_r2u: R2UNet, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        save_checkpoint(tiny_r2u, tmp_path / "nowhere" / "x.safetensors", preprocess=Preprocess())


# --- files that do not fit ---------------------------------------------------------------------


def refused(path: Path, **stated: Any) -> str:
    """The message with which a file is refused; it must name the file."""
    with pytest.raises(InputError) as caught:
        load_checkpoint(path, **stated)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_misfit_names_missing_unexpected_and_differing_keys(
    tiny_unet: UNetPlusPlus, tmp_path: Path
) -> None:
    state = _state(tiny_unet)
    del state["conv1_1.conv.3.weight"]
    state["attention.weight"] = torch.zeros(2)
    state["conv2_0.conv.0.bias"] = torch.zeros(99)
    message = refused(write(state, tmp_path / "x.pth"))
    assert "does not fit unet_plus_plus" in message
    assert "1 missing keys: conv1_1.conv.3.weight" in message
    assert "1 unexpected keys: attention.weight" in message
    assert "conv2_0.conv.0.bias is (99,), expected (16,)" in message


def test_misfit_lists_a_few_keys_and_counts_the_rest(tiny_r2u: R2UNet, tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_r2u.state_dict().items() if not k.startswith("Up_RRCNN3.RCNN")}
    message = refused(write(state, tmp_path / "x.pth"))
    assert "12 missing keys: Up_RRCNN3.RCNN.0.conv.0.weight" in message
    assert "and 6 more" in message
    assert "unexpected" not in message
    assert "differing" not in message


def test_counters_of_batch_norm_may_be_missing(tiny_r2u: R2UNet, tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_r2u.state_dict().items() if "num_batches" not in k}
    loaded = load_checkpoint(write(state, tmp_path / "x.pth"))
    assert torch.equal(logits_of(loaded.network), logits_of(tiny_r2u))


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 2)),
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 2)),
)
def test_misfit_is_none_exactly_when_keys_and_shapes_agree(
    expected: dict[str, int], found: dict[str, int]
) -> None:
    misfit = describe_misfit(
        {key: torch.zeros(size) for key, size in expected.items()},
        {key: torch.zeros(size) for key, size in found.items()},
    )
    assert (misfit is None) == (expected == found)
    lines = (misfit or "").split("; ")
    for kind, keys in (
        ("missing", expected.keys() - found.keys()),
        ("unexpected", found.keys() - expected.keys()),
        ("differing", {k for k in expected.keys() & found.keys() if expected[k] != found[k]}),
    ):
        told = [line for line in lines if kind in line]
        assert len(told) == bool(keys)
        assert all(re.search(rf"\b{key}\b", told[0].split(":")[1]) for key in keys)


@given(st.integers(0, 20))
def test_shown_never_hides_how_many_there_are(count: int) -> None:
    text = shown(f"key{i}" for i in range(count))
    rest = re.search(r"and (\d+) more", text)
    assert text.count("key") + (int(rest[1]) if rest else 0) == count
    assert text.count("key") <= SHOWN_KEYS


@pytest.mark.parametrize("key", ["conv0_0.conv.0.weight", "final4.weight"])
def test_without_first_or_last_layer(tiny_unet: UNetPlusPlus, tmp_path: Path, key: str) -> None:
    state = _state(tiny_unet)
    del state[key]
    assert repr(key) in refused(write(state, tmp_path / "x.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"layer1.0.weight": torch.zeros(3)},
            "neither R2U-Net.* known U-Net.*layer1.0.weight",
        ),
        ({"epoch": 3, "loss": 0.1}, "holds no tensors .its keys: epoch, loss"),
        ({"state_dict": {}}, "holds no tensors"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([1, 2], "holds a list, not a state dict"),
    ],
)
def test_not_a_state_dict_of_ours(content: object, message: str, tmp_path: Path) -> None:
    assert re.search(message, refused(write(content, tmp_path / "x.pth")))


@pytest.mark.parametrize("arch", list(Architecture))
@pytest.mark.parametrize("activation", list(Activation))
def test_any_number_of_classes(arch: Architecture, activation: Activation, tmp_path: Path) -> None:
    network = build_network(arch, num_classes=3, width=2).eval()
    path = write(network.state_dict(), tmp_path / "x.pth")
    stated = OutputContract(activation=activation, classes=("a", "b", "c"))
    loaded = load_checkpoint(
        path,
        preprocess=Preprocess(size=(32, 32)),
        output=stated,
        recurrence=DEFAULT_RECURRENCE if arch.recurrent else None,
    )
    assert loaded.output == stated
    with torch.no_grad():
        logits = network(x := torch.rand(1, 3, 32, 32))
        expected = logits.softmax(1) if stated.exclusive else logits.sigmoid()
        assert torch.equal(loaded.probability()(x), expected)


def test_classes_that_nothing_names_are_labels_of_their_own_by_number(tmp_path: Path) -> None:
    network = build_network(Architecture.UNET_PLUS_PLUS, num_classes=3, width=2)
    loaded = load_checkpoint(write(network.state_dict(), tmp_path / "x.pth"))
    assert loaded.output == OutputContract(classes=("0", "1", "2"))


def test_an_output_contract_is_stored_with_the_weights(tmp_path: Path) -> None:
    network = build_network(Architecture.U_NET_BILINEAR, num_classes=2, width=2)
    stated = OutputContract(activation=Activation.SOFTMAX, classes=("sky", "sea"))
    path = tmp_path / "x.safetensors"
    save_checkpoint(network, path, preprocess=Preprocess(), output=stated)
    assert load_checkpoint(path).output == stated


@pytest.mark.parametrize("arch", list(Architecture))
@pytest.mark.parametrize("channels", [1, 4])
def test_other_input_channels_than_those_of_the_contract(
    arch: Architecture, channels: int, tmp_path: Path
) -> None:
    network = build_network(arch, in_channels=channels, width=2)
    path = write(network.state_dict(), tmp_path / "x.pth")
    for stated in (None, Preprocess()):
        message = refused(path, preprocess=stated)
        assert re.search(
            f"takes images of {channels} channels?, .* contract .* 3; .*--preprocess", message
        )


def test_other_names_than_classes(tmp_path: Path) -> None:
    network = build_network(Architecture.UNET_PLUS_PLUS, num_classes=2, width=2)
    path = write(network.state_dict(), tmp_path / "x.pth")
    message = refused(path, output=OutputContract(classes=("a", "b", "c")))
    assert re.search("2 output channels, .* names 3: a, b, c; .*--classes", message)


def test_more_classes_than_a_label_map_holds(tmp_path: Path) -> None:
    network = build_network(Architecture.UNET_PLUS_PLUS, num_classes=256, width=2)
    assert "at most 255" in refused(write(network.state_dict(), tmp_path / "x.pth"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["conv2_1.conv.3.weight", "conv0_4.conv.4.running_var"])
def test_weights_that_are_not_finite(
    tiny_unet: UNetPlusPlus, tmp_path: Path, value: float, key: str
) -> None:
    state = _state(tiny_unet)
    state[key].view(-1)[-1] = value
    assert f"{key!r} holds NaN or Inf" in refused(write(state, tmp_path / "x.safetensors"))


def test_weights_that_overflow_single_precision(tiny_unet: UNetPlusPlus, tmp_path: Path) -> None:
    state = _state(tiny_unet)
    state["final1.bias"] = torch.tensor([1e300], dtype=torch.float64)
    assert "'final1.bias' holds NaN or Inf" in refused(write(state, tmp_path / "x.pth"))


# --- files that cannot be read -----------------------------------------------------------------


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("way", ["torch.save", "pickle", "nested"])
def test_code_in_a_checkpoint_is_refused_and_not_run(
    way: str, tiny_r2u: R2UNet, tmp_path: Path
) -> None:
    target, path = tmp_path / "created", tmp_path / "evil.pth"
    bomb = Bomb(target)
    if way == "pickle":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        state: dict[str, object] = dict(tiny_r2u.state_dict())
        torch.save(state | {"hook": bomb} if way == "nested" else bomb, path)
    message = refused(path)
    assert not target.exists()
    assert "would execute code" in message
    assert "torch.save(model.state_dict(), path)" in message
    if way == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert target.exists(), "the file was harmless; the test shows nothing"


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(["zip", "legacy", "safetensors"]), share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused_by_name(
    kind: str, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _small_file(kind, tmp_path_factory.mktemp("cut"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert re.search("cannot be read|was refused", refused(path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, about the damage
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["zip", "legacy", "safetensors"]),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_file_loads_or_is_an_input_error(
    kind: str, damage: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = _small_file(kind, tmp_path_factory.mktemp("damaged"))
    content = bytearray(path.read_bytes())
    for position, value in damage:
        content[position] = value
    path.write_bytes(bytes(content))
    with contextlib.suppress(InputError):
        assert load_checkpoint(path).path == path


def _small_file(kind: str, folder: Path) -> Path:
    network = UNetPlusPlus(width=1, deep_supervision=False)
    path = folder / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_checkpoint(network, path, preprocess=Preprocess())
    else:
        zipped = kind == "zip"
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all\n" * 20])
def test_text_and_empty_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert re.search("cannot be read|is not a checkpoint", refused(path))


def test_missing_file_folder_and_wrong_suffix(tiny_r2u: R2UNet, tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nothing.pth")
    assert "is a folder" in refused(tmp_path)
    path = write(tiny_r2u.state_dict(), tmp_path / "x.h5")
    assert "'.h5'; expected one of .safetensors, .pth, .pt, .pkl, .ckpt" in refused(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"recurrence": "two"}, "states the recurrence 'two'"),
        ({"recurrence": "0"}, "states the recurrence '0'"),
        ({"preprocess": "{}"}, "does not hold a preprocessing contract"),
        ({"preprocess": json.dumps({"size": 96})}, "does not hold a preprocessing contract"),
    ],
)
def test_metadata_that_makes_no_sense(
    metadata: dict[str, str], message: str, tiny_r2u: R2UNet, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file(_state(tiny_r2u), path, metadata=metadata)
    assert message in refused(path)


def test_detect_needs_no_weights() -> None:
    with torch.device("meta"):
        state = to_nested_unet(_state(build_network(Architecture.UNET_PLUS_PLUS)))
    own, detected = detect(state, source="x.pth")
    assert own.keys() == nested_keys(ZOO_LAYERS, FOUR_HEADS)
    assert (detected.width, detected.in_channels, detected.num_classes) == (32, 3, 1)
