"""Multiply-adds of a PyTorch module: those of its ONNX file, and what was published of both."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segdeploy.benchmarks.literature.gflops import published_gflops
from segdeploy.benchmarks.literature.torch_cost import torch_cost
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.system.errors import UsageError


class Tiny(nn.Module):
    """Modules and functional calls, a shared convolution, tied weights, one op without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.up = nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False)
        self.dense = nn.Linear(2 * 8 * 8, 5)
        self.plain = nn.Linear(5, 5, bias=False)
        self.unused = nn.Linear(100, 100)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norm(self.conv(self.conv(x))))
        hidden = self.plain(self.dense(self.up(hidden).flatten(1)))
        return torch.cumsum(self.plain(hidden) @ self.plain.weight, dim=1)


def test_a_torch_module_counts_modules_and_functions_alike() -> None:
    model = Tiny().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = torch_cost(model, (1, 3, 4, 4))
    assert [(layer.name, layer.op, layer.macs, layer.parameters) for layer in cost.layers] == [
        ("conv", "Conv", 3 * 16 * 27, 84),
        ("conv", "Conv", 3 * 16 * 27, 0),
        ("norm", "BatchNormalization", 0, 6),
        ("up", "ConvTranspose", 3 * 16 * 2 * 4, 24),
        ("dense", "Gemm", 128 * 5, 128 * 5 + 5),
        ("plain", "MatMul", 25, 25),
        ("plain", "MatMul", 25, 0),
        ("plain", "MatMul", 25, 0),
    ]
    assert [layer.biased for layer in cost.layers] == 2 * [True] + 2 * [
        False,
    ] + [True] + 3 * [False]
    assert cost.elementwise == {"native_batch_norm": 48, "relu": 48}
    assert cost.not_counted == ("cumsum",)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_half_precision_modules_cost_the_same() -> None:
    assert torch_cost(Tiny().half(), (1, 3, 4, 4)) == torch_cost(Tiny(), (1, 3, 4, 4))


def exported(model: nn.Module, size: int, path: Path) -> onnx.ModelProto:
    """ONNX with a dynamic batch, BatchNorm kept, by torch's fast exporter.

    Random weights everywhere, because the exporter merges tensors of equal values.
    """
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=False,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    return onnx.load(path)


@pytest.mark.parametrize(
    "model",
    [R2UNet(width=2), UNetPlusPlus(width=2, deep_supervision=False), UNetPlusPlus(width=2, head=2)],
    ids=["r2u_net", "unet_plus_plus", "unet_plus_plus_l2"],
)
def test_torch_and_onnx_agree_layer_by_layer(model: nn.Module, tmp_path: Path) -> None:
    ours = torch_cost(model, (1, 3, 32, 32))
    theirs = onnx_cost(exported(model, 32, tmp_path / "net.onnx"))
    for count in (ours, theirs):
        assert count.not_counted == ()
    key = [(layer.op, layer.macs, layer.parameters, layer.output_shape) for layer in ours.layers]
    assert key == [(x.op, x.macs, x.parameters, x.output_shape) for x in theirs.layers]
    assert ours.elementwise["relu"] == theirs.elementwise["Relu"]
    assert ours.elementwise["native_batch_norm"] == theirs.elementwise["BatchNormalization"]


@pytest.mark.parametrize(
    ("build", "arch", "gmacs", "parameters", "published"),
    [
        (R2UNet, "r2u_net", 21.444, 39_091_393, 47.787),
        (partial(UNetPlusPlus, deep_supervision=False), "unet_plus_plus", 4.850, 9_163_329, 10.897),
    ],
    ids=["r2u_net", "unet_plus_plus"],
)
def test_true_and_published_totals_of_both_networks(
    build: Callable[[], nn.Module], arch: str, gmacs: float, parameters: int, published: float
) -> None:
    with torch.device("meta"):
        model = build().eval()
        cost = torch_cost(model, (1, 3, 96, 96))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 96, 96))
    assert round(cost.macs / 1e9, 3) == gmacs
    assert counter.get_total_flops() == cost.flops
    assert cost.parameters == parameters == sum(p.numel() for p in model.parameters())
    assert cost.not_counted == ()
    assert round(published_gflops(model, arch), 3) == published


@pytest.mark.parametrize(("head", "gmacs"), [(1, 0.560), (2, 1.452), (3, 2.854), (4, 4.850)])
def test_pruned_heads_cost_less(head: int, gmacs: float) -> None:
    with torch.device("meta"):
        model = UNetPlusPlus(head=head)
    assert round(torch_cost(model, (1, 3, 96, 96)).macs / 1e9, 3) == gmacs


def test_no_published_figure_for_another_architecture() -> None:
    with pytest.raises(UsageError, match="'unet'; known: r2u_net, unet_plus_plus"):
        published_gflops(nn.Identity(), "unet")
