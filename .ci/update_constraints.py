"""Resolve every requirement in a fresh environment and write ``constraints.txt``.

Nothing is installed but pip's own answer: which versions it would. Python's own modules suffice.
``.ci/run`` then installs and tests what was written.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from requirements import requirements

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
HEADER = """\
# What was tested together, on Python 3.11. The python_version < "3.11" lines are the newest
# that still support 3.10: resolved, not run. Update: `.ci/update-constraints`, then `.ci/run`.
"""
NEW, OLD = '; python_version >= "3.11"', '; python_version < "3.11"'
HEAVY = re.compile(r"(nvidia|cuda|triton\b)", re.IGNORECASE)
"""Packages of torch's CUDA builds."""

Pins = dict[str, str]


def resolve(python: str, lines: Sequence[str], held: Mapping[str, str]) -> list[dict[str, Any]]:
    """Metadata of what pip would install into a fresh environment.

    Args:
        python: the interpreter to resolve for.
        lines: requirements.
        held: versions that must not move.

    Raises:
        SystemExit: pip finds nothing that goes together.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([python, "-m", "venv", folder / "fresh"], check=True)
        (folder / "held.txt").write_text("".join(f"{k}=={v}\n" for k, v in held.items()))
        (folder / "wanted.txt").write_text("\n".join(lines) + "\n")
        command = [folder / "fresh/bin/python", "-m", "pip", "install", "--quiet", "--dry-run"]
        command += ["--report", folder / "report.json", "-c", folder / "held.txt"]
        done = subprocess.run([*command, "-r", folder / "wanted.txt"], check=False)
        if done.returncode:
            raise SystemExit(f"{python}: pip found nothing that goes together; see above")
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return [each["metadata"] for each in report["install"]]


def pins_of(found: Sequence[Mapping[str, Any]]) -> Pins:
    """Name to version, without the build that a machine happens to have."""
    return {each["name"]: each["version"].partition("+")[0] for each in found}


def without_torch(lines: Sequence[str], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Requirements with torch's own in its place, but for CUDA's packages: light to resolve."""
    torch = next(each for each in found if each["name"] == "torch")
    own = [line for line in torch["requires_dist"] if "extra ==" not in line]
    kept = [line for line in lines if not re.match(r"torch\b", line)]
    return kept + [line for line in own if not HEAVY.search(line)]


def written(new: Pins, old: Pins | None) -> list[str]:
    """The lines of the file: torch first, the others by name; two where Python 3.10 needs its own.

    Example:
        >>> written({"b": "2", "torch": "1"}, {"B": "1", "torch": "1", "c": "3"})
        ['torch==1', 'b==2; python_version >= "3.11"', 'b==1; python_version < "3.11"',
        'c==3; python_version < "3.11"']
    """
    names = {_key(name): name for pins in (old or {}, new) for name in pins}
    newer = {_key(name): version for name, version in new.items()}
    older = newer if old is None else {_key(name): version for name, version in old.items()}
    lines = []
    for key in sorted(names, key=lambda key: (key != "torch", key.replace("-", "_"))):
        here, there = newer.get(key), older.get(key)
        if here == there:
            lines.append(f"{names[key]}=={here}")
            continue
        lines += [f"{names[key]}=={here}{NEW}"] if here else []
        lines += [f"{names[key]}=={there}{OLD}"] if there else []
    return lines


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Do what the command line says.

    Raises:
        SystemExit: nothing goes together, or torch's build would bring CUDA's packages.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch", metavar="VERSION", help="default: the version that is pinned")
    parser.add_argument("--oldest", metavar="PYTHON", help="a Python 3.10, for its own lines")
    parser.add_argument("--cuda", action="store_true", help="go on where torch is a CUDA build")
    parser.add_argument("-o", "--output", type=Path, default=CONSTRAINTS)
    options = parser.parse_args()
    pinned = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    held = {"torch": options.torch or pinned[1]}
    lines = sorted({line for part in requirements().values() for line in part})
    found = resolve(sys.executable, lines, held)
    heavy = sorted(name for name in pins_of(found) if HEAVY.match(name) and name != "tritonclient")
    if heavy and not options.cuda:
        raise SystemExit(
            f"torch {held['torch']} is a CUDA build here ({len(heavy)} packages, {heavy[0]} and so "
            "on); put a CPU build where pip finds it, or add --cuda"
        )
    new = {name: version for name, version in pins_of(found).items() if name not in heavy}
    old = None
    if options.oldest:
        light = without_torch(lines, found)
        old = pins_of(resolve(options.oldest, light, {})) | held
    text = HEADER + "\n".join(written(new, old)) + "\n"
    options.output.write_text(text, encoding="utf-8")
    kept = "" if old else "; without --oldest there are no lines for Python 3.10"
    print(f"{options.output}: {len(new)} packages{kept}. Now run .ci/third-party and .ci/run")


if __name__ == "__main__":
    main()
