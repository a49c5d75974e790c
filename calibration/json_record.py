"""A frozen dataclass from a JSON value and back: unknown, missing and wrong values are refused.

The dataclass is the whole description of the file: its annotations say what each key may hold, and
its ``__post_init__`` what must hold between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from segdeploy.calibration.errors import CalibrationError

Text = Annotated[str, Meta(min_length=1)]
"""A string that says something."""

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
"""In hexadecimal."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Percent = Annotated[float, Meta(ge=0, le=100)]

T = TypeVar("T")

_PLACE = re.compile(r"(?s)(?P<fault>.*) - at `(?P<path>\$[^`]*)`")
_STEP = re.compile(r"\.(?P<name>\w+)|\[(?P<index>\d+)\]|(?P<key>\[\.\.\.\])")
_KINDS = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}


def record_of(value: object, kind: type[T], *, whole: str) -> T:
    """Give a value from JSON the form of a dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Tool:
        ...     name: Text
        ...     version: Text
        >>> record_of({"name": "segdeploy", "version": "1.0"}, Tool, whole="the tool")
        Tool(name='segdeploy', version='1.0')
        >>> record_of({"name": "segdeploy", "version": 1}, Tool, whole="the tool")
        Traceback (most recent call last):
        segdeploy.calibration.errors.CalibrationError: version is 1; expected string

    Args:
        value: what ``parse_json`` gives.
        kind: a dataclass; a key whose field has a default may be absent.
        whole: what to call the value itself in a message.

    Raises:
        CalibrationError: the first fault with its place, what stands there and what was expected.
    """
    try:
        found = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CalibrationError(_fault(str(error), value, kind, whole)) from error
    unknown = next(_unknown(value, found, ""), None)
    if unknown is not None:
        where, key = unknown
        raise CalibrationError(f"{where or whole} has the unknown key {key!r:.60}")
    return found


def json_of(record: object) -> Any:
    """What ``json.dumps`` takes, of a dataclass or of lists and dicts of such.

    Example:
        >>> json_of(({"range": (0.0, 5.5)},))
        [{'range': [0.0, 5.5]}]

    Raises:
        TypeError: a value that JSON does not have.
    """
    return _lists(msgspec.to_builtins(record))


def require_measured(row: Any, figures: Iterable[str]) -> None:
    """Refuse a row that lacks figures without being skipped, or was skipped and has some.

    Args:
        row: with a field ``skipped``, the reason why it was not measured, or ``None``.
        figures: names of fields that are ``None`` exactly where the row was skipped.

    Raises:
        ValueError: naming the field and what was expected of it.
    """
    for name in figures:
        if (getattr(row, name) is None) != (row.skipped is not None):
            raise ValueError(
                f"{name} is {'null in a measured' if row.skipped is None else 'given in a skipped'}"
                f" row; expected {'figures' if row.skipped is None else 'null'}"
            )


def _lists(value: Any) -> Any:
    """The value with lists for tuples, as a reader of the JSON gets it."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _unknown(value: Any, found: object, where: str) -> Iterator[tuple[str, str]]:
    """Keys of the value that the record has no field for, each with its place."""
    if is_dataclass(found):
        known = {each.name for each in fields(found)}
        yield from ((where, key) for key in value if key not in known)
        for name in known & value.keys():
            inside = f"{where}.{name}" if where else name
            yield from _unknown(value[name], getattr(found, name), inside)
    elif isinstance(found, tuple):
        for index, (item, inner) in enumerate(zip(value, found, strict=True)):
            yield from _unknown(item, inner, f"{where}[{index}]")
    elif isinstance(found, dict):
        for key, inner in found.items():
            yield from _unknown(value[key], inner, f"{where}[{key!r:.60}]")


def _fault(message: str, value: Any, kind: Any, whole: str) -> str:
    """The library's message in our words: the place, what stands there, what was expected."""
    placed = _PLACE.fullmatch(message)
    fault, path = (placed["fault"], placed["path"]) if placed else (message, "$")
    where = ""
    for step in _STEP.finditer(path):
        if step["name"]:
            where += f".{step['name']}" if where else step["name"]
            value, kind = value[step["name"]], _field(kind, step["name"])
        elif step["index"]:
            where += f"[{step['index']}]"
            value, kind = value[int(step["index"])], _item(kind, int(step["index"]))
        else:
            key, kind = _misfit(value, kind)
            where, value = f"{where}[{key!r:.60}]", value[key]
    missing = re.fullmatch(r"Object missing required field `(\w+)`", fault)
    if missing:
        return f"{where or whole} lacks {missing[1]!r}"
    if not re.match("Expected |Invalid ", fault):  # of a __post_init__
        return f"{where or whole}: {fault}"
    return f"{where or whole} is {value!r:.60}; expected {_expected(fault, kind)}"


def _expected(fault: str, kind: Any) -> str:
    choices = [choice for option in _options(kind) for choice in _choices(option)]
    if choices:
        return repr(choices[0]) if len(choices) == 1 else f"one of {choices}"
    words = re.sub(r", got .*", "", fault.removeprefix("Expected "), flags=re.DOTALL)
    words = words.replace("`", "").replace(" | ", " or ")
    return re.sub(r"\b(int|float|bool|str)\b(?!')", lambda found: _KINDS[found[0]], words)


def _choices(option: Any) -> tuple[Any, ...]:
    if get_origin(option) is Literal:
        return get_args(option)
    if isinstance(option, type) and issubclass(option, Enum):
        return tuple(member.value for member in option)
    return ()


def _options(kind: Any) -> list[Any]:
    """The types of a union, each without its ``Annotated``."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [option for each in get_args(kind) for option in _options(each)]
    return [kind]


def _field(kind: Any, name: str) -> Any:
    holder = next(each for each in _options(kind) if is_dataclass(each))
    return get_type_hints(holder, include_extras=True)[name]


def _item(kind: Any, index: int) -> Any:
    items = next(get_args(each) for each in _options(kind) if get_origin(each) is tuple)
    return items[0] if items[-1] is Ellipsis else items[index]


def _misfit(value: dict[str, Any], kind: Any) -> tuple[str, Any]:
    """The first key of a mapping whose value does not fit, and the type it should have."""
    inner = next(get_args(each)[1] for each in _options(kind) if get_origin(each) is dict)
    return next(key for key, item in value.items() if not _fits(item, inner)), inner


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
