"""``report.schema.json``: the JSON Schema of a report, generated from its records.

``python -m segdeploy.benchmarks.report.schema`` writes the file again. Types, bounds and keys come
from the annotations, descriptions from the docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from segdeploy.benchmarks.report.records import SCHEMA_VERSION, Report
from segdeploy.calibration.files import write_atomic

FILE = Path(__file__).with_name("report.schema.json")

HEAD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": f"urn:segdeploy:report:{SCHEMA_VERSION}",
    "title": "segdeploy report",
}


def report_schema() -> dict[str, Any]:
    """The schema as a JSON value."""
    schema = msgspec.json.schema(Report)
    for record in {kind.__name__: kind for kind in _records(Report)}.values():
        _describe(schema["$defs"][record.__name__], record)
    for enum in set(_enums(Report)):
        schema["$defs"][enum.__name__]["description"] = _docstring(enum)[0]
    whole = schema["$defs"].pop(Report.__name__)
    return HEAD | {key: whole[key] for key in whole if key != "title"} | {"$defs": schema["$defs"]}


def schema_text() -> str:
    """The file's content."""
    return json.dumps(report_schema(), indent=2) + "\n"


def described(record: type) -> tuple[str, dict[str, str]]:
    """What the docstrings of a record and of those it extends say of it and of its fields.

    Example:
        >>> from segdeploy.benchmarks.speed.records import Condition
        >>> summary, of = described(Condition)
        >>> summary, of["threads"]
        ('How quiet the machine was while the rows of one setting were timed.', 'In all, shared by \
the streams.')
    """
    texts = [_docstring(each) for each in reversed(record.__mro__) if is_dataclass(each)]
    of = {name: text for _, attributes in texts for name, text in attributes.items()}
    return texts[-1][0], of


def _docstring(record: type) -> tuple[str, dict[str, str]]:
    """The text before the sections, and each of the attributes, every one a line."""
    text = inspect.cleandoc(record.__doc__ or "")
    summary, _, rest = text.partition("\n\nAttributes:\n")
    summary = re.split(r"\n\n(?:Raises|Example):\n", summary)[0]
    attributes = re.split(r"\n\n(?=\w)", rest)[0]
    found = re.findall(r"(?ms)^ {4}(\w+): (.*?)(?=^ {4}\w|\Z)", attributes)
    return _line(summary), {name: _line(said, capital=True) for name, said in found}


def _line(text: str, *, capital: bool = False) -> str:
    """Prose of a docstring as one line of plain text, in the words of JSON."""
    flat = " ".join(text.split()).replace("``None``", "null").replace("``", "")
    return flat[:1].upper() + flat[1:] if capital else flat


def _records(kind: Any) -> Iterator[type]:
    """Every dataclass that a type is made of."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for hint in get_type_hints(kind, include_extras=True).values():
            yield from _records(hint)
    for inner in get_args(kind):
        yield from _records(inner)


def _enums(kind: type) -> Iterator[type]:
    """Every enum among the fields of a dataclass and of those it is made of."""
    for record in _records(kind):
        for hint in get_type_hints(record).values():
            for each in (hint, *get_args(hint)):
                if isinstance(each, type) and issubclass(each, Enum):
                    yield each


def _describe(schema: dict[str, Any], record: type) -> None:
    """Add what the library does not know: the prose, no other keys, what holds between fields."""
    del schema["title"]
    schema["description"], of = described(record)
    schema["additionalProperties"] = False
    for name, held in schema["properties"].items():
        held.pop("default", None)
        if name in of:
            schema["properties"][name] = {"description": of[name]} | held
    figures = getattr(record, "measured", ())
    if figures:
        null = {"type": "null"}
        schema["if"] = {"properties": {"skipped": null}}
        schema["then"] = {"properties": {name: {"not": null} for name in figures}}
        schema["else"] = {"properties": dict.fromkeys(figures, null)}


if __name__ == "__main__":
    write_atomic(FILE, schema_text().encode())
