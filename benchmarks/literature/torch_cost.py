"""MACs, FLOPs and parameters of a torch module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segdeploy.deploy.onnx_model.cost_formulas import (
    LayerCost,
    ModelCost,
    Shape,
    conv_macs,
    conv_transpose_macs,
    gemm_macs,
    matmul_macs,
)

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "add", "avg_pool2d", "clamp", "clamp_min", "div", "elu", "exp", "gelu", "hardsigmoid",
    "hardswish", "hardtanh", "leaky_relu", "log", "max_pool2d_with_indices", "maximum", "minimum",
    "mish", "mul", "native_batch_norm", "neg", "pow", "reciprocal", "relu", "rsqrt", "sigmoid",
    "silu", "softplus", "sqrt", "sub", "tanh", "upsample_bicubic2d", "upsample_bilinear2d",
    "upsample_nearest2d", "where", "_softmax",
))
# fmt: on
"""Listed apart, as output elements."""

# fmt: off
MOVEMENT = frozenset((
    "alias", "as_strided", "cat", "clone", "constant_pad_nd", "copy", "detach", "empty", "expand",
    "full", "ones", "permute", "reshape", "select", "slice", "split", "squeeze", "stack", "t",
    "transpose", "unbind", "unsqueeze", "view", "zeros", "_to_copy", "_unsafe_view",
))
# fmt: on
"""Copies or names data; computes nothing worth listing."""

BIASED = ("Conv", "ConvTranspose", "Gemm")
"""Layers that may add a bias to each output element."""


def torch_cost(model: nn.Module, input_shape: Shape) -> ModelCost:
    """Count one forward pass in evaluation mode, without computing it.

    Every ATen operator passes by on the ``meta`` device, so functional calls count as modules do.

    Args:
        model: its parameters and buffers are not touched; its mode is restored.
        input_shape: (1, C, H, W).
    """
    stored = dict(model.named_parameters()) | dict(model.named_buffers())
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in stored.items()}
    dtype = next((x.dtype for x in meta.values() if x.is_floating_point()), torch.float32)
    image = torch.empty(input_shape, dtype=dtype, device="meta")
    counter = _Counter(meta)
    with torch.no_grad(), _evaluating(model), counter:
        torch.func.functional_call(model, meta, image)
    return ModelCost(
        input_shape=input_shape,
        layers=tuple(counter.layers),
        elementwise=dict(sorted(counter.elementwise.items())),
        not_counted=tuple(sorted(counter.not_counted)),
    )


class _Counter(TorchDispatchMode):
    """Sees every ATen call under it and adds up what it costs."""

    def __init__(self, stored: dict[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.layers: list[LayerCost] = []
        self.elementwise: Counter[str] = Counter()
        self.not_counted: set[str] = set()
        self._counted: set[str] = set()
        self._names = {id(tensor): name for name, tensor in stored.items()}
        self._alive = list(stored.values())

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, (tuple, list)) else result
        op = func._schema.name.removeprefix("aten::").removesuffix("_")
        layer = _layer_of(op, args, output)
        if layer is not None:
            self._add(layer, output)
        if op in ELEMENTWISE:
            self.elementwise[op] += output.numel()
        elif op in MOVEMENT:
            self._follow(args, output)
        elif layer is None:
            self.not_counted.add(op)
        return result

    def _add(self, layer: _Layer, output: Tensor) -> None:
        operands = [x for x in (*layer.weights, layer.bias) if x is not None]
        named = {self._names[id(x)]: x.numel() for x in operands if id(x) in self._names}
        new = named.keys() - self._counted
        self._counted |= new
        self.layers.append(
            LayerCost(
                name=next(iter(named), layer.op).rpartition(".")[0] or layer.op,
                op=layer.op,
                macs=layer.macs,
                parameters=sum(named[name] for name in new),
                output_shape=tuple(output.shape),
                biased=layer.op in BIASED and layer.bias is not None,
            )
        )

    def _follow(self, args: tuple[Any, ...], output: object) -> None:
        """A transposed or reshaped parameter is still that parameter."""
        if args and isinstance(output, Tensor) and id(args[0]) in self._names:
            self._names[id(output)] = self._names[id(args[0])]
            self._alive.append(output)


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A counted call: its ONNX name, its MACs, and which operands hold parameters."""

    op: str
    macs: int
    weights: tuple[Tensor | None, ...]
    bias: Tensor | None = None


def _layer_of(op: str, args: tuple[Any, ...], output: Tensor) -> _Layer | None:
    """Read one ATen call; ``None`` for an operator that is no layer."""
    if op == "convolution":
        source, weight, bias, transposed = args[0], args[1], args[2], args[6]
        if transposed:
            macs = conv_transpose_macs(tuple(weight.shape), tuple(source.shape))
            return _Layer(op="ConvTranspose", macs=macs, weights=(weight,), bias=bias)
        macs = conv_macs(tuple(weight.shape), tuple(output.shape))
        return _Layer(op="Conv", macs=macs, weights=(weight,), bias=bias)
    if op == "native_batch_norm":
        return _Layer(op="BatchNormalization", macs=0, weights=(args[1],), bias=args[2])
    if op == "addmm":
        bias, a, b = args[:3]
        macs = gemm_macs(tuple(a.shape), tuple(b.shape))
        return _Layer(op="Gemm", macs=macs, weights=(b, a), bias=bias)
    if op in ("mm", "bmm"):
        a, b = args[:2]
        macs = matmul_macs(tuple(a.shape), tuple(b.shape))
        return _Layer(op="MatMul", macs=macs, weights=(b, a))
    return None


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own mode after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
