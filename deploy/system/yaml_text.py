"""YAML files of plain values: text, numbers, true and false, lists, mappings. Nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.json_text import MOST_LEVELS, require_plain
from segdeploy.deploy.system.errors import InputError

LARGEST = 1 << 18
"""Bytes; the files are written by hand."""

_PREFIX = "tag:yaml.org,2002:"
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


def read_yaml(path: Path, *, what: str) -> Any:
    """The value of a file.

    Dates are text. Anchors can be repeated by aliases until a few lines stand for gigabytes, so
    there are none.

    Args:
        path: the file.
        what: what to call it in front of its path, as ``--config``.

    Raises:
        InputError: unreadable, not UTF-8, too large, not YAML, a key given twice, an alias, or a
            value that is not plain.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST} bytes")
        return parse_yaml(content.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read ({error})".strip()) from error


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        CalibrationError: as for ``read_yaml``, with the line where PyYAML tells it.
    """
    try:
        value = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, OverflowError) as error:
        # PyYAML checks no date, number or character code before Python's own functions fail on it.
        raise CalibrationError(" ".join(str(error).split())) from error
    require_plain(value)
    return value


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without dates, binaries, sets, aliases and depth, and with each key once."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML reads it of the class
        first: [(tag, form) for tag, form in resolvers if tag != f"{_PREFIX}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012  # likewise
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(_PREFIX + kind for kind in _KINDS), None)
    }

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            parser: Any = self
            event = parser.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"alias *{event.anchor}; write the value out", event.start_mark
            )
        self._levels += 1
        if self._levels > MOST_LEVELS:
            raise yaml.composer.ComposerError(
                None, None, f"more than {MOST_LEVELS} levels of lists and mappings", None
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self._levels -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep=deep)
        if len(found) != len(node.value):
            times = Counter(str(key.value) for key, _ in node.value)
            twice = ", ".join(sorted(key for key, count in times.items() if count > 1))
            raise yaml.constructor.ConstructorError(
                None, None, f"keys given twice: {twice}", node.start_mark
            )
        return found
