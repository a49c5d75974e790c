"""What does not fit ``report.schema.json``: the first fault of a report, in words.

The keywords of JSON Schema that the file uses, and no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("report.schema.json")

_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}

Schema = dict[str, Any]


def first_fault(report: object) -> str | None:
    """The first place where a report is not as the schema says; ``None`` where it is.

    Example:
        >>> first_fault([])
        'the report is []; expected object'
    """
    return next(_faults(report, _schema(), "the report"), None)


@cache
def _schema() -> Schema:
    found: Schema = json.loads(SCHEMA.read_text("utf-8"))
    return found


def _faults(value: Any, schema: Schema, where: str) -> Iterator[str]:
    """Faults of one value, what holds it first."""
    if "$ref" in schema:
        yield from _faults(value, _schema()["$defs"][schema["$ref"].rpartition("/")[2]], where)
    if "anyOf" in schema:
        yield from _of_any(value, schema["anyOf"], where)
    if "if" in schema:
        applies = next(_faults(value, schema["if"], where), None) is None
        yield from _faults(value, schema.get("then" if applies else "else", {}), where)
    expected = schema.get("type", [])
    kinds = [expected] if isinstance(expected, str) else expected
    if kinds and not any(_is(value, kind) for kind in kinds):
        yield f"{where} is {value!r:.60}; expected {' or '.join(kinds)}"
        return
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{where} is {value!r:.60}; expected {schema['const']!r}"
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        yield f"{where} is {value!r:.60}; expected one of {schema['enum']}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, where)
    elif isinstance(value, list):
        yield from _of_array(value, schema, where)
    else:
        yield from _of_scalar(value, schema, where)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _same(value: Any, expected: Any) -> bool:
    """Equal, and true is not 1."""
    return bool(value == expected) and isinstance(value, bool) == isinstance(expected, bool)


def _of_any(value: Any, choices: list[Schema], where: str) -> Iterator[str]:
    """Of choices that all fail, the fault of one that fails inside the value, else of the first."""
    found = [next(_faults(value, choice, where), "") for choice in choices]
    if all(found):
        yield max(found, key=lambda fault: not fault.startswith(f"{where} is "))


def _of_object(value: dict[str, Any], schema: Schema, where: str) -> Iterator[str]:
    known = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{where} lacks {key!r}"
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        inside = key if where == "the report" else f"{where}.{key}"
        if key in known:
            yield from _faults(item, known[key], inside)
        elif others is False:
            yield f"{where} has the unknown key {key!r:.60}"
        elif others is not True:
            yield from _faults(item, others, inside)


def _of_array(value: list[Any], schema: Schema, where: str) -> Iterator[str]:
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(value))
    if not low <= len(value) <= high:
        yield f"{where} holds {len(value)} values; expected {low} to {high}"
    if schema.get("uniqueItems") and any(item in value[:i] for i, item in enumerate(value)):
        yield f"{where} holds a value twice"
    if "items" in schema:
        for index, item in enumerate(value):
            yield from _faults(item, schema["items"], f"{where}[{index}]")


def _of_scalar(value: Any, schema: Schema, where: str) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield f"{where} is empty"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{where} is {value!r:.60}; expected {schema['pattern']}"
    elif isinstance(value, int | float):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            yield f"{where} is {value!r}; expected {low} to {high}"
