"""PyTorch checkpoint to ONNX: BatchNorm folded, one probability output, a dynamic batch axis."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segdeploy.deploy import __version__
from segdeploy.deploy.models.checkpoint import Checkpoint, Probability
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    describe,
    output_entries,
    save_model,
    set_metadata,
    strip_debug_info,
)
from segdeploy.deploy.onnx_model.interface import INPUT_NAME, OUTPUT_NAME
from segdeploy.deploy.stages.fold_batch_norm import with_batch_norm_folded
from segdeploy.deploy.system.errors import RunError

OPSET = 18
TRACE_BATCH = 2
"""Batch of the traced example; torch.export would specialise on 0 or 1."""


def export(source: Checkpoint | LoadedModule, output: Path) -> Artifact:
    """Write the fp32 ONNX file of a checkpoint, or of a module.

    Input ``image`` float32 (batch, channels, height, width), normalised by its input
    contract; output ``probability`` float32 (batch, classes, height, width).

    Raises:
        RunError: PyTorch could not export the network.
        OSError: the output cannot be written.
    """
    module = isinstance(source, LoadedModule)
    network = source.probability() if module else fold_batch_norm(source.probability())
    model = _traced(network, source)
    if module:  # nothing is known of how its layers follow each other before they are traced
        model = with_batch_norm_folded(model)
    name_layers(model)
    strip_debug_info(model)
    set_metadata(model, _metadata(source))
    save_model(model, output)
    return describe(output, model=model)


def _traced(network: nn.Module, source: Checkpoint | LoadedModule) -> onnx.ModelProto:
    """The graph of a network, for any batch where the network allows it.

    Raises:
        RunError: PyTorch could not export it.
    """
    height, width = source.preprocess.size
    example = torch.zeros(TRACE_BATCH, len(source.preprocess.mean), height, width)
    name = source.name if isinstance(source, LoadedModule) else source.path
    any_batch = not isinstance(source, LoadedModule) or source.any_batch
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example if any_batch else example[:1],),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}} if any_batch else None,
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise RunError(f"PyTorch could not export {name}: {error}") from error
    if program is None:
        raise RunError(f"PyTorch returned no ONNX program for {name}")
    model: onnx.ModelProto = program.model_proto
    return model


def fold_batch_norm(network: Probability) -> nn.Module:
    """Fold every BatchNorm into the convolution before it; the input is left untouched.

    Folding before the export keeps R2U-Net's recurrent convolutions shared: one weight used
    ``t + 1`` times, where folding in the traced graph would write ``t + 1`` copies. Computed in
    float64 and rounded once.
    """
    folded = copy.deepcopy(network).double().eval()
    for module in folded.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            conv, norm = module[index], module[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index], module[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return folded.float()


def name_layers(model: onnx.ModelProto) -> None:
    """Name each layer after its weight, in place, so that reports and flags can name it.

    A convolution with the weight ``network.conv0_0.conv.0.weight`` becomes ``conv0_0.conv.0``,
    its second use ``conv0_0.conv.0@2``; the node after it ``conv0_0.conv.0/Relu``; any other node
    its operator and a count, as ``Concat@1``. Each output tensor takes its node's name.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in [*graph.input, *graph.output]}
    renamed: dict[str, str] = {
        tensor.name: tensor.name.removeprefix("network.") for tensor in graph.initializer
    }
    used: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] in weights:
            base = renamed[node.input[1]].removesuffix(".weight")
        elif node.op_type == "Relu" and node.input[0] in renamed:
            base = f"{renamed[node.input[0]]}/Relu"
        else:
            base = node.op_type
        used[base] += 1
        node.name = base if used[base] == 1 and base != node.op_type else f"{base}@{used[base]}"
        for place, tensor in enumerate(node.output):
            own = f"{node.name}:{place}" if place else node.name
            renamed[tensor] = tensor if tensor in kept or not tensor else own
    for tensor in graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed[name] for name in node.output]
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _metadata(source: Checkpoint | LoadedModule) -> dict[str, str]:
    entries = {
        "author": "segdeploy",
        "version": __version__,
        "task": "semantic segmentation",
        "preprocess": source.preprocess.to_json(),
        "checkpoint_sha256": source.sha256,
        "source_network_returned": "logits" if source.logits else "probability",
        "precision": Precision.FP32.value,
    } | output_entries(source.output)
    if isinstance(source, LoadedModule):
        return entries | {"arch": source.name}
    entries |= {"arch": source.arch.value, "family": source.detected.family.value}
    if source.head is not None:
        entries["head"] = str(source.head)
    if source.recurrence is not None:
        entries["recurrence"] = str(source.recurrence)
    return entries


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's prints and warnings about packages this network does not need."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
