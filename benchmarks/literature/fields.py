"""The keys of one entry of a data file: each is asked for by name, and what is left is an error."""

from __future__ import annotations

from typing import Any

from segdeploy.deploy.system.errors import InputError


class Fields:
    """One mapping of the file.

    Example:
        >>> fields = Fields({"batch": 8, "device": "card"}, where="row 1")
        >>> fields.text("device"), fields.number("fps", low=0.001, high=1e7)
        ('card', None)
        >>> fields.require_no_others()
        Traceback (most recent call last):
        segdeploy.deploy.system.errors.InputError: row 1: unknown key 'batch'; expected device, fps
    """

    def __init__(self, content: object, *, where: str) -> None:
        """Take a mapping.

        Args:
            content: as YAML gave it.
            where: file and entry, for messages.

        Raises:
            InputError: it is no mapping.
        """
        if not isinstance(content, dict):
            raise InputError(f"{where}: found {content!r}; expected keys and values")
        self.where = where
        self._left: dict[Any, Any] = dict(content)
        self._asked: list[str] = []

    def any(self, key: str) -> object:
        """Whatever stands there; ``None`` where it is absent."""
        self._asked.append(key)
        return self._left.pop(key, None)

    def optional_text(self, key: str) -> str | None:
        """Text, or ``None`` where it is absent.

        Raises:
            InputError: it is empty or no text.
        """
        value = self.any(key)
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise self.unfit(key, value, "text")
        return value

    def text(self, key: str) -> str:
        """Text.

        Raises:
            InputError: it is absent, empty or no text.
        """
        value = self.optional_text(key)
        if value is None:
            raise InputError(f"{self.where}: {key} is missing; every row needs it")
        return value

    def number(self, key: str, *, low: float, high: float) -> float | None:
        """A figure within bounds, or ``None`` where it is absent.

        Raises:
            InputError: it is no number or out of bounds.
        """
        value = self.any(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.unfit(key, value, "a number")
        if not low <= value <= high:
            raise self.unfit(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def require_no_others(self) -> None:
        """Check that every key was asked for.

        Raises:
            InputError: one was not; the message lists those that can stand here.
        """
        for key in self._left:
            raise InputError(
                f"{self.where}: unknown key {key!r}; expected {', '.join(self._asked)}"
            )

    def unfit(self, key: str, value: object, expected: str) -> InputError:
        """The error that a value does not fit."""
        return InputError(f"{self.where}: {key} is {value!r}; expected {expected}")
