"""``--config FILE.yaml``: every flag can stand in a file; a flag on the command line wins."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

from segdeploy.cli.parser import subparsers_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.yaml_text import read_yaml


def with_config(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Put the flags of the configuration file in front of the user's, so that the user's win.

    Args:
        arguments: the command line.
        parser: the whole parser; the verb's own flags decide which keys are known.

    Raises:
        InputError: the file cannot be read or is not a mapping.
        UsageError: a key that is no flag of the verb (the nearest is named), or a value of a
            type a flag cannot take.
    """
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--config", type=Path)
    found, _ = finder.parse_known_args(arguments)
    if found.config is None:
        return list(arguments)
    leaf, at = _leaf(parser, arguments)
    if leaf is None:
        return list(arguments)  # the parser itself explains the missing or unknown verb
    flags: list[str] = []
    for key, value in _read(found.config).items():
        words = _as_flags(key, value, leaf, found.config)
        _require_fitting(words, key, leaf, found.config)
        flags += words
    return [*arguments[:at], *flags, *arguments[at:]]


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path, what="--config")
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"--config {path} holds a {type(content).__name__}; expected flag: value")
    flags = {str(key).replace("_", "-") for key in content}
    if len(flags) != len(content):
        raise InputError(f"--config {path} gives a flag twice, with - and with _; keep one")
    return {str(key): value for key, value in content.items()}


def _require_fitting(
    words: Sequence[str], key: str, parser: argparse.ArgumentParser, path: Path
) -> None:
    """Refuse values that the flag will not take, by the file's name and not the flag's alone.

    Raises:
        UsageError: with the flag's own reason.
    """
    if any("\0" in word for word in words):
        raise UsageError(f"{path}: {key!r} holds a NUL character, which no value has")
    alone = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for word in words[:1]:
        alone._add_action(copy(parser._option_string_actions[word.partition("=")[0]]))
    try:
        _, left = alone.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(f"{path}: {key!r}: {error.message}") from error
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{path}: {key!r}: {error}") from error
    if left:
        raise UsageError(f"{path}: {key!r} has the extra value {left[0]!r}")


def _as_flags(key: str, value: object, parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """One entry of the file as command-line words."""
    flag = "--" + key.replace("_", "-")
    actions = parser._option_string_actions  # argparse offers no public way to list its flags
    action = actions.get(flag)
    if action is None or key in ("config", "help"):
        near = difflib.get_close_matches(flag, actions, n=1)
        hint = f"; did you mean {near[0].removeprefix('--')!r}?" if near else ""
        raise UsageError(f"{path}: {key!r} is no flag of {parser.prog}{hint}")
    if isinstance(value, bool):
        negative = "--no-" + key.replace("_", "-")
        if action.nargs != 0:
            raise UsageError(f"{path}: {key!r} is {value}; expected a value, not yes or no")
        return [flag] if value else [negative] if negative in actions else []
    if action.nargs == 0:
        raise UsageError(f"{path}: {key!r} is {value!r}; expected true or false")
    if value is None or isinstance(value, dict):
        raise UsageError(f"{path}: {key!r} is {value!r}; expected a value or a list")
    if isinstance(value, list):
        if action.nargs is None or not value:
            expected = "one value" if action.nargs is None else "one or more values"
            raise UsageError(f"{path}: {key!r} is {value!r}; expected {expected}")
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def _leaf(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.ArgumentParser | None, int]:
    """The parser of the named verb, or of its check, and where its flags begin."""
    at = 0
    while below := subparsers_of(parser):
        at = next((i for i in range(at, len(arguments)) if arguments[i] in below), len(arguments))
        if at == len(arguments):
            return None, at
        parser = below[arguments[at]]
        at += 1
    return parser, at
