"""Words that stand for the members of an enumeration, as users write them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import Enum
from typing import TypeVar, cast

from segdeploy.deploy.system.errors import UsageError

E = TypeVar("E", bound=Enum)


def choice(kind: type[E], given: E | str, *, what: str) -> E:
    """The member that is meant.

    Example:
        >>> from segdeploy.calibration.estimate import Method
        >>> choice(Method, "mse", what="method").name
        'MSE'

    Args:
        kind: the enumeration, whose values are words.
        given: a member, or its word.
        what: the parameter, for the message.

    Raises:
        UsageError: no such word; the message lists them and the nearest.
    """
    if isinstance(given, kind):
        return given
    words = [str(member.value) for member in kind]
    if given not in words:
        near = difflib.get_close_matches(str(given), words, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"{what} is {given!r}; choose from {', '.join(words)}{hint}")
    return kind(given)


def choices(kind: type[E], given: Iterable[E | str] | E | str, *, what: str) -> tuple[E, ...]:
    """The members that are meant, of one or of several.

    Raises:
        UsageError: as ``choice``.
    """
    if isinstance(given, (kind, str)):
        return (choice(kind, given, what=what),)
    return tuple(choice(kind, each, what=what) for each in cast("Iterable[E | str]", given))
