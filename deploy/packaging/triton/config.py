"""Triton's model configuration (``config.pbtxt``): its messages, and reading it back.

The messages are the part of ``model_config.proto`` (triton-inference-server/common) that a package
uses. A field they do not know is an error when a file is read.
"""

from __future__ import annotations

from pathlib import Path

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
    try:
        return MODEL_CONFIG.read(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no Triton configuration of this tool ({error})") from error
