from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segdeploy.deploy.models import BilinearUNet, R2UNet, UNet, UNetPlusPlus
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.networks import Network, architecture_of, build_network
from segdeploy.deploy.models.r2u_net import RecurrentConv, RecurrentResidualBlock
from segdeploy.deploy.models.unet_plus_plus import DEPTH

N = TypeVar("N", bound=nn.Module)


def image(*, batch: int = 2, channels: int = 3, height: int = 32, width: int = 48) -> Tensor:
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def with_random_norms(module: N) -> N:
    """BatchNorm that does something: random affine and statistics, evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.bias.data, part.running_mean, part.running_var):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.eval()


def conv_bn_relu(x: Tensor, layers: nn.Sequential, at: int = 0) -> Tensor:
    """What ``layers[at : at + 3]`` must compute, from its tensors alone."""
    conv, norm = layers[at], layers[at + 1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    convolved = functional.conv2d(x, conv.weight, conv.bias, padding=1)
    normed = functional.batch_norm(
        convolved, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5
    )
    return normed.clamp(min=0)


@pytest.mark.parametrize(
    ("arch", "deep_supervision", "parameters"),
    [
        (Architecture.R2U_NET, False, 39_091_393),
        (Architecture.UNET_PLUS_PLUS, True, 9_163_428),
        (Architecture.UNET_PLUS_PLUS, False, 9_163_329),
        (Architecture.U_NET, False, 34_527_041),
        (Architecture.ATTENTION_U_NET, False, 34_878_573),
        (Architecture.R2_ATTENTION_U_NET, False, 39_442_925),
        (Architecture.U_NET_BILINEAR, False, 7_852_545),
    ],
)
def test_parameters_of_the_published_networks(
    arch: Architecture, deep_supervision: bool, parameters: int
) -> None:
    with torch.device("meta"):
        network = build_network(arch, deep_supervision=deep_supervision)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("arch", list(Architecture))
@settings(max_examples=5, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_output_has_the_size_of_the_input(
    arch: Architecture, batch: int, rows: int, columns: int
) -> None:
    network = build_network(arch, width=1, num_classes=2).eval()
    with torch.no_grad():
        logits = network(torch.zeros(batch, 3, 16 * rows, 16 * columns))
    assert logits.shape == (batch, 2, 16 * rows, 16 * columns)


@pytest.mark.parametrize("name", ["tiny_unet", "tiny_r2u"])
def test_images_of_a_batch_do_not_influence_each_other(
    name: str, request: pytest.FixtureRequest
) -> None:
    network: Network = request.getfixturevalue(name)
    x = image(batch=3)
    kept = x.clone()
    with torch.no_grad():
        together = network(x)
        alone = torch.cat([network(one) for one in x.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(x, kept), "the input must not be written to"
    assert together.std() > 0.1, "weights are degenerate"


def test_unet_plus_plus_is_the_nested_graph_of_the_paper(tiny_unet: UNetPlusPlus) -> None:
    def node(name: str, *inputs: Tensor) -> Tensor:
        layers = tiny_unet.get_submodule(f"conv{name}").get_submodule("conv")
        assert isinstance(layers, nn.Sequential)
        return conv_bn_relu(conv_bn_relu(torch.cat(inputs, dim=1), layers), layers, 3)

    def up(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    with torch.no_grad():
        x00 = node("0_0", image())
        x10 = node("1_0", functional.max_pool2d(x00, 2))
        x20 = node("2_0", functional.max_pool2d(x10, 2))
        x30 = node("3_0", functional.max_pool2d(x20, 2))
        x40 = node("4_0", functional.max_pool2d(x30, 2))
        x01, x11 = node("0_1", x00, up(x10)), node("1_1", x10, up(x20))
        x21, x31 = node("2_1", x20, up(x30)), node("3_1", x30, up(x40))
        x02, x12 = node("0_2", x00, x01, up(x11)), node("1_2", x10, x11, up(x21))
        x22 = node("2_2", x20, x21, up(x31))
        x03, x13 = node("0_3", x00, x01, x02, up(x12)), node("1_3", x10, x11, x12, up(x22))
        x04 = node("0_4", x00, x01, x02, x03, up(x13))
        heads = tiny_unet.heads(image())
        for number, column in enumerate((x01, x02, x03, x04), start=1):
            expected = tiny_unet.get_submodule(f"final{number}")(column)
            torch.testing.assert_close(heads[number - 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", range(1, DEPTH + 1))
def test_a_head_is_the_pruned_network(tiny_unet: UNetPlusPlus, head: int) -> None:
    pruned = UNetPlusPlus(width=4, head=head).eval()
    state = tiny_unet.state_dict()
    needed = {f"conv{i}_{j}" for i in range(DEPTH + 1) for j in range(DEPTH + 1) if i + j <= head}
    for key, tensor in state.items():
        if key.split(".")[0] not in needed | {f"final{head}"} and tensor.is_floating_point():
            state[key] = torch.full_like(tensor, torch.nan)
    with torch.no_grad():
        expected = tiny_unet.heads(image())[head - 1]
        pruned.load_state_dict(state)
        ran = set[str]()
        for name in {key.split(".")[0] for key in state}:
            pruned.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.add(name))
        assert torch.equal(pruned(image()), expected), "it reads nodes that the head does not need"
    assert ran == needed | {f"final{head}"}


def decoded(network: nn.Module, skips: list[Tensor], *, block: str) -> Tensor:
    """The decoder of LeeJunHyun's U-Nets, from its layers' tensors alone: the head's input."""
    x = skips.pop()
    for level in range(5, 1, -1):
        layers = network.get_submodule(f"Up{level}.up")
        assert isinstance(layers, nn.Sequential)
        raised = conv_bn_relu(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layers, 1)
        skip = skips.pop()
        if hasattr(network, f"Att{level}"):
            skip = gated(network.get_submodule(f"Att{level}"), raised, skip)
        joined = torch.cat([skip, raised], dim=1)
        x = network.get_submodule(f"{block}{level}")(joined)
    return x


def gated(gate: nn.Module, gating: Tensor, skip: Tensor) -> Tensor:
    """The additive attention gate of the paper, from its tensors alone."""

    def projected(name: str, x: Tensor) -> Tensor:
        conv, norm = gate.get_submodule(f"{name}.0"), gate.get_submodule(f"{name}.1")
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        flat = torch.einsum("nihw,oi->nohw", x, conv.weight[:, :, 0, 0])
        flat = flat + (0 if conv.bias is None else conv.bias[:, None, None])
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        offset = norm.bias - norm.running_mean * scale
        return flat * scale[:, None, None] + offset[:, None, None]

    both = (projected("W_g", gating) + projected("W_x", skip)).clamp(min=0)
    weight = 1 / (1 + torch.exp(-projected("psi", both)))
    assert weight.shape[1] == 1
    return skip * weight


@pytest.mark.parametrize("attention", [False, True])
def test_u_net_is_the_graph_of_the_paper(
    attention: bool, randomise: Callable[[Network], Network]
) -> None:
    network = randomise(UNet(width=4, attention=attention))

    def block(name: str, x: Tensor) -> Tensor:
        layers = network.get_submodule(f"{name}.conv")
        assert isinstance(layers, nn.Sequential)
        return conv_bn_relu(conv_bn_relu(x, layers), layers, 3)

    with torch.no_grad():
        skips = [block("Conv1", image())]
        for level in range(2, 6):
            skips.append(block(f"Conv{level}", functional.max_pool2d(skips[-1], 2)))
        expected = network.get_submodule("Conv_1x1")(decoded(network, skips, block="Up_conv"))
        torch.testing.assert_close(network(image()), expected, rtol=1e-4, atol=1e-4)
        (only,) = network.heads(image())
        assert torch.equal(only, network(image()))


def test_r2u_net_with_attention_gates_its_skip_connections(
    randomise: Callable[[Network], Network],
) -> None:
    network = randomise(R2UNet(width=4, attention=True))
    with torch.no_grad():
        skips = [network.get_submodule("RRCNN1")(image())]
        for level in range(2, 6):
            block = network.get_submodule(f"RRCNN{level}")
            skips.append(block(functional.max_pool2d(skips[-1], 2)))
        expected = network.get_submodule("Conv_1x1")(decoded(network, skips, block="Up_RRCNN"))
        torch.testing.assert_close(network(image()), expected, rtol=1e-4, atol=1e-4)


def test_bilinear_u_net_is_the_last_diagonal_of_unet_plus_plus(
    randomise: Callable[[Network], Network],
) -> None:
    network = randomise(BilinearUNet(width=4))

    def node(name: str, *inputs: Tensor) -> Tensor:
        layers = network.get_submodule(f"conv{name}.conv")
        assert isinstance(layers, nn.Sequential)
        return conv_bn_relu(conv_bn_relu(torch.cat(inputs, dim=1), layers), layers, 3)

    def up(x: Tensor) -> Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)

    with torch.no_grad():
        x00 = node("0_0", image())
        x10 = node("1_0", functional.max_pool2d(x00, 2))
        x20 = node("2_0", functional.max_pool2d(x10, 2))
        x30 = node("3_0", functional.max_pool2d(x20, 2))
        x31 = node("3_1", x30, up(node("4_0", functional.max_pool2d(x30, 2))))
        x22 = node("2_2", x20, up(x31))
        x13 = node("1_3", x10, up(x22))
        expected = network.get_submodule("final")(node("0_4", x00, up(x13)))
        torch.testing.assert_close(network(image()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", list(Architecture))
def test_a_network_knows_its_architecture_and_its_heads(arch: Architecture) -> None:
    with torch.device("meta"):
        network = build_network(arch, width=2)
    assert architecture_of(network) is arch
    assert len(network.head_names()) == (4 if arch is Architecture.UNET_PLUS_PLUS else 1)
    for name in network.head_names():
        assert isinstance(network.get_submodule(name), nn.Conv2d)


def test_heads_differ(tiny_unet: UNetPlusPlus) -> None:
    with torch.no_grad():
        heads = torch.stack(tiny_unet.heads(image()))
    assert torch.pdist(heads.flatten(1)).min() > 1


def test_without_deep_supervision_the_only_head_is_the_output(
    randomise: Callable[[Network], Network],
) -> None:
    network = randomise(UNetPlusPlus(width=4, deep_supervision=False))
    with torch.no_grad():
        (only,) = network.heads(image())
        assert torch.equal(network(image()), only)


@pytest.mark.parametrize(("deep_supervision", "head"), [(True, 0), (True, 5), (False, 1)])
def test_a_head_that_does_not_exist(deep_supervision: bool, head: int) -> None:
    with pytest.raises(ValueError, match=f"head {head} does not exist"):
        UNetPlusPlus(width=1, deep_supervision=deep_supervision, head=head)


@pytest.mark.parametrize("recurrence", [1, 2, 3])
def test_recurrent_convolution_applies_t_plus_one_times(recurrence: int) -> None:
    torch.manual_seed(0)
    module = with_random_norms(RecurrentConv(4, recurrence))
    calls: list[nn.Module] = []
    convolution = module.conv[0]
    assert isinstance(convolution, nn.Conv2d)
    convolution.register_forward_hook(lambda *_: calls.append(convolution))
    x = image(channels=4)
    with torch.no_grad():
        hidden = conv_bn_relu(x, module.conv)
        for _ in range(recurrence):
            hidden = conv_bn_relu(x + hidden, module.conv)
        torch.testing.assert_close(module(x), hidden)
    assert len(calls) == recurrence + 1


def test_recurrent_residual_block_adds_the_projection() -> None:
    torch.manual_seed(0)
    block = with_random_norms(RecurrentResidualBlock(3, 4, recurrence=2))
    with torch.no_grad():
        projected = functional.conv2d(image(), block.Conv_1x1.weight, block.Conv_1x1.bias)
        expected = projected + block.RCNN[1](block.RCNN[0](projected))
        assert torch.equal(block(image()), expected)


def test_r2u_net_is_a_u_net_of_recurrent_blocks(tiny_r2u: R2UNet) -> None:
    def up(name: str, x: Tensor) -> Tensor:
        layers = tiny_r2u.get_submodule(name).get_submodule("up")
        assert isinstance(layers, nn.Sequential)
        return conv_bn_relu(x.repeat_interleave(2, 2).repeat_interleave(2, 3), layers, 1)

    def block(name: str, *inputs: Tensor) -> Tensor:
        features: Tensor = tiny_r2u.get_submodule(name)(torch.cat(inputs, dim=1))
        return features

    with torch.no_grad():
        skips = [block("RRCNN1", image())]
        for number in range(2, 6):
            skips.append(block(f"RRCNN{number}", functional.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for number in range(5, 1, -1):
            x = block(f"Up_RRCNN{number}", skips.pop(), up(f"Up{number}", x))
        expected = functional.conv2d(x, tiny_r2u.Conv_1x1.weight, tiny_r2u.Conv_1x1.bias)
        torch.testing.assert_close(tiny_r2u(image()), expected, rtol=1e-4, atol=1e-4)
        (only,) = tiny_r2u.heads(image())
        assert torch.equal(only, tiny_r2u(image()))


def test_recurrence_changes_the_output_but_not_the_keys(tiny_r2u: R2UNet) -> None:
    other = R2UNet(width=4, recurrence=3).eval()
    other.load_state_dict(tiny_r2u.state_dict())
    with torch.no_grad():
        assert (other(image()) - tiny_r2u(image())).abs().max() > 0.1


def test_recurrence_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        R2UNet(width=1, recurrence=0)
