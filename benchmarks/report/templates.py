"""The templates of the pages: HTML with every value escaped, Markdown where the template says."""

from __future__ import annotations

import re
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segdeploy.benchmarks.report.tables import ABSENT, figure


def render(template: str, **values: Any) -> str:
    """A template beside this module, filled in.

    Args:
        template: its file; in HTML every value is escaped unless it was drawn here, in Markdown
            what passes the filter ``md``.
        values: what it knows, by name.
    """
    return _environment().get_template(template).render(absent=ABSENT, **values)


def escape(text: str) -> str:
    """Text that means itself in Markdown: no markup, no table cell boundary, one line."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", flat)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value.value if isinstance(value, Enum) else value,
    )
    environment.filters |= {"figure": figure, "md": escape}
    return environment
