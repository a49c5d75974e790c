"""Paths as files and reports show them: without the folders of the machine they came from.

A report is passed on; the folders above the working folder, with the user's name among them, are
nobody's business. A path below the working folder is shown relative to it, any other as its last
name.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

_WORD = re.compile(r"(?P<flag>--?[\w-]+=|-[A-Za-z](?=[/.~])|[^/=]*=|@)?(?P<path>.*)", re.DOTALL)
"""What may stand before a path in one word of a command line, and the path."""

_ABSOLUTE = re.compile(r"(?<![\w.~:/\\-])/(?:[^\s/'\"<>|:;,()\[\]{}]+/)*[^\s/'\"<>|:;,()\[\]{}]+")
"""A path from the root in running text; it ends at a space."""


def shown_path(path: str | Path) -> str:
    """A path without the folders above the working folder.

    A relative path that stays below the working folder is shown as it is.

    Example:
        >>> shown_path("set/a.png"), shown_path("/home/ann/set/a.png"), shown_path("../set")
        ('set/a.png', 'a.png', 'set')
    """
    given = os.fspath(path)
    if not Path(given).is_absolute() and os.pardir not in Path(os.path.normpath(given)).parts:
        return given
    here = Path.cwd()
    folder, name = os.path.split(os.path.normpath(here / given))
    if here == Path(folder, name):
        return os.curdir
    inner = _below(here, folder)
    return (name or os.sep) if inner is None else str(inner / name)


@lru_cache(maxsize=1024)
def _below(here: Path, folder: str) -> Path | None:
    """A folder relative to the working folder, ``None`` where it lies elsewhere.

    Looked up once: many images lie in few folders.
    """
    for there in (Path(folder), Path(folder).resolve()):
        if there.is_relative_to(here):
            return there.relative_to(here)
    return None


def shown_command(program: Sequence[str], arguments: Sequence[str]) -> str:
    """A command line with the paths in it shown without their folders.

    Typed again in the same working folder, with the files that lay elsewhere put into it, it does
    the same.

    Example:
        >>> shown_command(["segdeploy"], ["run", "-c", "/home/ann/a b.pth", "--data=/home/ann/set"])
        "segdeploy run -c 'a b.pth' --data=set"

    Args:
        program: its words.
        arguments: the words after it.
    """
    return shlex.join([*program, *map(_shown_word, arguments)])


def shown_text(text: str, *paths: str | Path) -> str:
    """A message with the paths in it shown without their folders.

    Example:
        >>> shown_text("cannot load /home/ann/a.onnx: no space", "/home/ann/a.onnx")
        'cannot load a.onnx: no space'

    Args:
        text: the message.
        paths: that it may hold, for those with spaces in them; others are found by their form.
    """
    for path in sorted(map(str, paths), key=len, reverse=True):
        text = text.replace(path, shown_path(path))
    text = text.replace(f"{Path.cwd()}{os.sep}", "")
    return _ABSOLUTE.sub(lambda found: shown_path(found[0]), text)


def _shown_word(word: str) -> str:
    found = _WORD.fullmatch(word)
    if found is None or (word.startswith("-") and not found["flag"]):
        return word
    return (found["flag"] or "") + shown_path(found["path"])
