"""What explains a package: README and manifest, from the same facts, and an example program."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from segdeploy.deploy import __version__
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.packaging.base import (
    MANIFEST,
    Contents,
    PackagedModel,
    PackageFile,
    PackageTarget,
    Request,
)
from segdeploy.deploy.packaging.classes import section, stated_output
from segdeploy.deploy.targets.profiles import made_for

SCHEMA_VERSION = 1

EXAMPLE = "segment.py"
"""The example program, copied as it is."""

GEOMETRY_FILES = ("resizing.py", "placement.py")
"""What the example imports where the contract does more than stretch 8-bit images bilinearly."""


def manifest(
    request: Request, target: PackageTarget, contents: Contents, files: tuple[PackageFile, ...]
) -> dict[str, Any]:
    """What ``package.json`` holds: no path of this machine and no time, so it is reproducible."""
    first = request.sources[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": f"segdeploy {__version__}",
        "target": target.name,
        "document": target.document,
        "models": [_model(source) for source in request.sources],
        "arch": first.metadata.get("arch"),
        "task": first.metadata.get("task"),
        "classes": first.metadata.get("classes"),
        "preprocess": json.loads(first.preprocess.to_json()),
        **stated_output(first.output),
        "contents": asdict(contents),
        "files": [asdict(file) for file in files],
    }


def readme(content: dict[str, Any], *, title: str) -> str:
    """The README of a package.

    Args:
        content: its manifest.
        title: what the toolchain is called.
    """
    parts = [
        f"# {content['arch'] or content['models'][0]['name'].partition('.')[0]} for {title}\n",
        f"Written by {content['tool']}. `sha256sum -c checksums.sha256` checks every file.\n",
        "## Three commands\n",
        _commands(content["contents"]["steps"]),
        "## The model\n",
        _table(("", ""), _facts(content)),
        *([section(content["output"])] if "output" in content else []),
        "## The files\n",
        _table(("file", "bytes"), _files(content["files"])),
        "## What was checked\n",
        _list("Run where this package was written", content["contents"]["executed"]),
        _list("Not run on hardware", content["contents"]["not_run"]),
        f"Format taken from: {content['document']}.\n",
    ]
    notes = content["contents"]["notes"]
    if notes:
        parts.insert(4, "".join(f"- {note}\n" for note in notes))
    return "\n".join(parts)


def write_example(folder: Path, contract: Preprocess) -> None:
    """Copy the example beside the models, and where images are not just stretched our resizing.

    Raises:
        OSError: the folder cannot be written.
    """
    text = (resources.files("segdeploy.deploy.packaging") / EXAMPLE).read_text(encoding="utf-8")
    (folder / EXAMPLE).write_text(text, encoding="utf-8")
    bilinear = contract.stretches and contract.interpolation == "bilinear"
    if bilinear and contract.source_bits == 8:
        return
    for name in GEOMETRY_FILES:
        text = (resources.files("segdeploy.deploy.data") / name).read_text(encoding="utf-8")
        text = text.replace("from segdeploy.deploy.data.resizing import", "from resizing import")
        (folder / name).write_text(text, encoding="utf-8")


def _model(source: PackagedModel) -> dict[str, Any]:
    artifact = source.artifact
    return {
        "name": source.name,
        "precision": artifact.precision.value,
        "target": artifact.target,
        "sha256": artifact.sha256,
        "calibration_sha256": source.metadata.get("calibration_sha256"),
        "float_layers": list(source.float_layers),
        "inputs": [asdict(spec) for spec in artifact.inputs],
        "outputs": [asdict(spec) for spec in artifact.outputs],
    }


def _precision(model: dict[str, Any]) -> str:
    """Of a model, and of an int8 one the processors that compute it right."""
    processors = made_for(model["target"])
    return f"{model['precision']} for {processors}" if processors else str(model["precision"])


def _facts(content: dict[str, Any]) -> list[tuple[str, object]]:
    contract = content["preprocess"]
    rows: list[tuple[str, object]] = [
        (f"`{model['name']}`", f"{_precision(model)}, sha256 `{model['sha256'][:16]}...`")
        for model in content["models"]
    ]
    ends = content["models"][0]
    whole = Preprocess.from_json(json.dumps(contract), source=MANIFEST)
    words = whole.words if whole.departures else ""
    smoothing = "with" if contract["antialias"] else "without"
    for key in ("inputs", "outputs"):
        for end in ends[key]:
            shape = " x ".join(str(side) for side in end["shape"])
            rows.append((f"{key[:-1]} `{end['name']}`", f"{end['dtype']}, {shape}"))
    size = " x ".join(str(side) for side in contract["size"])
    rows += [
        *((key, content[key]) for key in ("task", "classes") if content[key] is not None),
        ("size, height x width", size),
        ("channel order", contract["channel_order"]),
        ("resize", f"{contract['interpolation']}, {smoothing} antialiasing"),
        *([("in words", words)] if words else []),
        ("(pixel x scale - mean) / std", _numbers(contract)),
        ("everything, for programs", f"`{MANIFEST}`"),
    ]
    return rows


def _files(files: list[dict[str, Any]]) -> list[tuple[str, object]]:
    """One row for each file at the top, and one for each folder."""
    rows: list[tuple[str, object]] = []
    folders: dict[str, list[int]] = {}
    for file in files:
        folder, slash, _ = file["path"].rpartition("/")
        if slash:
            folders.setdefault(folder, []).append(file["bytes"])
        else:
            rows.append((f"`{file['path']}`", file["bytes"]))
    rows += [
        (f"`{folder}/`, {len(sizes)} file{'s' if len(sizes) > 1 else ''}", sum(sizes))
        for folder, sizes in folders.items()
    ]
    return rows


def _numbers(contract: dict[str, Any]) -> str:
    return f"scale {contract['scale']!r}, mean {contract['mean']}, std {contract['std']}"


def _commands(steps: list[dict[str, str]]) -> str:
    lines = [f"# {step['what']}\n{step['command']}" for step in steps]
    return "Inside this folder:\n\n```bash\n" + "\n\n".join(lines) + "\n```\n"


def _table(head: tuple[str, str], rows: list[tuple[str, object]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {key} | {value} |" for key, value in rows)]) + "\n"


def _list(head: str, items: list[str]) -> str:
    return f"{head}:\n\n" + "".join(f"- {item}\n" for item in items)
