"""Columns of the tables on every page: what they are called, where a row holds it, how it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

ABSENT = "\N{EN DASH}"
"""Shown for ``None``: not measured, or not applicable."""

FIGURES: dict[str, tuple[float, str]] = {
    "percent": (1, ".2f"),
    "share": (1, ".3f"),
    "points": (1, "+.3f"),
    "small": (1, ".4f"),
    "fixed": (1, ".2f"),
    "rate": (1, ",.1f"),
    "tiny": (1, ".1e"),
    "count": (1, ",.0f"),
    "of_all": (100, ".2f"),
    "milli": (1e3, ",.1f"),
    "mega": (1e-6, ",.2f"),
    "memory": (1e-6, ",.0f"),
    "giga": (1e-9, ",.3f"),
    "gibi": (2.0**-30, ".1f"),
}
"""How a figure is shown: factor, then format. The one place that decides on digits."""


def figure(value: float | None, kind: str) -> str:
    """One figure as every page shows it; a zero carries no minus.

    Example:
        >>> figure(9163428, "mega"), figure(-0.0004, "points"), figure(-0.02, "points")
        ('9.16', '+0.000', '-0.020')

    Args:
        value: in the unit that its name states; ``None`` was not measured.
        kind: a key of ``FIGURES``.
    """
    if value is None:
        return ABSENT
    factor, pattern = FIGURES[kind]
    text = format(value * factor, pattern)
    is_zero = float(text.replace(",", "")) == 0
    return text.replace("-", "+" if "+" in pattern else "", 1) if is_zero else text


def interval(ends: tuple[float, float] | None) -> str:
    """Both ends of an interval in percentage points.

    Example:
        >>> interval((-0.085, 0.022))
        '-0.085 to +0.022'
    """
    return ABSENT if ends is None else " to ".join(figure(end, "points") for end in ends)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A GitHub table; every column but the first is aligned to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [" | ".join(cells) for cells in (head, rule, *body)]
    return "\n".join(f"| {line} |" for line in lines)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Example:
        >>> speed = Column("p50 ms", "row.p50_ms", "fixed")
        >>> speed.name
        'p50_ms'

    Attributes:
        heading: above it.
        path: attributes or keys from the row to the value, with dots between; ``None`` on the way
            is ``None`` at the end.
        kind: a key of ``FIGURES``; ``None`` for text.
    """

    heading: str
    path: str
    kind: str | None = None

    @property
    def name(self) -> str:
        """Of the value."""
        return self.path.rpartition(".")[2]

    @property
    def rule(self) -> str:
        """What stands below the heading in Markdown: figures are aligned to the right."""
        return "---" if self.kind is None else "---:"

    def value(self, row: object) -> Any:
        """What a row holds there."""
        value: Any = row
        for part in self.path.split("."):
            if value is None:
                return None
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        return value.value if isinstance(value, Enum) else value

    def text(self, row: object) -> str:
        """The cell."""
        value = self.value(row)
        if self.kind is not None:
            return figure(value, self.kind)
        return ABSENT if value is None else str(value)


Columns = tuple[Column, ...]
