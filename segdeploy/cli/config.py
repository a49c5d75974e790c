"""``--config FILE.yaml``: every flag can stand in a file; a flag on the command line wins."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

from segdeploy.cli.flags import class_names
from segdeploy.cli.grammar import Parser, nearest
from segdeploy.cli.parser import subparsers_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.yaml_text import read_yaml


def take_config(arguments: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Make the flags of the configuration file the defaults of the verb, so that a flag wins.

    Args:
        arguments: the command line.
        parser: the whole parser, built anew for this command line. The verb's own flags decide
            which keys are known.

    Raises:
        InputError: the file cannot be read or is not a mapping.
        UsageError: a key that is no flag of the verb (the nearest is named), or a value of a
            type a flag cannot take.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    try:
        found, _ = finder.parse_known_args(arguments)
    except argparse.ArgumentError:
        return  # the parser itself explains what is wrong with the flag
    leaf = _leaf(parser, arguments)
    if found.config is None or leaf is None:
        return
    content = _read(found.config)
    for key, value in content.items():
        words = _as_flags(key, value, leaf, found.config, _hint(content, parser, leaf))
        action = leaf._option_string_actions[words[0].partition("=")[0]] if words else None
        if action is not None:
            taken = _value(words, key, action, found.config)
            leaf.set_defaults(**{action.dest: taken})
            action.required = False


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


def _value(words: Sequence[str], key: str, action: argparse.Action, path: Path) -> Any:
    """What a flag makes of its words; refused by the file's name and not the flag's alone.

    Raises:
        UsageError: with the flag's own reason.
    """
    if any("\0" in word for word in words):
        raise UsageError(f"{path}: {key!r} holds a NUL character, which no value has")
    alone = Parser(add_help=False, exit_on_error=False)
    alone._add_action(copy(action))
    try:
        found, left = argparse.ArgumentParser.parse_known_args(alone, words)
    except argparse.ArgumentError as error:
        raise UsageError(f"{path}: {key!r}: {error.message}") from error
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"{path}: {key!r}: {error}") from error
    if left:
        raise UsageError(f"{path}: {key!r} has the extra value {left[0]!r}")
    return getattr(found, action.dest)


def _hint(
    content: dict[str, Any], parser: argparse.ArgumentParser, leaf: argparse.ArgumentParser
) -> str:
    """Where a training recipe was given to another verb: that it belongs to ``train``."""
    train = subparsers_of(parser)["train"]
    subparsers_of(train)
    flags = {"--" + key.replace("_", "-") for key in content}
    if leaf is train or not flags <= set(train._option_string_actions):
        return ""
    return "; it is a recipe of a training: `segdeploy train --config`"


def _as_flags(
    key: str, value: object, parser: argparse.ArgumentParser, path: Path, belongs: str
) -> list[str]:
    """One entry of the file as command-line words."""
    flag = "--" + key.replace("_", "-")
    actions = parser._option_string_actions  # argparse offers no public way to list its flags
    action = actions.get(flag)
    if action is None or key in ("config", "help"):
        near = nearest(flag, actions)
        hint = belongs or (f"; did you mean {near.removeprefix('--')!r}?" if near else "")
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
    if isinstance(value, list) and action.type is class_names:
        value = ",".join(map(str, value))
    if isinstance(value, list):
        if action.nargs is None or not value:
            expected = "one value" if action.nargs is None else "one or more values"
            raise UsageError(f"{path}: {key!r} is {value!r}; expected {expected}")
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def _leaf(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> argparse.ArgumentParser | None:
    """The parser of the named verb, or of its check; ``None`` where none is named."""
    at = 0
    while below := subparsers_of(parser):
        at = next((i for i in range(at, len(arguments)) if arguments[i] in below), len(arguments))
        if at == len(arguments):
            return None
        parser = below[arguments[at]]
        at += 1
    return parser
