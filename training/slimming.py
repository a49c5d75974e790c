"""Network slimming: whole channels fall silent in training, so that a rewrite can leave them out.

An L1 term on the BatchNorm scales pushes channels towards zero (Liu et al., "Learning Efficient
Convolutional Networks through Network Slimming", ICCV 2017). Those that matter least to the loss
are set to zero while training goes on, more of them each epoch, so that the others take over; what
a channel matters is the first-order change of the loss without it (Molchanov et al., "Importance
Estimation for Neural Network Pruning", CVPR 2019). A channel whose scale and offset are zero is
zero behind its ReLU for every input: the dead-channels rewrite takes it out of the ONNX graph
without changing the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segdeploy.training.batch_norm import batch_norms
from segdeploy.training.recipe import Recipe

BLOCK = 16
"""Channels fall silent in blocks of this, as processors compute them."""

RAMP_SHARE = 0.5
"""Share of the epochs over which channels fall silent; the rest is for the others to recover."""

Silent = Mapping[str, Tensor]
"""BatchNorm name to bool (channels,): which channels are silent."""


Importance = Mapping[str, Tensor]
"""BatchNorm name to float (channels,): how much the loss would change without each channel."""


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Channels of one BatchNorm that fall silent together: what they matter and what they cost."""

    norm: str
    channels: Tensor
    importance: float
    work: float


def sparsity(network: nn.Module) -> Tensor:
    """The L1 norm of all BatchNorm scales over their number: a scalar with a gradient."""
    scales = torch.cat([norm.weight for _, norm in batch_norms(network)])
    return scales.abs().mean()


def importance_of_step(network: nn.Module) -> dict[str, Tensor]:
    """Squared first-order change of the loss if each channel were silent, from the gradients.

    Silencing moves scale s and offset o to zero, which changes the loss by about
    -(s ds + o do), with ds and do their gradients.

    Example:
        >>> norm = nn.Sequential(nn.BatchNorm2d(1))
        >>> norm[0].weight.grad, norm[0].bias.grad = torch.tensor([0.5]), torch.tensor([3.0])
        >>> importance_of_step(norm)["0"].item()  # scale 1, offset 0
        0.25

    Args:
        network: after a backward pass.

    Returns:
        BatchNorm name to (channels,); zero where there is no gradient.
    """
    found = {}
    with torch.no_grad():
        for name, norm in batch_norms(network):
            change = torch.zeros_like(norm.weight)
            for parameter in (norm.weight, norm.bias):
                if parameter.grad is not None:
                    change += parameter * parameter.grad
            found[name] = change.square()
    return found


def share_at(epoch: int, *, epochs: int, target: float) -> float:
    """Share of the work that is silent in an epoch: none in the first, ``target`` after the ramp.

    Example:
        >>> [round(share_at(e, epochs=10, target=0.4), 3) for e in (1, 2, 4, 6, 10)]
        [0.0, 0.195, 0.374, 0.4, 0.4]

    Args:
        epoch: from 1.
        epochs: of the whole training.
        target: the share in the end.
    """
    ramp = max(1.0, epochs * RAMP_SHARE)
    return target * (1 - (1 - min(1.0, (epoch - 1) / ramp)) ** 3)


def complete_from(recipe: Recipe) -> int:
    """The first epoch whose network is as slim as asked; only from there on one can be the best.

    Example:
        >>> complete_from(Recipe(epochs=10, slim=0.4)), complete_from(Recipe(epochs=10))
        (6, 1)
    """
    if not recipe.slim:
        return 1
    epochs = range(1, recipe.epochs + 1)
    return next(
        e for e in epochs if share_at(e, epochs=recipe.epochs, target=recipe.slim) == recipe.slim
    )


def choose_silent(
    network: nn.Module, importance: Importance, *, share: float, example: Tensor
) -> dict[str, Tensor]:
    """The channels to silence: those that matter least for the work they cost.

    Every layer keeps at least one block. A channel that is silent already matters nothing and
    stays silent.

    Args:
        network: convolutions each followed by BatchNorm and ReLU.
        importance: of every channel.
        share: of the work of these convolutions that makes the silent channels. More is saved in
            the end, because the convolutions behind read fewer channels.
        example: an input (1, channels, H, W); tells how often each convolution runs on what size.

    Returns:
        BatchNorm name to bool (channels,), for every BatchNorm.
    """
    norms = dict(batch_norms(network))
    work = _work_per_channel(network, example)
    silent = {
        name: torch.zeros(norm.num_features, dtype=torch.bool, device=norm.weight.device)
        for name, norm in norms.items()
    }
    blocks = [block for name in norms for block in _blocks(name, importance[name], work[name])]
    room = share * sum(work[name] * norm.num_features for name, norm in norms.items())
    for block in sorted(blocks, key=lambda b: b.importance / b.work):
        if block.work <= room:
            silent[block.norm][block.channels] = True
            room -= block.work
    return silent


def silence(network: nn.Module, silent: Silent) -> None:
    """Set scale and offset of the silent channels to zero, and the weights that nobody reads."""
    norms = dict(batch_norms(network))
    with torch.no_grad():
        for name, channels in silent.items():
            for layer in (norms[name], _convolution_before(network, name)):
                for parameter in layer.parameters():
                    parameter[channels] = 0


def _blocks(name: str, importance: Tensor, work: float) -> list[_Block]:
    """The channels in the order they would go, in blocks; the strongest block is left out."""
    size = min(BLOCK, max(1, len(importance) // 2))
    return [
        _Block(
            norm=name,
            channels=channels,
            importance=float(importance[channels].sum()),
            work=work * len(channels),
        )
        for channels in importance.argsort(stable=True).split(size)[:-1]
    ]


def _work_per_channel(network: nn.Module, example: Tensor) -> dict[str, float]:
    """Multiply-adds that one output channel of the convolution before each BatchNorm takes."""
    taps = {
        name: _convolution_before(network, name).weight[0].numel()
        for name, _ in batch_norms(network)
    }
    work = dict.fromkeys(taps, 0.0)

    def counter(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def count(_: nn.Module, __: object, output: Tensor) -> None:
            work[name] += taps[name] * output.shape[2] * output.shape[3]

        return count

    hooks = [norm.register_forward_hook(counter(name)) for name, norm in batch_norms(network)]
    training = network.training
    network.eval()
    with torch.inference_mode():
        network(example)
    network.train(training)
    for hook in hooks:
        hook.remove()
    return work


def _convolution_before(network: nn.Module, norm: str) -> nn.Conv2d:
    """The convolution that a BatchNorm of this name follows in its ``nn.Sequential``."""
    parent, _, place = norm.rpartition(".")
    before = network.get_submodule(parent).get_submodule(str(int(place) - 1))
    if not isinstance(before, nn.Conv2d):
        raise TypeError(f"{norm} follows a {type(before).__name__}; expected a convolution")
    return before
