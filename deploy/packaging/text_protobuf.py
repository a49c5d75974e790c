"""Protobuf text files of vendors' tools, read back by protobuf's own parser.

A schema is a table of messages, each a table of fields; it holds the fields written here, so a
misspelt one is refused as the vendor's tool would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    text_format,
)

from segdeploy.deploy.system.errors import InputError

Schema = Mapping[str, Mapping[str, str]]
"""Message to field to type: ``bool``, ``int32``, ``float``, ``string``, the name of another
message, or ``enum A B``; in front of it ``repeated``, where there may be several. The first
message is the file."""

_SCALARS = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "int32": descriptor_pb2.FieldDescriptorProto.TYPE_INT32,
    "float": descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}
_PACKAGE = "segdeploy"


def read_text_protobuf(text: str, schema: Schema, *, source: str) -> dict[str, Any]:
    """Parse a text file.

    Args:
        text: its content.
        schema: what it may hold.
        source: what to call it in an error.

    Returns:
        Fields and values, nested messages as dicts.

    Raises:
        InputError: not the text form of a message of the schema.
    """
    message = _message_class(schema)()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise InputError(f"{source} is no text protobuf of its kind ({error})") from error
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _message_class(schema: Schema) -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="package.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, name, field, kind, number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    first = next(iter(schema))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{first}"))


def _add_field(
    message: descriptor_pb2.DescriptorProto, owner: str, name: str, kind: str, number: int
) -> None:
    form = descriptor_pb2.FieldDescriptorProto
    repeated = kind.startswith("repeated ")
    kind = kind.removeprefix("repeated ")
    field = message.field.add(
        name=name, number=number, label=form.LABEL_REPEATED if repeated else form.LABEL_OPTIONAL
    )
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    elif kind.startswith("enum "):
        values = message.enum_type.add(name=f"{name}_values")
        for index, value in enumerate(kind.split()[1:]):
            values.value.add(name=value, number=index)
        field.type, field.type_name = form.TYPE_ENUM, f".{_PACKAGE}.{owner}.{name}_values"
    else:
        field.type, field.type_name = form.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
