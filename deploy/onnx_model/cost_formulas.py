"""Counting formulas as pure functions of shapes, and the values a count returns.

A MAC is one multiply-add. Bias additions are not MACs; FLOPs are twice the MACs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

FLOPS_PER_MAC = 2


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One application of a counted operator, or of a BatchNormalization (0 MACs).

    ``parameters`` is 0 where an earlier layer already counted the same weights. ``biased`` tells
    whether a bias is added to every output element.
    """

    name: str
    op: str
    macs: int
    parameters: int
    output_shape: Shape
    biased: bool


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What one image costs.

    Attributes:
        input_shape: the input the count is for, (1, C, H, W) for an image.
        layers: in the order they run.
        elementwise: operator type to output elements; not part of MACs or FLOPs.
        not_counted: operator types without a counting rule, sorted.
    """

    input_shape: Shape
    layers: tuple[LayerCost, ...]
    elementwise: dict[str, int]
    not_counted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and matrix products."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Twice ``macs``."""
        return FLOPS_PER_MAC * self.macs

    @property
    def parameters(self) -> int:
        """Weights and biases of counted operators and of BatchNormalization, shared ones once."""
        return sum(layer.parameters for layer in self.layers)


def conv_macs(weight_shape: Shape, output_shape: Shape) -> int:
    """MACs of a convolution: every output element takes one MAC per weight of its filter.

    Example:
        A 3x3 convolution from 3 to 8 channels onto 4x4: 8 * 4 * 4 * (3 * 3 * 3).

        >>> conv_macs((8, 3, 3, 3), (1, 8, 4, 4))
        3456

    Args:
        weight_shape: (C_out, C_in / groups, *kernel).
        output_shape: (N, C_out, *spatial).
    """
    return prod(output_shape) * prod(weight_shape[1:])


def conv_transpose_macs(weight_shape: Shape, input_shape: Shape) -> int:
    """MACs of a transposed convolution: every input element is spread over one filter.

    Example:
        >>> conv_transpose_macs((8, 4, 2, 2), (1, 8, 5, 5))  # 8 * 5 * 5 * (4 * 2 * 2)
        3200

    Args:
        weight_shape: (C_in, C_out / groups, *kernel).
        input_shape: (N, C_in, *spatial).
    """
    return prod(input_shape) * prod(weight_shape[1:])


def gemm_macs(
    a_shape: Shape, b_shape: Shape, *, transpose_a: bool = False, transpose_b: bool = False
) -> int:
    """MACs of ``op(A) @ op(B)`` of two matrices.

    Example:
        >>> gemm_macs((2, 3), (5, 3), transpose_b=True)  # 2x3 by 3x5
        30

    Raises:
        ValueError: the inner sizes differ.
    """
    rows, inner = reversed(a_shape) if transpose_a else a_shape
    inner_b, columns = reversed(b_shape) if transpose_b else b_shape
    if inner != inner_b:
        raise ValueError(f"cannot multiply {rows}x{inner} by {inner_b}x{columns}")
    return rows * inner * columns


def matmul_macs(a_shape: Shape, b_shape: Shape) -> int:
    """MACs of ``numpy.matmul``: batch axes broadcast, a vector is a matrix of one row or column.

    Example:
        >>> matmul_macs((7, 2, 3), (3, 5))  # seven times 2x3 by 3x5
        210

    Raises:
        ValueError: the inner sizes differ, or the batch axes do not broadcast.
    """
    a = (1, *a_shape) if len(a_shape) == 1 else a_shape
    b = (*b_shape, 1) if len(b_shape) == 1 else b_shape
    return prod(_broadcast(a[:-2], b[:-2])) * gemm_macs(a[-2:], b[-2:])


def _broadcast(a: Shape, b: Shape) -> Shape:
    """The shape both broadcast to."""
    length = max(len(a), len(b))
    padded = [(1,) * (length - len(shape)) + shape for shape in (a, b)]
    for x, y in zip(*padded, strict=True):
        if x != y and 1 not in (x, y):
            raise ValueError(f"batch axes {a} and {b} do not broadcast")
    return tuple(y if x == 1 else x for x, y in zip(*padded, strict=True))
