"""How the documentation is built: `sphinx-build -W docs build/docs`.

Two pages are written from the code while it is built: the command line, from the parsers' own help,
and the fields of ``report.json``, from its schema.
"""

from __future__ import annotations

import io
import json
import os
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segdeploy
from segdeploy.cli.main import main
from segdeploy.cli.parser import VERBS

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
GENERATED = HERE / "generated"

BELOW = {"data": ("prepare",), "align": ("layers", "dump", "compare", "curves")}
"""Verbs of verbs."""

project = "segdeploy"
author = "the segdeploy authors"
project_copyright = "the segdeploy authors, MIT"
release = version = segdeploy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
html_theme = "furo"
html_title = "segdeploy"
html_show_sphinx = False
exclude_patterns: list[str] = []

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Source", "notes_style")]


def command_line() -> str:
    """A section for each verb: what it prints for ``-h``."""
    parts = ["# Command line", "", "`segdeploy help VERB` prints these.", ""]
    for verb in VERBS:
        for words in (verb, *(f"{verb} {below}" for below in BELOW.get(verb, ()))):
            parts += [f"## segdeploy {words}", "", "```text", _help(words).rstrip(), "```", ""]
    return "\n".join(parts)


def _help(words: str) -> str:
    """What a verb prints for ``-h``."""
    os.environ["COLUMNS"] = "96"
    with redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
        main([*words.split(), "-h"])
    return said.getvalue()


def report_fields() -> str:
    """A table for each record of ``report.json``."""
    schema = json.loads((HERE.parent / "benchmarks/report/report.schema.json").read_text("utf-8"))
    parts = [
        "# Fields of report.json",
        "",
        "Written from `benchmarks/report/report.schema.json`, which a validator can use as it is.",
        "Units stand in the names; null means not measured.",
        "",
    ]
    for name, record in schema["$defs"].items():
        if "properties" not in record:
            continue
        parts += [f"## {name}", "", *_about(record.get("description", "")), ""]
        parts += ["| field | type | always there |", "| --- | --- | --- |"]
        needed = record.get("required", [])
        for field, about in record["properties"].items():
            there = "yes" if field in needed else "newer files"
            parts.append(f"| `{field}` | {_type(about, schema['$defs'])} | {there} |")
        parts.append("")
    return "\n".join(parts)


def _about(description: str) -> list[str]:
    """A docstring as text that means itself."""
    return ["```text", description.strip(), "```"] if description.strip() else []


def _type(about: dict[str, Any], records: dict[str, Any]) -> str:
    """A type of the schema in words; a record as a link to its table."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        whole = "properties" in records[name]
        return f"[{name}](#{name.lower()})" if whole else _type(records[name], records)
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(_type(each, records) for each in about[several])
    if "enum" in about:
        return ", ".join(f"`{value}`" for value in about["enum"])
    kind = about.get("type", "any")
    if kind == "array":
        return f"list of {_type(about.get('items') or {}, records)}"
    return str(kind)


def _write(_: Sphinx) -> None:
    GENERATED.mkdir(exist_ok=True)
    for name, text in (("command_line", command_line()), ("report_fields", report_fields())):
        path = GENERATED / f"{name}.md"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
