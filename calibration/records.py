"""Plain values, as JSON and YAML give them, into frozen dataclasses; every fault names its place.

The guarded parsers (``json_text``, ``deploy.system.yaml_text``) say what may stand in a text at
all, the annotations of a dataclass what may stand in a record, its ``__post_init__`` what fits
together.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum, EnumMeta
from functools import cache, partial
from itertools import islice, repeat
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from segdeploy.calibration.errors import CalibrationError

T = TypeVar("T")

_STEP = re.compile(r"\.(?P<field>\w+)|\[(?P<item>\d+|\.\.\.)\]")
_FAULT = re.compile(r"(?P<words>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "keys and values",
    list: "a list",
    type(None): "null",
}


def structured(value: Any, kind: type[T], *, complete: bool = True, others: bool = False) -> T:
    """A value of a declared type, from what a guarded parser gave.

    Types are taken strictly: true is no number and text is none either; a whole number may stand
    for a float. ``Annotated`` with ``msgspec.Meta`` bounds a value; the description there, if any,
    is what a message expects.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Timing:
        ...     device: str
        ...     batch: Annotated[int, msgspec.Meta(ge=1)] = 1
        >>> structured({"device": "card", "batch": 8}, Timing)
        Timing(device='card', batch=8)
        >>> structured({"card": [{"device": "card", "batch": 0}]}, dict[str, tuple[Timing, ...]])
        Traceback (most recent call last):
        segdeploy.calibration.errors.CalibrationError: ['card'][0].batch is 0; expected a whole \
number of 1 or more

    Args:
        value: lists, dicts, text, numbers, true, false and null.
        kind: a dataclass, or a list, tuple or dict of some.
        complete: a field with a default must be there as well, as in files that are always written
            whole.
        others: keys that are no fields may stand at the top, and are left out.

    Raises:
        CalibrationError: naming the place, what was found there and what was expected; or that of
            the type itself. Other errors that the type raises pass, but for ``ValueError`` and
            ``TypeError``, whose words it takes.
    """
    if others and isinstance(value, dict):
        known = _hints(kind)
        value = {key: inner for key, inner in value.items() if key in known}
    _require_keys(value, kind, "", complete)
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise CalibrationError(_fault(error, value, kind)) from error
    except UnicodeEncodeError as error:  # of text that is to be one of several words
        raise CalibrationError(f"{error.object!r:.60} is not Unicode text") from error


def require_version(value: Any, version: int) -> None:
    """Refuse an object of another schema before its keys are looked at.

    Raises:
        CalibrationError: naming both versions; or it is no object.
    """
    if not isinstance(value, dict):
        raise CalibrationError(f"it is {value!r:.60}; expected {_KINDS[dict]}")
    found = value.get("schema_version")
    if type(found) is not int or found != version:
        raise CalibrationError(f"schema_version is {found!r:.60}; this release reads {version}")


def _require_keys(value: Any, kind: Any, place: str, complete: bool) -> None:
    """Refuse objects that lack fields or have others, however deep."""
    kind = _plain(kind)
    if is_dataclass(kind) and isinstance(value, dict):
        _require_fields(value, kind, place, complete)
    for where, inner, inner_kind in _inside(value, kind):
        _require_keys(inner, inner_kind, place + where, complete)


def _require_fields(value: dict[Any, Any], kind: Any, place: str, complete: bool) -> None:
    known = {
        field.name: complete or (field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }
    missing = [name for name, required in known.items() if required and name not in value]
    unknown = [key for key in value if key not in known]
    faults = [
        *([f"lacks the {_keys(missing)}"] if missing else ()),
        *([f"has the unknown {_keys(unknown)}"] if unknown else ()),
    ]
    if faults:
        raise CalibrationError(f"{_at(place)} {' and '.join(faults)}; expected {', '.join(known)}")


def _inside(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Place, value and type of what a container holds, where that can be looked into."""
    if is_dataclass(kind):
        if isinstance(value, dict):
            for name, hint in _hints(kind).items():
                if name in value:
                    yield f".{name}", value[name], hint
    elif _form(kind) is dict and isinstance(value, dict):
        for key, inner in value.items():
            yield f"[{key!r:.60}]", inner, get_args(kind)[1]
    elif _form(kind) is list and isinstance(value, list | tuple):
        for index, (inner, inner_kind) in enumerate(zip(value, _items(kind), strict=False)):
            yield f"[{index}]", inner, inner_kind


def _fault(error: msgspec.ValidationError, value: Any, kind: Any) -> str:
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
        kind = _plain(kind)
        if step["field"] is not None:
            name = step["field"]
            place, value, kind = f"{place}.{name}", value[name], _hints(kind)[name]
        elif step["item"] == "...":
            kind = get_args(kind)[1]
            key = next(key for key, inner in value.items() if not _fits(inner, kind))
            place, value = f"{place}[{key!r:.60}]", value[key]
        else:
            index = int(step["item"])
            place, value, kind = (
                f"{place}[{index}]",
                list(value)[index],
                next(islice(_items(kind), index, None)),
            )
    if said:
        return f"{_at(place)}: {said}" if place else said
    if of_key:
        key = next(key for key in value if not isinstance(key, str))
        return f"{_at(place)} has the key {key!r:.60}; expected text"
    return f"{_at(place)} is {value!r:.60}; expected {_expected(kind)}"


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
        return _bounded(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(inner) for inner in get_args(kind))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, EnumMeta):
        members: list[Enum] = list(kind)
        return f"one of {', '.join(str(member.value) for member in members)}"
    if _form(kind) is list and origin is tuple and Ellipsis not in get_args(kind):
        return f"a list of {len(get_args(kind))}"
    return _KINDS[dict if is_dataclass(kind) else _form(kind)]


def _bounded(kind: Any) -> str:
    """A type with a ``Meta``, in words: its description, else the type and its bounds."""
    inner, *notes = get_args(kind)
    meta = next(note for note in notes if isinstance(note, msgspec.Meta))
    if meta.description is not None:
        return meta.description
    words = _expected(inner)
    if meta.ge is None:
        return words
    return (
        f"{words} of {meta.ge:g} or more"
        if meta.le is None
        else f"{words} from {meta.ge:g} to {meta.le:g}"
    )


def _plain(kind: Any) -> Any:
    """The type behind ``Annotated`` and beside ``None``."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = next(inner for inner in get_args(kind) if inner is not type(None))
    return kind


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


_hints: Callable[[Any], dict[str, Any]] = cache(partial(get_type_hints, include_extras=True))
"""Fields to their types; kept, because a journal has a record a line."""


def _keys(keys: Sequence[object]) -> str:
    return f"{'keys' if len(keys) > 1 else 'key'} {', '.join(f'{key!r:.60}' for key in keys)}"


def _at(place: str) -> str:
    return place.removeprefix(".") or "it"
