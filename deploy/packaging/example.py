"""The example program that packages hold: ``segment.py``, copied as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

EXAMPLE = "segment.py"


def write_example(folder: Path) -> None:
    """Copy the example beside the models.

    Raises:
        OSError: the folder cannot be written.
    """
    text = (files("segdeploy.deploy.packaging") / EXAMPLE).read_text(encoding="utf-8")
    (folder / EXAMPLE).write_text(text, encoding="utf-8")
