"""Fine-tune a checkpoint with the integers of a target: from its weights to a graph, and back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from segdeploy.calibration.estimate import Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, describe, load_model, save_model
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.stages.simplify import simplify
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.progress import bar
from segdeploy.deploy.targets.profiles import TargetProfile
from segdeploy.training.quantized_graph import QuantizedGraph


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What a network is trained for.

    Attributes:
        profile: the target.
        images: that its ranges are found on; they stay as they are while it trains.
        method: how a range is chosen.
    """

    profile: TargetProfile
    images: SegmentationSet
    method: Method = Method.ENTROPY

    def identity(self) -> dict[str, str]:
        """What two such trainings must share to be the same."""
        return {
            "calibration_images": self.images.sha256(),
            "calibration_method": self.method.value,
        }


def graph_of(
    model: onnx.ModelProto, *, table: CalibrationTable, profile: TargetProfile
) -> QuantizedGraph:
    """The differentiable form of a float graph's int8 file.

    Args:
        model: float32, as it was calibrated.
        table: ranges of its activations.
        profile: the target.

    Raises:
        InputError: the table lacks a tensor.
        UsageError: an operator that cannot be trained quantized.
    """
    unbound = replace(table, model_sha256=None)  # of these weights and of all that follow

    def requantize(values: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            floats = Path(folder) / "float.onnx"
            save_model(with_weights(model, values), floats)
            made = to_int8(
                describe(floats),
                Path(folder) / "int8.onnx",
                table=unbound,
                table_sha256="",
                profile=profile,
            )
            return load_model(made.path)

    return QuantizedGraph(model, requantize, largest=64 if profile.reduce_range else 127)


def with_weights(
    model: onnx.ModelProto, values: Mapping[str, np.ndarray[Any, Any]]
) -> onnx.ModelProto:
    """A copy of a float graph with other values of some initialisers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(
                numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name)
            )
    return changed


def float_graph(source: Checkpoint, folder: Path) -> Artifact:
    """``start.onnx``: a checkpoint as it is calibrated and quantized, BatchNorms folded.

    Raises:
        RunError: PyTorch could not export it.
        OSError: the folder cannot be written.
    """
    return simplify(export(source, folder / "exported.onnx"), folder / "simplified.onnx")


def ranges_of(quantization: Quantization, source: Artifact, *, stored: Path) -> CalibrationTable:
    """The table of a network: the one stored where it is of this network and these images.

    Raises:
        InputError: an image cannot be read, or an activation is not finite.
        OSError: the table cannot be written.
    """
    images, method = quantization.images, quantization.method
    if stored.is_file():
        table = CalibrationTable.read(stored)
        same = (table.model_sha256, table.data_sha256, table.method)
        if same == (source.sha256, images.sha256(), method):
            return table

    table = calibrate(
        source,
        images,
        preprocess=contract_of(source),
        method=method,
        progress=lambda samples: bar(samples, "calibrate", unit="image"),
    )
    table.write(stored)
    return table


def quantized_form(
    start: Checkpoint, quantization: Quantization, *, stored: Path
) -> QuantizedGraph:
    """A checkpoint as the graph that is trained; its ranges are kept in ``stored``."""
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as made:
        source = float_graph(start, Path(made))
        table = ranges_of(quantization, source, stored=stored)
        model = load_model(source.path)
    return graph_of(model, table=table, profile=quantization.profile)


def with_folded(network: Network, values: Mapping[str, np.ndarray[Any, Any]]) -> Network:
    """Put folded weights back into a network: its BatchNorms do nothing but add the bias.

    Their mean is 0, their variance 1 - eps and their gain 1, so that folding them again gives the
    same float32 weights to the last bit.

    Args:
        network: changed in place.
        values: weights and biases by the names of its state dict, BatchNorms folded.

    Raises:
        UsageError: a value has no place in the network.
    """
    modules = dict(network.named_modules())
    norms = {}
    for name, module in modules.items():
        if isinstance(module, nn.Sequential):
            for place in range(len(module) - 1):
                pair = module[place], module[place + 1]
                if isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
                    norms[f"{name}.{place}"] = pair[1]
    with torch.no_grad():
        for name, value in values.items():
            owner, _, kind = name.rpartition(".")
            target = modules.get(owner)
            if not isinstance(target, nn.Conv2d) or kind not in ("weight", "bias"):
                raise UsageError(f"{name} has no place in the network's state dict")
            new, norm = torch.tensor(value), norms.get(owner)
            if kind == "weight":
                target.weight.copy_(new)
            elif norm is None:
                assert target.bias is not None
                target.bias.copy_(new)
            else:
                norm.bias.copy_(new)
                if target.bias is not None:
                    target.bias.zero_()
                norm.weight.fill_(1)
                assert norm.running_mean is not None
                assert norm.running_var is not None
                norm.running_mean.zero_()
                norm.running_var.fill_(1 - norm.eps)
    return network


def write_int8(checkpoint: Path, quantization: Quantization, table: CalibrationTable) -> Path:
    """Beside a checkpoint: its float graph, the table that is now of it, and its int8 file.

    Raises:
        RunError: PyTorch could not export it.
        OSError: the folder cannot be written.
    """
    stem, folder = checkpoint.stem, checkpoint.parent
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as made:
        exported = float_graph(load_checkpoint(checkpoint), Path(made))
        model = load_model(exported.path)
    floats = folder / f"{stem}.sim.onnx"
    save_model(model, floats)
    source = describe(floats)
    path = folder / f"{stem}.calib.json"
    own = replace(table, model_sha256=source.sha256)
    own.write(path)
    output = folder / f"{stem}.int8.{quantization.profile.name}.onnx"
    to_int8(source, output, table=own, table_sha256=sha256_of(path), profile=quantization.profile)
    return output


def save_folded(
    graph: QuantizedGraph, start: Checkpoint, path: Path, *, metadata: Mapping[str, str]
) -> None:
    """Write the weights of a quantized graph as a checkpoint of the network it was made of.

    Raises:
        OSError: the folder cannot be written.
    """
    network = with_folded(start.network, graph.values())
    save_checkpoint(
        network, path, preprocess=start.preprocess, output=start.output, metadata=metadata
    )
