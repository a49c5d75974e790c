"""What single outputs of a layer are computed from: rows of inputs, one for each position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.graph import attributes
from segdeploy.deploy.quantize.operators import LayerWeight

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a layer reads its input: as a convolution over maps, or row by row.

    A transposed convolution is one over its input with zeros between the values.

    Attributes:
        groups: channels are read in so many separate parts.
        kernel: height and width; ``None`` where rows are read.
        strides: of the positions.
        dilations: of the kernel.
        pads: top and left.
        spread: zeros between two values, plus 1.
        mirrored: the kernel is stored the other way round.
    """

    groups: int = 1
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    spread: tuple[int, int] = (1, 1)
    mirrored: bool = False

    def places(self, output: tuple[int, ...]) -> int:
        """Positions of an output of one image, (1, O, H, W) or (..., O)."""
        if self.kernel is None:
            return int(np.prod(output[:-1]))
        return int(np.prod(output[2:]))

    def outputs(self, values: Floats, places: NDArray[np.int64]) -> Floats:
        """An output at some positions, (P, O)."""
        if self.kernel is None:
            return values.reshape(-1, values.shape[-1])[places]
        return np.asarray(values[0].reshape(values.shape[1], -1)[:, places].T)

    def inputs(self, values: Floats, places: NDArray[np.int64], output: tuple[int, ...]) -> Floats:
        """What the outputs at some positions read, (G, P, K), zero outside the image.

        Args:
            values: the input of one image.
            places: (P,), positions counted over the output's maps.
            output: shape of the output.
        """
        if self.kernel is None:
            return values.reshape(-1, values.shape[-1])[places][None]
        image = values[0]
        if self.spread != (1, 1):
            channels, height, width = image.shape
            sizes = [(n - 1) * s + 1 for n, s in zip((height, width), self.spread, strict=True)]
            spread = np.zeros((channels, *sizes), np.float32)
            spread[:, :: self.spread[0], :: self.spread[1]] = image
            image = spread
        centres = np.divmod(places, output[3])
        index = []
        valid = np.ones((len(places), *self.kernel), bool)
        for axis in (0, 1):
            steps = np.arange(self.kernel[axis]) * self.dilations[axis]
            at = centres[axis][:, None] * self.strides[axis] - self.pads[axis] + steps
            inside = (at >= 0) & (at < image.shape[axis + 1])
            valid &= inside[:, :, None] if axis == 0 else inside[:, None, :]
            index.append(np.where(inside, at, 0))
        read = image[:, index[0][:, :, None], index[1][:, None, :]] * valid
        grouped = read.reshape(self.groups, -1, len(places), self.kernel[0] * self.kernel[1])
        return np.ascontiguousarray(grouped.swapaxes(1, 2)).reshape(self.groups, len(places), -1)

    def columns(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """A weight (O, I, ...) as what ``inputs`` is multiplied by, (O, K)."""
        if self.mirrored:
            rows = rows[..., ::-1, ::-1]
        return np.ascontiguousarray(rows).reshape(len(rows), -1)

    def rows(self, columns: NDArray[np.int8], shape: tuple[int, ...]) -> NDArray[np.int8]:
        """What ``columns`` gave, back in the shape it had."""
        rows = columns.reshape(shape)
        return np.ascontiguousarray(rows[..., ::-1, ::-1]) if self.mirrored else rows


def reading(node: onnx.NodeProto, layer: LayerWeight, shape: tuple[int, ...]) -> Reading | None:
    """How a layer reads its input; ``None`` for a form that is not followed here.

    Convolutions of volumes and lines, and those that say of their padding only that it fits.

    Args:
        node: the layer.
        layer: its weight's place.
        shape: of the stored weight.
    """
    said = attributes(node)
    if node.op_type in ("Gemm", "MatMul"):
        return Reading() if len(shape) == 2 else None
    if len(shape) != 4 or said.get("auto_pad", "NOTSET") != "NOTSET" or said.get("output_shape"):
        return None
    groups = int(said.get("group", 1))
    kernel = (shape[2], shape[3])
    strides = tuple(said.get("strides", (1, 1)))
    dilations = tuple(said.get("dilations", (1, 1)))
    pads = tuple(said.get("pads", (0, 0, 0, 0)))[:2]
    if node.op_type == "Conv":
        return Reading(
            groups=groups, kernel=kernel, strides=strides, dilations=dilations, pads=pads
        )
    if node.op_type != "ConvTranspose":
        return None
    before = [d * (k - 1) - p for d, k, p in zip(dilations, kernel, pads, strict=True)]
    return Reading(
        groups=groups,
        kernel=kernel,
        dilations=dilations,
        pads=(before[0], before[1]),
        spread=strides,
        mirrored=True,
    )
