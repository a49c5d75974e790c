"""One model of a Triton repository: its configuration, its warm-up data, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import TensorSpec
from segdeploy.deploy.onnx_model.file import describe, load_model, metadata, output_stated
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.packaging.classes import stated_output
from segdeploy.deploy.packaging.forms import sides
from segdeploy.deploy.packaging.onnx.target import verify_model
from segdeploy.deploy.packaging.openvino.models import IR_FILE, require_openvino, verify_ir
from segdeploy.deploy.packaging.text_protobuf import Message, Schema
from segdeploy.deploy.system.errors import InputError

DATA_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
"""numpy's name of an element type to Triton's."""

MODEL_CONFIG = Schema(
    syntax="proto3",
    enums={
        "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
        "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
    },
    messages={
        "ModelConfig": {
            "name": "string = 1",
            "backend": "string = 17",
            "default_model_filename": "string = 8",
            "version_policy": "ModelVersionPolicy = 3",
            "max_batch_size": "int32 = 4",
            "input": "repeated ModelInput = 5",
            "output": "repeated ModelOutput = 6",
            "dynamic_batching": "ModelDynamicBatching = 11",
            "instance_group": "repeated ModelInstanceGroup = 7",
            "parameters": "map ModelParameter = 14",
            "model_warmup": "repeated ModelWarmup = 16",
        },
        "ModelInput": {
            "name": "string = 1",
            "data_type": "DataType = 2",
            "dims": "repeated int64 = 4",
        },
        "ModelOutput": {
            "name": "string = 1",
            "data_type": "DataType = 2",
            "dims": "repeated int64 = 3",
        },
        "Latest": {"num_versions": "uint32 = 1"},
        "ModelVersionPolicy": {"latest": "Latest = 1"},
        "ModelDynamicBatching": {"max_queue_delay_microseconds": "uint64 = 2"},
        "ModelInstanceGroup": {"count": "int32 = 2", "kind": "Kind = 4"},
        "ModelParameter": {"string_value": "string = 1"},
        "WarmupInput": {
            "data_type": "DataType = 1",
            "dims": "repeated int64 = 2",
            "input_data_file": "string = 5",
        },
        "ModelWarmup": {
            "name": "string = 1",
            "batch_size": "uint32 = 2",
            "inputs": "map WarmupInput = 3",
        },
    },
)


def read_config(path: Path) -> Message:
    """Read a ``config.pbtxt``, a ``ModelConfig``, with protobuf's own parser.

    Raises:
        InputError: it cannot be read, is no text message, or has fields no package writes.
    """
    what = "Triton configuration of this tool"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no {what} ({error})") from error
    return MODEL_CONFIG.read(text, source=str(path), what=what)


CONFIG = "config.pbtxt"
OUTPUT = "output"
"""Parameter of a configuration that states the classes."""

WARMUP = "warmup"
"""Folder of a model that Triton reads the data of warm-up requests from."""

ONNXRUNTIME, OPENVINO = "onnxruntime", "openvino"
MODEL_FILES = {ONNXRUNTIME: "model.onnx", OPENVINO: "model.xml"}
QUEUE_DELAY_US = 1000
"""How long a request may wait for others: a tenth of what one image of an int8 UNet++ takes."""


def model_config(
    name: str,
    backend: str,
    ends: tuple[TensorSpec, TensorSpec],
    warmups: list[tuple[str, list[int], int]],
    *,
    max_batch: int,
    stated: Mapping[str, object],
) -> Message:
    """The configuration of one model.

    Args:
        name: its folder.
        backend: which of Triton's executes it.
        ends: input and output; a text is a dynamic axis.
        warmups: as ``write_warmups`` gives them.
        max_batch: largest batch Triton may form; 0 where the model's own first axis is stated.
        stated: what the package states of the output, as a parameter for clients to read.
    """
    config = MODEL_CONFIG.new()
    config.name, config.backend = name, backend
    config.default_model_filename = MODEL_FILES[backend]
    config.max_batch_size = max_batch
    config.version_policy.latest.num_versions = 1
    for side, spec in zip((config.input, config.output), ends, strict=True):
        shape = sides(spec)[1:] if max_batch else sides(spec)
        side.add(name=spec.name, data_type=DATA_TYPES[spec.dtype], dims=shape)
    if max_batch > 1:
        config.dynamic_batching.max_queue_delay_microseconds = QUEUE_DELAY_US
    config.instance_group.add(count=1, kind="KIND_CPU")
    if backend == OPENVINO:
        config.parameters["PERFORMANCE_HINT"].string_value = "LATENCY"
    for key, value in stated.items():
        config.parameters[key].string_value = json.dumps(value, sort_keys=True)
    for file, shape, batch in warmups:
        warmup = config.model_warmup.add(name=f"{file}_x{batch}", batch_size=batch)
        feed = warmup.inputs[ends[0].name]
        feed.data_type, feed.input_data_file = DATA_TYPES[ends[0].dtype], file
        feed.dims.extend(shape)
    return config


def warmup_feed(
    image: NDArray[np.uint8], contract: Preprocess, spec: TensorSpec
) -> NDArray[np.generic]:
    """An image as a model takes it, without the batch axis.

    Args:
        image: (H, W, channels), as decoded.
        contract: the model's.
        spec: its input; one of any size takes the image as it is.
    """
    if spec.dtype != "uint8":
        return contract.apply(image)
    return image if sides(spec)[1] < 0 else Interface.IMAGE.prepared(image, contract)


def write_warmups(
    folder: Path, feed: NDArray[np.generic], sizes: list[int], *, max_batch: int
) -> list[tuple[str, list[int], int]]:
    """Write the data of warm-up requests, raw and row-major.

    Args:
        folder: the model's.
        feed: one image as the model takes it.
        sizes: batches to warm up.
        max_batch: as in the configuration; above 0 Triton repeats the one image itself.

    Returns:
        For each batch: file, shape, and how often Triton repeats it.
    """
    (folder / WARMUP).mkdir()
    warmups = []
    for size in sizes:
        stated = feed if max_batch else feed[None].repeat(size, axis=0)
        file = "image" if max_batch else f"images_{size}"
        (folder / WARMUP / file).write_bytes(np.ascontiguousarray(stated).tobytes())
        warmups.append((file, list(stated.shape), size if max_batch else 1))
    return warmups


def described(folder: Path, backend: str) -> tuple[tuple[TensorSpec, TensorSpec], dict[str, str]]:
    """Input and output of a written model, and its metadata, from the file itself."""
    if backend == OPENVINO:
        require_openvino()
        from segdeploy.deploy.packaging.openvino.ir import read_ir

        ir = read_ir(folder / IR_FILE)
        return (ir.input, ir.output), ir.facts
    path = folder / "1" / MODEL_FILES[ONNXRUNTIME]
    model = load_model(path)
    artifact = describe(path, model=model)
    return (artifact.inputs[0], artifact.outputs[0]), metadata(model)


def verify_entry(path: Path) -> None:
    """Read a model's configuration back and hold it against the model and its warm-up data.

    Args:
        path: its ``config.pbtxt``.

    Raises:
        InputError: they do not fit.
    """
    config, folder = read_config(path), path.parent
    if config.name != folder.name or config.backend not in MODEL_FILES:
        raise InputError(f"{path} is for {config.name!r} on {config.backend!r}")
    if config.backend == OPENVINO:
        require_openvino()
        verify_ir(folder / IR_FILE)
    else:
        verify_model(folder / "1" / config.default_model_filename)
    ends, entries = described(folder, config.backend)
    wanted = stated_output(output_stated(entries, source=str(path)))
    found_output = config.parameters[OUTPUT].string_value if OUTPUT in config.parameters else None
    if found_output != (json.dumps(wanted[OUTPUT], sort_keys=True) if wanted else None):
        raise InputError(f"{path} states other classes than its model's metadata")
    for stated, spec in zip((config.input, config.output), ends, strict=True):
        shape = sides(spec)
        expected = shape[1:] if config.max_batch_size else shape
        found = [(end.name, end.data_type, list(end.dims)) for end in stated]
        number = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
        if found != [(spec.name, number[DATA_TYPES[spec.dtype]].number, expected)]:
            raise InputError(f"{path} states {found}; the model has {spec}")
        if config.max_batch_size and shape[0] >= 0:
            raise InputError(f"{path} lets Triton form batches; the model's is fixed to {shape[0]}")
    for warmup in config.model_warmup:
        feed = warmup.inputs[ends[0].name]
        data = folder / WARMUP / feed.input_data_file
        size = prod(feed.dims) * np.dtype(ends[0].dtype).itemsize
        if not data.is_file() or data.stat().st_size != size:
            raise InputError(f"{data} does not hold the {size} bytes that {path} states")
