"""ONNX operators in PyTorch, differentiable: those that networks for images are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segdeploy.deploy.system.errors import UsageError

Inputs = Sequence[Tensor | None]
Attributes = Mapping[str, Any]
Operation = Callable[[Inputs, Attributes], Tensor]


def _data(inputs: Inputs, place: int = 0) -> Tensor:
    value = inputs[place]
    if value is None:
        raise UsageError(f"input {place} of an operator is missing; export the model again")
    return value


def _given(inputs: Inputs, place: int) -> Tensor | None:
    return inputs[place] if len(inputs) > place else None


def _symmetric(said: Attributes) -> tuple[int, int]:
    """Padding of both sides of height and width.

    Raises:
        UsageError: it differs from side to side, or is computed.
    """
    top, left, bottom, right = said.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right) or said.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UsageError("padding that differs from side to side cannot be trained quantized")
    return int(top), int(left)


def _conv(inputs: Inputs, said: Attributes) -> Tensor:
    return functional.conv2d(
        _data(inputs),
        _data(inputs, 1),
        _given(inputs, 2),
        stride=tuple(said.get("strides", (1, 1))),
        padding=_symmetric(said),
        dilation=tuple(said.get("dilations", (1, 1))),
        groups=said.get("group", 1),
    )


def _conv_transpose(inputs: Inputs, said: Attributes) -> Tensor:
    if "output_shape" in said:
        raise UsageError("a ConvTranspose with output_shape cannot be trained quantized")
    return functional.conv_transpose2d(
        _data(inputs),
        _data(inputs, 1),
        _given(inputs, 2),
        stride=tuple(said.get("strides", (1, 1))),
        padding=_symmetric(said),
        output_padding=tuple(said.get("output_padding", (0, 0))),
        dilation=tuple(said.get("dilations", (1, 1))),
        groups=said.get("group", 1),
    )


def _max_pool(inputs: Inputs, said: Attributes) -> Tensor:
    return functional.max_pool2d(
        _data(inputs),
        tuple(said["kernel_shape"]),
        stride=tuple(said.get("strides", (1, 1))),
        padding=_symmetric(said),
        dilation=tuple(said.get("dilations", (1, 1))),
        ceil_mode=bool(said.get("ceil_mode", 0)),
    )


def _average_pool(inputs: Inputs, said: Attributes) -> Tensor:
    return functional.avg_pool2d(
        _data(inputs),
        tuple(said["kernel_shape"]),
        stride=tuple(said.get("strides", (1, 1))),
        padding=_symmetric(said),
        ceil_mode=bool(said.get("ceil_mode", 0)),
        count_include_pad=bool(said.get("count_include_pad", 0)),
    )


def _resize(inputs: Inputs, said: Attributes) -> Tensor:
    """Nearest upsampling by whole factors, and bilinear.

    Raises:
        UsageError: another kind.
    """
    x = _data(inputs)
    scales, sizes = _given(inputs, 2), _given(inputs, 3)
    given = scales if scales is not None and scales.numel() else None
    if given is not None:
        size = [int(n * float(s)) for n, s in zip(x.shape[2:], given[2:], strict=True)]
    elif sizes is not None:
        size = [int(n) for n in sizes[2:]]
    else:
        raise UsageError("a Resize without scales and sizes; export the model again")
    mode = said.get("mode", "nearest")
    transformed = said.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        rounded = said.get("nearest_mode", "round_prefer_floor")
        whole = all(out % n == 0 for out, n in zip(size, x.shape[2:], strict=True))
        known = (transformed, rounded) in (
            ("asymmetric", "floor"),
            ("half_pixel", "round_prefer_floor"),
            ("half_pixel", "round_prefer_ceil"),
        )
        if whole and known:
            return functional.interpolate(x, size=size, mode="nearest")
    if mode == "linear" and not said.get("antialias", 0):
        if transformed == "align_corners":
            return functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
        if transformed in ("half_pixel", "pytorch_half_pixel"):
            return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    raise UsageError(f"a Resize of mode {mode}, {transformed}, cannot be trained quantized")


def _gemm(inputs: Inputs, said: Attributes) -> Tensor:
    a, b, c = _data(inputs), _data(inputs, 1), _given(inputs, 2)
    a = a.transpose(0, 1) if said.get("transA", 0) else a
    b = b.transpose(0, 1) if said.get("transB", 0) else b
    product = (a @ b) * float(said.get("alpha", 1.0))
    return product if c is None else product + c * float(said.get("beta", 1.0))


def _reduce_mean(inputs: Inputs, said: Attributes) -> Tensor:
    axes = _given(inputs, 1)
    dims = said.get("axes") if axes is None else axes.tolist()
    x = _data(inputs)
    return x.mean(dim=list(dims or range(x.ndim)), keepdim=bool(said.get("keepdims", 1)))


def _reshape(inputs: Inputs, said: Attributes) -> Tensor:
    x, shape = _data(inputs), [int(n) for n in _data(inputs, 1)]
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _clip(inputs: Inputs, said: Attributes) -> Tensor:
    low, high = _given(inputs, 1), _given(inputs, 2)
    return _data(inputs).clamp(
        None if low is None else float(low), None if high is None else float(high)
    )


def _prelu(inputs: Inputs, said: Attributes) -> Tensor:
    x = _data(inputs)
    return torch.where(x >= 0, x, x * _data(inputs, 1))


def _hard_sigmoid(inputs: Inputs, said: Attributes) -> Tensor:
    steeper = _data(inputs) * float(said.get("alpha", 0.2))
    return (steeper + float(said.get("beta", 0.5))).clamp(0, 1)


def _depth_to_space(inputs: Inputs, said: Attributes) -> Tensor:
    x, size = _data(inputs), int(said["blocksize"])
    n, c, h, w = x.shape
    if said.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _two(operation: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda inputs, _: operation(_data(inputs), _data(inputs, 1))


def _one(operation: Callable[[Tensor], Tensor]) -> Operation:
    return lambda inputs, _: operation(_data(inputs))


OPERATIONS: Mapping[str, Operation] = {
    "Add": _two(torch.add),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": lambda inputs, said: torch.cat([x for x in inputs if x is not None], said["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _two(torch.div),
    "Gemm": _gemm,
    "GlobalAveragePool": _one(lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _one(functional.hardswish),
    "Identity": _one(lambda x: x),
    "LeakyRelu": lambda inputs, said: functional.leaky_relu(_data(inputs), said.get("alpha", 0.01)),
    "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _two(torch.mul),
    "PRelu": _prelu,
    "ReduceMean": _reduce_mean,
    "Relu": _one(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _one(torch.sigmoid),
    "Softmax": lambda inputs, said: _data(inputs).softmax(said.get("axis", -1)),
    "Sub": _two(torch.sub),
    "Tanh": _one(torch.tanh),
    "Transpose": lambda inputs, said: _data(inputs).permute(*said["perm"]),
}
"""By type; each takes a node's inputs and attributes and gives its first output."""
