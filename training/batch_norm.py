"""BatchNorm in training: statistics that become constants, or that all processes share.

R2U-Net applies one BatchNorm to all steps of a recurrent convolution. Each step normalises by its
own batch statistics in training, but evaluation has one running average over all of them, so the
network that is evaluated is not the one that was trained. With the statistics frozen the two are
the same function again, and the weights learn to live with it; the keys stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


def batch_norms(network: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """Every BatchNorm with its name."""
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            yield name, module


def freeze_statistics(network: nn.Module) -> None:
    """Normalise by the running statistics and leave them alone, until ``train()`` is called."""
    for _, norm in batch_norms(network):
        norm.eval()


def reestimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by their plain average over batches; weights stay.

    Args:
        network: left in evaluation mode.
        batches: inputs (N, channels, H, W); at least one.
    """
    momenta = {name: norm.momentum for name, norm in batch_norms(network)}
    for _, norm in batch_norms(network):
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain average
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
    for name, norm in batch_norms(network):
        norm.momentum = momenta[name]
    network.eval()


def share_statistics(network: nn.Module) -> None:
    """Make every BatchNorm take its batch statistics over the batches of all processes.

    Several processes then train like one with all their images. Keys stay.
    """
    for name, norm in list(batch_norms(network)):
        parent = network.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _shared(norm))


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes; ``nn.SyncBatchNorm`` for the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to the same; processes may hold different numbers of images."""
        if not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        count = values.numel() // values.shape[1]
        totals = torch.cat([values.sum(dim=(0, 2, 3)), values.new_tensor([count])])
        totals = _sum_everywhere(totals)
        everywhere = totals[-1].detach()
        mean = totals[:-1] / everywhere
        centred = values - mean[None, :, None, None]
        variance = _sum_everywhere(centred.square().sum(dim=(0, 2, 3))) / everywhere
        self._average(mean.detach(), variance.detach() * everywhere / (everywhere - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised = centred * scale[None, :, None, None] + self.bias[None, :, None, None]
        return normalised.to(x.dtype)

    def _average(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards those of this step."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _SumEverywhere(torch.autograd.Function):
    """The sum over all processes; each one's gradient is the sum of the gradients of all."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _sum_everywhere(values: Tensor) -> Tensor:
    total: Tensor = _SumEverywhere.apply(values)  # type: ignore[no-untyped-call]  # torch's stub
    return total


def _shared(norm: nn.BatchNorm2d) -> nn.Module:
    if norm.weight.is_cuda:  # not run on hardware
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(norm)
        return synced
    shared = SharedBatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    shared.load_state_dict(norm.state_dict())
    return shared.train(norm.training)
