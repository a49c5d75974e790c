"""Licences of every dependency as a table, and the bill of materials of the core.

    python .ci/third_party.py licences THIRD_PARTY.md     in an environment with every extra
    python .ci/third_party.py sbom FROM.json TO.json      where cyclonedx-bom is installed

``.ci/third-party`` makes the environments and calls both. Both outputs depend on the versions in
``constraints.txt`` alone: no time, no serial number, no path, nothing of the machine.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from requirements import requirements

OURS = "segdeploy"
CORE = "core"
INSTALLERS = ("pip",)

TITLE = """# Third-party packages

What is installed beside this project: name, version, licence as the package itself declares it,
what needs it, home page. Written by `.ci/third-party` from what `constraints.txt` installs on
Python {python}, Linux; another platform may need a few others. None of it is part of this
repository. Builds of torch for CUDA also install NVIDIA's packages, under NVIDIA's own licences;
the CPU build does not.

"""

CLASSIFIED = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF",
}
"""Licence classifiers of packages that state no expression."""

SPELLED = {
    "ISC license": "ISC",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "MIT License": "MIT",
}
"""Free texts that mean one licence."""

IN_A_FILE = {"atheris": "Apache-2.0"}
"""Packages whose metadata names only the file of the licence: what it was read to be."""

WEAK_COPYLEFT = "used unchanged and not shipped here; MPL-2.0 binds changes to its own files only"
NOTES = {
    "docutils": "Public domain, BSD and Python's licence; an Emacs mode beside them, which is not "
    "installed, is GPL. Builds the documentation.",
    "certifi": f"The list of certificates is MPL-2.0: {WEAK_COPYLEFT}.",
    "hypothesis": f"MPL-2.0: {WEAK_COPYLEFT}. Tests only.",
    "pathspec": f"MPL-2.0: {WEAK_COPYLEFT}. Comes with mypy, for development only.",
    "shtab": f"MPL-2.0: {WEAK_COPYLEFT}. Writes the shells' completion scripts.",
    "tqdm": f"Partly MPL-2.0: {WEAK_COPYLEFT}.",
    "matplotlib": "Its own licence, modelled on Python's: permissive.",
    "distlib": "Python's licence: permissive.",
    "typing_extensions": "Python's licence: permissive.",
    "numpy": "Its wheels carry libgfortran, GPL-3.0 with the GCC runtime exception, which frees "
    "programs that use it.",
    "scipy": "Its wheels carry libgfortran, GPL-3.0 with the GCC runtime exception, which frees "
    "programs that use it.",
    "onnxruntime": "Reports use of it to its maker unless told not to: "
    "`deploy/system/no_telemetry.py` tells it.",
    "openvino-telemetry": "Reports use of OpenVINO to its maker; "
    "`deploy/system/no_telemetry.py` keeps it from being loaded.",
}
"""Every package whose licence is no plain permissive one, or that is to be known, in a line."""

PERMISSIVE = re.compile(
    r"(Apache-2\.0|BSD|MIT|ISC|0BSD|Zlib|CC0-1\.0|BSL-1\.0|LLVM-exception)[\w.-]*"
)


def licences(output: Path) -> None:
    """Write the table.

    Raises:
        SystemExit: a package states no licence, or a licence that needs a word has none.
    """
    found = {_key(each.name): each for each in metadata.distributions()}
    needed = dict(_needed())
    unused = found.keys() - needed.keys() - {*INSTALLERS, OURS}
    if unused:
        raise SystemExit(f"the environment holds what nothing needs: {', '.join(sorted(unused))}")
    rows = [_row(found[key], needed[key]) for key in sorted(needed)]
    head = ["| package | version | licence | needed by | home page |", "| --- " * 5 + "|"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    notes = [f"- **{name}**: {note}" for name, note in sorted(NOTES.items(), key=str)]
    text = TITLE.format(python=python) + "\n".join([*head, *rows])
    text += "\n\n## To know\n\n" + "\n".join(notes) + "\n"
    output.write_text(text, encoding="utf-8")


def _needed() -> Iterator[tuple[str, list[str]]]:
    """Each package that is needed, and by what: the core, or extras."""
    users: dict[str, list[str]] = {}
    for extra, lines in requirements().items():
        for key in _closure(lines):
            users.setdefault(key, []).append(extra or CORE)
    for key, names in users.items():
        yield key, [CORE] if CORE in names else sorted(names)


def _closure(lines: list[str]) -> set[str]:
    """Every package that requirements install, here."""
    parse: Any = importlib.import_module("packaging.requirements").Requirement
    seen: set[tuple[str, str]] = set()
    waiting = [(parse(line), "") for line in lines]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            name = _key(requirement.name)
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(parse(line), wanted) for line in metadata.requires(name) or ()]
    return {name for name, _ in seen}


def _row(package: metadata.Distribution, users: list[str]) -> str:
    licence = _licence(package)
    plain = all(map(PERMISSIVE.fullmatch, re.sub(r"[()]|\b(AND|OR|WITH)\b", " ", licence).split()))
    if not plain and package.name not in NOTES and licence != "MIT-CMU":
        raise SystemExit(f"{package.name}: {licence!r} is to be explained in NOTES")
    version = package.version.partition("+")[0]
    cells = (package.name, version, licence, ", ".join(users), _home(package))
    return f"| {' | '.join(cells)} |"


def _licence(package: metadata.Distribution) -> str:
    stated = package.metadata
    if expression := stated.get("License-Expression"):
        return str(expression)
    text = str(stated.get("License") or "").strip()
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in stated.get_all("Classifier") or ()
        if value.startswith("License :: ")
    ]
    if text and len(text) < 40 and "::" not in text and text not in ("BSD", "UNKNOWN"):
        return SPELLED.get(text, text)
    if not classifiers and not text and package.name in IN_A_FILE:
        return IN_A_FILE[package.name]
    if not classifiers and not text:
        raise SystemExit(f"{package.name} {package.version} states no licence; look it up")
    return ", ".join(CLASSIFIED.get(name, name) for name in classifiers) or text


def _home(package: metadata.Distribution) -> str:
    urls = {"home-page": str(package.metadata.get("Home-page") or "")}
    for line in package.metadata.get_all("Project-URL") or ():
        name, _, url = line.partition(",")
        urls.setdefault(name.strip().lower(), url.strip())
    order = ("homepage", "home", "home-page", "source", "source code", "repository", "code")
    for name in (*order, "github", "documentation"):
        if urls.get(name):
            return urls[name]
    raise SystemExit(f"{package.name} names no home page")


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def sbom(source: Path, output: Path) -> None:
    """Reduce a CycloneDX file to what the versions decide, and check it against the schema.

    Raises:
        SystemExit: it does not keep to CycloneDX's schema.
    """
    content = json.loads(source.read_text(encoding="utf-8"))
    setup = requirements()[""]
    kept = [each for each in content["components"] if each["name"] not in INSTALLERS]
    for component in kept:
        component.pop("externalReferences", None)  # links, and where a local wheel lay
        component.pop("properties", None)
        for field in ("version", "bom-ref", "purl"):
            component[field] = re.sub(r"(\+|%2B)[a-z0-9.]+$", "", component[field])
    references = {each["bom-ref"] for each in kept}
    content["components"] = kept
    links = {
        each["ref"].partition("+")[0]: each.get("dependsOn", ()) for each in content["dependencies"]
    }
    content["dependencies"] = [
        {
            "ref": ref,
            "dependsOn": sorted({to.partition("+")[0] for to in links.get(ref, ())} & references),
        }
        for ref in sorted(references)
    ]
    top = {_key(_name(line)) for line in setup}
    direct = sorted(each["bom-ref"] for each in kept if _key(each["name"]) in top)
    content["dependencies"].append({"ref": OURS, "dependsOn": direct})
    content["metadata"] = {
        "component": {
            "type": "library",
            "bom-ref": OURS,
            "name": OURS,
            "licenses": [{"license": {"id": "MIT"}}],
        },
        "properties": content["metadata"]["properties"],
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    _require_valid(text, content["specVersion"])
    output.write_text(text, encoding="utf-8")


def _require_valid(text: str, version: str) -> None:
    validators: Any = importlib.import_module("cyclonedx.validation.json")
    schemas: Any = importlib.import_module("cyclonedx.schema")
    error = validators.JsonStrictValidator(
        schemas.SchemaVersion.from_version(version)
    ).validate_str(text)
    if error is not None:
        raise SystemExit(f"the bill of materials breaks CycloneDX {version}: {error}")


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]


def main() -> None:
    """Do what the command line says."""
    action, *paths = sys.argv[1:]
    {"licences": licences, "sbom": sbom}[action](*map(Path, paths))


if __name__ == "__main__":
    main()
