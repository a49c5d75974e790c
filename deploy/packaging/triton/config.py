"""Triton's model configuration (``config.pbtxt``): protobuf messages, their text, and back.

The messages are the part of ``model_config.proto`` (triton-inference-server/common) that a package
uses, declared from its field names, numbers and types, so that protobuf's own text printer and
parser do the writing and the reading. A field they do not know is an error when a file is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from segdeploy.deploy.system.errors import InputError

DATA_TYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "uint8": "TYPE_UINT8"}
"""numpy's name of an element type to Triton's."""

_PACKAGE = "inference"
_ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11},
    "Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}
# Message to its fields: name, number, type; "*" repeated, "map" from text to a message.
_MESSAGES: dict[str, list[tuple[str, int, str]]] = {
    "ModelInput": [("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 4, "*int64")],
    "ModelOutput": [("name", 1, "string"), ("data_type", 2, "DataType"), ("dims", 3, "*int64")],
    "Latest": [("num_versions", 1, "uint32")],
    "ModelVersionPolicy": [("latest", 1, "Latest")],
    "ModelDynamicBatching": [("max_queue_delay_microseconds", 2, "uint64")],
    "ModelInstanceGroup": [("count", 2, "int32"), ("kind", 4, "Kind")],
    "ModelParameter": [("string_value", 1, "string")],
    "WarmupInput": [
        ("data_type", 1, "DataType"),
        ("dims", 2, "*int64"),
        ("input_data_file", 5, "string"),
    ],
    "ModelWarmup": [
        ("name", 1, "string"),
        ("batch_size", 2, "uint32"),
        ("inputs", 3, "map WarmupInput"),
    ],
    "ModelConfig": [
        ("name", 1, "string"),
        ("backend", 17, "string"),
        ("default_model_filename", 8, "string"),
        ("version_policy", 3, "ModelVersionPolicy"),
        ("max_batch_size", 4, "int32"),
        ("input", 5, "*ModelInput"),
        ("output", 6, "*ModelOutput"),
        ("dynamic_batching", 11, "ModelDynamicBatching"),
        ("instance_group", 7, "*ModelInstanceGroup"),
        ("parameters", 14, "map ModelParameter"),
        ("model_warmup", 16, "*ModelWarmup"),
    ],
}

Config = Any
"""A ``ModelConfig`` message; protobuf makes the class at run time."""


def new_config() -> Config:
    """An empty ``ModelConfig``."""
    return _CONFIG()


def config_text(config: Config) -> str:
    """A configuration as ``config.pbtxt`` holds it."""
    text: str = text_format.MessageToString(config, use_short_repeated_primitives=True)
    return text


def read_config(path: Path) -> Config:
    """Read a ``config.pbtxt`` with protobuf's own parser.

    Raises:
        InputError: it cannot be read, is no text message, or has fields no package writes.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), new_config())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise InputError(f"{path} is no Triton configuration of this tool ({error})") from error


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="segdeploy_triton_config.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
    return file


def _add_field(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, declared: str
) -> None:
    types = descriptor_pb2.FieldDescriptorProto
    repeated = declared.startswith(("*", "map "))
    element = declared.removeprefix("*")
    if declared.startswith("map "):
        element = "".join(part.title() for part in name.split("_")) + "Entry"
        entry = message.nested_type.add(name=element)
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, declared.removeprefix("map "))
        element = f"{message.name}.{element}"
    field = message.field.add(
        name=name,
        number=number,
        label=types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL,
    )
    if element in _ENUMS:
        field.type = types.TYPE_ENUM
    elif element in _MESSAGES or declared.startswith("map "):
        field.type = types.TYPE_MESSAGE
    else:
        field.type = types.Type.Value(f"TYPE_{element.upper()}")
        return
    field.type_name = f".{_PACKAGE}.{element}"


def _config_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelConfig"))


_CONFIG = _config_class()
