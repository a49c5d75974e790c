"""A frozen dataclass from plain values of JSON or YAML, and back: every fault names its place.

The guarded parsers (``json_text``, ``deploy.system.yaml_text``) say what may stand in a text at
all. The dataclass is the whole description of the file: its annotations say what each key may hold,
its ``__post_init__`` what must hold between them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum, EnumMeta
from functools import cache
from itertools import islice, repeat
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

_FAULT = re.compile(r"(?P<words>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<item>\d+|\.\.\.)\]")
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "keys and values",
    list: "a list",
    type(None): "null",
}


def record_of(
    value: object,
    kind: type[T],
    *,
    whole: str = "it",
    complete: bool = False,
    others: bool = False,
) -> T:
    """Give a value from JSON or YAML the form of a dataclass.

    Types are taken strictly: true is no number and text is none either; a whole number may stand
    for a float. A description in ``msgspec.Meta``, if any, is what a message expects.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Tool:
        ...     name: Text
        ...     version: Text
        >>> record_of({"name": "segdeploy", "version": "1.0"}, Tool)
        Tool(name='segdeploy', version='1.0')
        >>> record_of({"tools": [{"name": "a", "version": 1}]}, dict[str, tuple[Tool, ...]])
        Traceback (most recent call last):
        segdeploy.calibration.errors.CalibrationError: ['tools'][0].version is 1; expected text of \
1 or more characters

    Args:
        value: what a guarded parser gives.
        kind: a dataclass, or a list, tuple or dict of some.
        whole: what to call the value itself in a message.
        complete: a field with a default must be there as well, as in files that are always written
            whole.
        others: keys that are no fields may stand at the top, and are left out.

    Raises:
        CalibrationError: the first fault with its place, what stands there and what was expected.
            What ``__post_init__`` raises is taken into it where it is a ``ValueError`` or a
            ``TypeError``, and passes where it is not.
    """
    if others and isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key in _fields(kind)}
    _require_keys(value, kind, "", whole=whole, complete=complete)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise CalibrationError(_fault(error, value, kind, whole)) from error
    except UnicodeEncodeError as error:  # of text that is to be one of several words
        raise CalibrationError(f"{error.object!r:.60} is not Unicode text") from error


def require_version(value: Any, version: int) -> None:
    """Refuse an object of another schema before its keys are looked at.

    Raises:
        CalibrationError: naming both versions; or it is no object.
    """
    if not isinstance(value, dict):
        raise CalibrationError(f"it is {value!r:.60}; expected {_WORDS[dict]}")
    found = value.get("schema_version")
    if type(found) is not int or found != version:
        raise CalibrationError(f"schema_version is {found!r:.60}; this release reads {version}")


def json_of(record: object) -> Any:
    """What ``json.dumps`` takes, of a dataclass or of lists and dicts of such.

    Example:
        >>> json_of(({"range": (0.0, 5.5)},))
        [{'range': [0.0, 5.5]}]

    Raises:
        TypeError: a value that JSON does not have.
    """
    return _lists(msgspec.to_builtins(record, enc_hook=_sequence))


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


def _sequence(value: object) -> list[Any]:
    """Numbers that are held in an array."""
    if not isinstance(value, Sequence):
        raise TypeError(f"JSON has no {type(value).__name__}")
    return list(value)


def _lists(value: Any) -> Any:
    """The value with lists for tuples, as a reader of the JSON gets it."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value


def _require_keys(value: Any, kind: Any, place: str, *, whole: str, complete: bool) -> None:
    """Refuse objects that lack fields or have others, however deep."""
    for option in _options(kind):
        if is_dataclass(option) and isinstance(value, dict):
            fault = _key_fault(value, option, complete=complete)
            if fault is not None:
                raise CalibrationError(f"{_at(place, whole)} {fault}")
        for step, inner, inner_kind in _inside(value, option):
            _require_keys(inner, inner_kind, place + step, whole=whole, complete=complete)


def _key_fault(value: dict[Any, Any], kind: Any, *, complete: bool) -> str | None:
    known = {
        field.name: complete or (field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }
    missing = [name for name, required in known.items() if required and name not in value]
    unknown = [key for key in value if key not in known]
    faults = [
        *([f"lacks {_listed(missing)}"] if missing else ()),
        *([f"has the unknown {_keys(unknown)}; expected {', '.join(known)}"] if unknown else ()),
    ]
    return " and ".join(faults) or None


def _inside(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Place, value and type of what a container holds, where that can be looked into."""
    form = _form(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        for name, inner_kind in _fields(kind).items():
            if name in value:
                yield f".{name}", value[name], inner_kind
    elif form is dict and isinstance(value, dict):
        for key, inner in value.items():
            yield f"[{key!r:.60}]", inner, get_args(kind)[1]
    elif form is list and isinstance(value, list | tuple):
        for index, (inner, inner_kind) in enumerate(zip(value, _items(kind), strict=False)):
            yield f"[{index}]", inner, inner_kind


def _fault(error: msgspec.ValidationError, value: Any, kind: Any, whole: str) -> str:
    """The message of a failed conversion: where, what was found, what was expected.

    msgspec gives the path, where ``[...]`` is some key of a dict.
    """
    text = str(error)
    cause = error.__cause__  # of a ``__post_init__``, in whose words anything may stand
    said = "" if cause is None else str(cause)
    found = _FAULT.fullmatch(text[len(said) :] if said and text.startswith(said) else text)
    path, of_key = (found["path"] or "", bool(found["key"])) if found else ("", False)
    place = ""
    for step in _STEP.finditer(path):
        if step["field"] is not None:
            holder = next(option for option in _options(kind) if is_dataclass(option))
            key, kind = step["field"], _fields(holder)[step["field"]]
            place, value = f"{place}.{key}", value[key]
        elif step["item"] == "...":
            kind = get_args(next(o for o in _options(kind) if _form(o) is dict))[1]
            key = next(key for key, inner in value.items() if not _fits(inner, kind))
            place, value = f"{place}[{key!r:.60}]", value[key]
        else:
            index, holder = int(step["item"]), next(o for o in _options(kind) if _form(o) is list)
            kind = next(islice(_items(holder), index, None))
            place, value = f"{place}[{index}]", list(value)[index]
    if said:
        return f"{_at(place, whole)}: {said}"
    if of_key:
        key = next(key for key in value if not isinstance(key, str))
        return f"{_at(place, whole)} has the key {key!r:.60}; expected text"
    return f"{_at(place, whole)} is {value!r:.60}; expected {_expected(kind)}"


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def _expected(kind: Any) -> str:
    """A type in words."""
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *notes = get_args(kind)
        meta = next(note for note in notes if isinstance(note, Meta))
        return meta.description or f"{_expected(inner)}{_bounds(meta, inner)}"
    if origin in (Union, UnionType):
        return " or ".join(_expected(inner) for inner in get_args(kind))
    if origin is Literal or isinstance(kind, EnumMeta):
        choices = get_args(kind) if origin is Literal else [_value(member) for member in kind]
        words = ", ".join(map(str, choices))
        return f"one of {words}" if len(choices) > 1 else words
    if origin is tuple and Ellipsis not in get_args(kind):
        return f"a list of {len(get_args(kind))}"
    return _WORDS[dict if is_dataclass(kind) else _form(kind)]


def _value(member: Enum) -> Any:
    return member.value


def _bounds(meta: Meta, kind: Any) -> str:
    if meta.pattern is not None:
        return f" matching {meta.pattern}"
    if meta.min_length is not None:
        return f" of {meta.min_length} or more{' characters' if kind is str else ''}"
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge:g} to {meta.le:g}"
    if meta.ge is not None:
        return f" of {meta.ge:g} or more"
    return "" if meta.gt is None else f" above {meta.gt:g}"


def _options(kind: Any) -> list[Any]:
    """The types of a union, each without its ``Annotated``."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _options(get_args(kind)[0])
    if origin in (Union, UnionType):
        return [option for each in get_args(kind) for option in _options(each)]
    return [kind]


def _form(kind: Any) -> Any:
    """``dict`` or ``list`` of what is one or the other, else the type itself."""
    origin = get_origin(kind) or kind
    if origin in (dict, Mapping):
        return dict
    return list if origin in (list, tuple, Sequence) else origin


def _items(kind: Any) -> Iterable[Any]:
    """The type of each item of a list or tuple."""
    inner = get_args(kind)
    return inner if get_origin(kind) is tuple and Ellipsis not in inner else repeat(inner[0])


def _read_fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


_fields: Callable[[Any], dict[str, Any]] = cache(_read_fields)
"""Fields to their types; kept, because a journal has a record a line."""


def _keys(keys: Sequence[object]) -> str:
    return f"{'keys' if len(keys) > 1 else 'key'} {_listed(keys)}"


def _listed(keys: Sequence[object]) -> str:
    return ", ".join(f"{key!r:.60}" for key in keys)


def _at(place: str, whole: str) -> str:
    return place.removeprefix(".") or whole
