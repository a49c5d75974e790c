"""Scale channels between two layers so that both round them alike; in float nothing changes.

A layer's output channel is divided by a power of two, in weight and bias, and every layer that
reads it multiplies by it. What lies between must pass a factor on: a ReLU or a leaky one, pooling,
resizing, zero padding, a Concat of channels. Powers of two change no bit of any product or sum, so
the float network gives exactly what it gave. A weight that several layers read stays as it is: a
recurrence would need the same factor everywhere.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from segdeploy.calibration.equalised import channel_powers
from segdeploy.calibration.estimate import Method
from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    save_model,
    set_metadata,
)
from segdeploy.deploy.onnx_model.graph import GraphIndex, attributes
from segdeploy.deploy.onnx_model.shapes import Shapes, infer_shapes, one_image
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.operators import Carries, LayerWeight, carries, layer_weight
from segdeploy.deploy.quantize.to_int8 import EQUALISED_OF
from segdeploy.deploy.recovery.candidate import Candidate, Workshop
from segdeploy.deploy.sensitivity.parts import GraphPart, GraphView
from segdeploy.deploy.system.errors import InputError

log = logging.getLogger(__name__)

HOMOGENEOUS = frozenset(
    {
        "AveragePool",
        "Concat",
        "Dropout",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Identity",
        "LeakyRelu",
        "MaxPool",
        "Pad",
        "PRelu",
        "Relu",
        "Resize",
    }
)
"""Operators that pass on a positive factor of each channel, and mix none."""

POWERS = "equalised_powers"
"""Under which such a file, and an int8 file made from it, says of each layer by what powers of two
its channels were divided."""

MOST_ROUNDS = 8
"""Scaling a layer's outputs changes what its inputs weigh; it settles in a few rounds."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A layer that reads the channels of another.

    Attributes:
        node: the layer.
        first: the place, among its input channels, of the other's first.
    """

    node: onnx.NodeProto
    first: int


@dataclass(frozen=True, kw_only=True)
class Link:
    """A layer and all that read it.

    Attributes:
        maker: whose output channels are scaled.
        observed: what its readers, or the first node that joins it with others, read.
        readers: every layer behind.
    """

    maker: onnx.NodeProto
    observed: str
    readers: tuple[Reader, ...]


def equalised(candidate: Candidate, workshop: Workshop) -> Candidate:
    """A candidate from the equalised network, calibrated anew.

    It is the candidate itself where no channel has anything to gain, or where the ranges are of
    another tool, which alone could find them again. What was learnt for the network as it was does
    not hold for another: equalise first.

    Raises:
        InputError: an image cannot be read, or ONNX Runtime does not accept the model.
        OSError: a file cannot be written.
    """
    assert not candidate.learnt.weights, "equalise first"
    assert not candidate.learnt.biases, "equalise first"
    if candidate.table.method is Method.IMPORTED:
        log.warning("channels stay as they are: their ranges are of another tool's table")
        return candidate
    model = load_model(candidate.source.path)
    links = links_of(model)
    sizes = _sizes(model, links, workshop)
    powers = equalise(model, links, sizes)
    count = sum(int(np.count_nonzero(each)) for each in powers.values())
    log.info("%d channels of %d layers scaled", count, len(powers))
    if not count:
        return candidate
    said = json.dumps({name: each.tolist() for name, each in powers.items()}, separators=(",", ":"))
    set_metadata(model, metadata(model) | {EQUALISED_OF: candidate.source.sha256, POWERS: said})
    path = workshop.folder / "equalised.onnx"
    save_model(model, path)
    source = describe(path)
    table = calibrate(
        source,
        workshop.images,
        preprocess=workshop.preprocess,
        method=candidate.table.method,
        threads=workshop.threads,
        progress=lambda samples: workshop.progress(samples, "calibrate"),
    )
    return replace(candidate, source=source, table=table)


def scaled_like(reference: Artifact, candidate: Artifact, path: Path) -> Artifact:
    """The float file whose tensors an int8 file rounds: its reference, or that equalised alike.

    Args:
        reference: the float file that the int8 file names as its parent.
        candidate: the int8 file.
        path: where to write another float file, if one is needed.

    Raises:
        InputError: the int8 file was equalised from another network.
        OSError: the file cannot be written.
    """
    said = metadata(load_model(candidate.path)).get(POWERS)
    model = load_model(reference.path)
    if said == metadata(model).get(POWERS):
        return reference
    if said is None:
        raise InputError(
            f"{reference.path} was equalised, {candidate.path} was not; give as --reference the "
            "file it was quantized from"
        )
    links = {link.maker.name: link for link in links_of(model)}
    try:
        powers = {name: np.array(each, np.int64) for name, each in json.loads(said).items()}
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{candidate.path}: {POWERS} in its metadata is damaged") from error
    values = _constants(model, links.values())
    for name, each in powers.items():
        if name not in links or each.shape != (_channels(links[name], values),):
            raise InputError(
                f"{candidate.path} scales the channels of {name!r:.80}, which {reference.path} "
                "does not hold as it was; give as --reference the file it was quantized from"
            )
        _scale(links[name], each, values)
    _store(model, values)
    save_model(model, path)
    return describe(path)


def links_of(model: onnx.ModelProto) -> tuple[Link, ...]:
    """The layers whose outputs only layers read, however far behind, in graph order."""
    index = GraphIndex(model.graph)
    shapes = infer_shapes(model, [one_image(value) for value in model.graph.input])
    found = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and _own(node, index):
            readers: list[Reader] = []
            if _followed(node.output[0], 0, readers, index, shapes) and readers:
                observed = _observed(node.output[0], index)
                found.append(Link(maker=node, observed=observed, readers=tuple(readers)))
    return tuple(found)


def equalise(
    model: onnx.ModelProto, links: tuple[Link, ...], sizes: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[np.int64]]:
    """Scale channels in place.

    Args:
        model: a float model.
        links: of it.
        sizes: for each link's ``observed``, the largest magnitude of each channel.

    Returns:
        For each layer with a channel that has another scale than before, the powers of two by which
        its channels were divided.
    """
    values = _constants(model, links)
    total = {link.maker.name: np.zeros(len(sizes[link.observed]), np.int64) for link in links}
    for _ in range(MOST_ROUNDS):
        moved = 0
        for link in links:
            powers = total[link.maker.name]
            now = sizes[link.observed] * np.exp2(-powers.astype(np.float64))
            more = channel_powers(now, _weights_behind(link, len(now), values))
            limited = np.clip(powers + more, -12, 12) - powers
            if limited.any():
                _scale(link, limited, values)
                total[link.maker.name] = powers + limited
                moved += int(np.count_nonzero(limited))
        if not moved:
            break
    _store(model, values)
    return {name: powers for name, powers in total.items() if powers.any()}


def _constants(model: onnx.ModelProto, links: Iterable[Link]) -> dict[str, NDArray[np.float32]]:
    """Weights and biases of all layers of some links."""
    index = GraphIndex(model.graph)
    names = {n for link in links for node in _nodes(link) for n in node.input[1:] if n}
    return {n: index.value(n).astype(np.float32) for n in names if n in index.constants}


def _store(model: onnx.ModelProto, values: Mapping[str, NDArray[np.float32]]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))


def _channels(link: Link, values: Mapping[str, NDArray[np.float32]]) -> int:
    """How many a layer makes."""
    layer = _layer(link.maker)
    return len(layer.rows(values[link.maker.input[layer.place]]))


def _nodes(link: Link) -> tuple[onnx.NodeProto, ...]:
    return (link.maker, *(reader.node for reader in link.readers))


def _own(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """A layer over maps whose weight and bias are constants that no other node reads."""
    names = [name for name in node.input[1:] if name]
    alone = all(name in index.constants and len(index.readers[name]) == 1 for name in names)
    return alone and layer_weight(node) is not None


def _followed(
    name: str, first: int, readers: list[Reader], index: GraphIndex, shapes: Shapes
) -> bool:
    """Whether everything that reads a tensor passes its factors on to layers that take them."""
    if name in index.outputs or not index.readers.get(name):
        return False
    for node in index.readers[name]:
        if node.op_type in ("Conv", "ConvTranspose"):
            if node.input[0] != name or not _own(node, index):
                return False
            readers.append(Reader(node=node, first=first))
            continue
        place = first
        if node.op_type == "Concat":
            before = [shapes.get(each) for each in node.input[: list(node.input).index(name)]]
            once = list(node.input).count(name) == 1
            known = all(shape is not None and isinstance(shape[1], int) for shape in before)
            if attributes(node).get("axis") != 1 or not once or not known:
                return False
            place += sum(int(shape[1]) for shape in before if shape is not None)
        elif node.op_type not in HOMOGENEOUS or node.input[0] != name:
            return False
        if node.op_type in ("Pad", "Resize") and not _passes_factors(node, index):
            return False
        if not _followed(node.output[0], place, readers, index, shapes):
            return False
    return True


def _passes_factors(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """A Pad of zeros, or a Resize that fills in nothing of its own; channels stay as they are."""
    if node.op_type == "Resize":
        return attributes(node).get("coordinate_transformation_mode") != "tf_crop_and_resize"
    pads = index.constant(node.input[1]) if len(node.input) > 1 else None
    same = pads is not None and pads.size == 8 and not pads[[0, 1, 4, 5]].any()
    return same and carries(node, index) is not Carries.NOTHING


def _observed(name: str, index: GraphIndex) -> str:
    """The last tensor behind a layer that it alone makes, up to its activation."""
    node = index.only_reader(name)
    return node.output[0] if node and node.op_type in ("Relu", "LeakyRelu", "PRelu") else name


def _sizes(
    model: onnx.ModelProto, links: tuple[Link, ...], workshop: Workshop
) -> dict[str, NDArray[np.float64]]:
    """The largest magnitude of each channel over all images."""
    if not links:
        return {}
    view = GraphView(model)
    names = [link.observed for link in links]
    part = GraphPart(view, [view.input], names, literal=False)

    def sizes(sample: Sample) -> list[NDArray[np.float64]]:
        found = part(workshop.input(sample))
        over = [(0, *range(2, each.ndim)) for each in found]
        return [np.abs(e).max(axis=a).astype(np.float64) for e, a in zip(found, over, strict=True)]

    each = workshop.each(sizes, workshop.samples)
    return {n: np.max([found[i] for found in each], axis=0) for i, n in enumerate(names)}


def _weights_behind(
    link: Link, channels: int, values: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float64]:
    """The largest weight that reads each channel, in parts of the largest of its output channel.

    Every output channel has a scale of its own, so what counts is what is large beside it.
    """
    found = np.zeros(channels)
    for reader in link.readers:
        layer = _layer(reader.node)
        rows = np.abs(layer.rows(values[reader.node.input[layer.place]]).astype(np.float64))
        peaks = rows.reshape(len(rows), -1).max(axis=1)
        share = rows / np.where(peaks > 0, peaks, 1.0).reshape(-1, *[1] * (rows.ndim - 1))
        groups = _groups(reader.node)
        of_input = share.reshape(groups, len(rows) // groups, rows.shape[1], -1).max(axis=(1, 3))
        part = of_input.reshape(-1)[reader.first : reader.first + channels]
        found = np.maximum(found, part)
    return found


def _scale(link: Link, powers: NDArray[np.int64], values: dict[str, NDArray[np.float32]]) -> None:
    """Divide a layer's output channels by powers of two, and multiply where they are read."""
    layer = _layer(link.maker)
    weight = link.maker.input[layer.place]
    rows = layer.rows(values[weight])
    values[weight] = layer.stored(np.ldexp(rows, -_beside(powers, rows.ndim)))
    if layer.bias is not None:
        bias = link.maker.input[layer.bias]
        values[bias] = np.ldexp(values[bias], -powers.astype(np.int32))
    for reader in link.readers:
        layer = _layer(reader.node)
        weight = reader.node.input[layer.place]
        rows = layer.rows(values[weight])
        groups = _groups(reader.node)
        every = np.zeros(groups * rows.shape[1], np.int64)
        every[reader.first : reader.first + len(powers)] = powers
        of_rows = np.repeat(every.reshape(groups, -1), len(rows) // groups, axis=0)
        factors = of_rows.reshape(*of_rows.shape, *[1] * (rows.ndim - 2)).astype(np.int32)
        values[weight] = layer.stored(np.ldexp(rows, factors))


def _layer(node: onnx.NodeProto) -> LayerWeight:
    layer = layer_weight(node)
    assert layer is not None, node.name
    return layer


def _groups(node: onnx.NodeProto) -> int:
    return int(attributes(node).get("group", 1))


def _beside(powers: NDArray[np.int64], ndim: int) -> NDArray[np.int32]:
    return powers.astype(np.int32).reshape(-1, *[1] * (ndim - 1))
