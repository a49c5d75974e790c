"""Protobuf text files of vendors' tools, by protobuf's own printer and parser.

A schema is a table of messages, each a table of fields. It holds the fields written here alone, so
that a misspelt one is refused as the vendor's tool would refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    json_format,
    message_factory,
    text_format,
)

from segdeploy.deploy.system.errors import InputError

_PACKAGE = "segdeploy"

_Descriptor = descriptor_pb2.FieldDescriptorProto

Message = Any
"""A message of a schema; protobuf makes the class at run time."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The part of a vendor's ``.proto`` file that is used here.

    Attributes:
        messages: message to field to declaration, in the words of a ``.proto`` file: a scalar type,
            an enum or a message; ``repeated`` or ``map`` (from text) in front; ``= NUMBER`` behind,
            else fields count from 1. The first message is the file.
        enums: enum to its values and their numbers, the default first.
        syntax: ``proto2`` or ``proto3``.

    Example:
        >>> schema = Schema(messages={"Net": {"name": "string", "dims": "repeated int64 = 4"}})
        >>> fields_of(schema.read("name: 'a' dims: [3, 96]", source="net.cfg"))
        {'name': 'a', 'dims': ['3', '96']}
    """

    messages: Mapping[str, Mapping[str, str]]
    enums: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    syntax: str = "proto2"

    def new(self) -> Message:
        """An empty message of the first type."""
        pool = descriptor_pool.DescriptorPool()
        pool.Add(self._file())
        first = next(iter(self.messages))
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{first}"))()

    def read(self, text: str, *, source: str, what: str = "text protobuf of its kind") -> Message:
        """Parse the text form of the first message.

        Args:
            text: a file's content.
            source: what to call it in an error.
            what: it should be.

        Raises:
            InputError: not the text form of a message of the schema.
        """
        try:
            return text_format.Parse(text, self.new())
        except text_format.ParseError as error:
            raise InputError(f"{source} is no {what} ({error})") from error

    def _file(self) -> descriptor_pb2.FileDescriptorProto:
        file = descriptor_pb2.FileDescriptorProto(
            name="package.proto", package=_PACKAGE, syntax=self.syntax
        )
        for name, values in self.enums.items():
            enum = file.enum_type.add(name=name)
            for value, number in values.items():
                enum.value.add(name=value, number=number)
        for name, fields in self.messages.items():
            message = file.message_type.add(name=name)
            for position, (key, declared) in enumerate(fields.items(), start=1):
                kind, _, stated = declared.partition(" = ")
                self._add_field(message, key, kind, int(stated or position))
        return file

    def _add_field(
        self, message: descriptor_pb2.DescriptorProto, name: str, kind: str, number: int
    ) -> None:
        modifier, _, element = kind.rpartition(" ")
        added = message.field.add(
            name=name,
            number=number,
            label=_Descriptor.LABEL_REPEATED if modifier else _Descriptor.LABEL_OPTIONAL,
        )
        if modifier == "map":
            entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
            entry.options.map_entry = True
            self._add_field(entry, "key", "string", 1)
            self._add_field(entry, "value", element, 2)
            element = f"{message.name}.{entry.name}"
        if element in self.enums:
            added.type = _Descriptor.TYPE_ENUM
        elif element in self.messages or modifier == "map":
            added.type = _Descriptor.TYPE_MESSAGE
        else:
            added.type = _Descriptor.Type.Value(f"TYPE_{element.upper()}")
            return
        added.type_name = f".{_PACKAGE}.{element}"


def text_of(message: Message) -> str:
    """The text form of a message, numbers of a list on one line."""
    text: str = text_format.MessageToString(message, use_short_repeated_primitives=True)
    return text


def fields_of(message: Message) -> dict[str, Any]:
    """Fields and values, nested messages as dicts; 64-bit integers as text."""
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))
