"""JSON read strictly: what Python's parser lets pass, or dies of, is refused with a reason."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from segdeploy.calibration.errors import CalibrationError

MOST_LEVELS = 50
"""Lists and objects inside each other; no file of ours has more than ten."""

MOST_DIGITS = 19
"""Of a whole number: what int64 holds. A longer one overflows where it becomes a float."""


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Example:
        >>> parse_json('{"min": NaN}')
        Traceback (most recent call last):
        segdeploy.calibration.errors.CalibrationError: NaN among the values; expected finite numbers

    Raises:
        json.JSONDecodeError: not JSON; a ``ValueError``, as the other is.
        CalibrationError: a key given twice, a number that is not finite or not a float's, text
            that is not Unicode, or more than ``MOST_LEVELS`` levels.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError as error:
        raise _too_deep() from error
    require_plain(value)
    return value


def parse_json_of(text: str, *, source: str) -> Any:
    """The value of a JSON text out of a file.

    Raises:
        CalibrationError: naming the source, and of what is no JSON the line; see ``parse_json``.
    """
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise CalibrationError(f"{source}:{error.lineno}: not JSON ({error.msg})") from error
    except CalibrationError as error:
        raise CalibrationError(f"{source}: {error}") from error


def require_plain(value: Any) -> None:
    """Refuse what later code would break on, wherever it stands in lists and dicts.

    Raises:
        CalibrationError: naming the place: too many levels, too long a number, or text with half
            a surrogate pair.
    """
    level: list[tuple[str, Any]] = [("", value)]
    for _ in range(MOST_LEVELS + 1):
        below: list[tuple[str, Any]] = []
        for where, item in level:
            if isinstance(item, dict):
                below += [(where, key) for key in item]
                below += [(_inside(where, key), inner) for key, inner in item.items()]
            elif isinstance(item, list):
                below += [(f"{where}[{index}]", inner) for index, inner in enumerate(item)]
            elif (fault := _fault(item)) is not None:
                raise CalibrationError(f"{where or 'the file'} {fault}")
        if not below:
            return
        level = below
    raise _too_deep()


def _inside(where: str, key: object) -> str:
    return f"{where}[{key!r:.60}]" if where else f"{key!s:.60}"


def _fault(item: object) -> str | None:
    """What is wrong with a single value. A byte that Python escapes in a file's name may stand."""
    if isinstance(item, int) and abs(item) >= 10**MOST_DIGITS:
        return f"has a whole number of more than {MOST_DIGITS} digits"
    if isinstance(item, str) and not item.isascii():
        try:
            item.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return f"has {item!r:.60}, with half a surrogate pair"
    return None


def _too_deep() -> CalibrationError:
    return CalibrationError(f"more than {MOST_LEVELS} levels of lists and objects in each other")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = sorted(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise CalibrationError(f"keys given twice: {', '.join(twice)}")
    return found


def _refuse(constant: str) -> Any:
    raise CalibrationError(f"{constant} among the values; expected finite numbers")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(f"{text:.40}")


def _whole(text: str) -> int:
    """The number; of one too long just that, because Python refuses to convert some."""
    return int(text) if len(text.lstrip("-")) <= MOST_DIGITS else 10**MOST_DIGITS
