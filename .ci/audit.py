"""Look the pins of ``constraints.txt`` up with pip-audit, and say so where that is not possible.

pip-audit itself ends well when a service knows none of the packages; here that is a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SERVICES = ("osv", "pypi")
"""Asked in this order until one answers for every package."""

EXCEPTIONS: dict[str, str] = {}
"""Advisories that do not concern this project: identifier to the reason, one line each."""

FOUND, NOT_RUN = 1, 2


@dataclass(frozen=True, kw_only=True)
class Advisory:
    """One advisory on one pin."""

    package: str
    version: str
    identifiers: tuple[str, ...]
    fixed_in: tuple[str, ...]

    @property
    def line(self) -> str:
        """It in a line."""
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix yet"
        return f"{self.package} {self.version}: {' = '.join(self.identifiers)}, {fix}"


class NotAnsweredError(Exception):
    """A service did not answer, or not for every package."""


def pins(text: str) -> tuple[list[str], list[str]]:
    r"""The pins without markers: of Python 3.11 and, where they differ, of 3.10.

    Example:
        >>> pins('a==1\nb==2; python_version >= "3.11"\nb==1; python_version < "3.11"\n')
        (['a==1', 'b==2'], ['b==1'])
    """
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    older = [line for line in lines if "<" in line.partition(";")[2]]
    newer = [line for line in lines if line not in older]
    return [line.partition(";")[0] for line in newer], [line.partition(";")[0] for line in older]


def looked_up(service: str, lines: list[str]) -> Iterator[Advisory]:
    """Every advisory that a service has on pins.

    Raises:
        NotAnsweredError: it cannot be reached, or knows not all of the packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "-s", service, "-f", "json"]
        command += ["--progress-spinner", "off", "--no-deps", "--disable-pip", "-r", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        raise NotAnsweredError(words[-1]) from error
    unknown = [each["name"] for each in found if "skip_reason" in each]
    if unknown or len(found) != len(lines):
        raise NotAnsweredError(f"nothing known of {len(unknown)} of {len(lines)} packages")
    for each in found:
        for advisory in each["vulns"]:
            yield Advisory(
                package=each["name"],
                version=each["version"],
                identifiers=(advisory["id"], *advisory["aliases"]),
                fixed_in=tuple(advisory["fix_versions"]),
            )


def judged(found: list[Advisory]) -> list[str]:
    """What is wrong: advisories without an exception, and exceptions that nothing needs."""
    known = {name for each in found for name in each.identifiers}
    wrong = [each.line for each in found if not EXCEPTIONS.keys() & set(each.identifiers)]
    return wrong + [f"{name} is excepted and no longer found" for name in EXCEPTIONS.keys() - known]


def main() -> int:
    """Ask the services in turn.

    Returns:
        The exit code.
    """
    newer, older = pins(CONSTRAINTS.read_text(encoding="utf-8"))
    for service in SERVICES:
        try:
            found = [*looked_up(service, newer), *looked_up(service, older)]
        except NotAnsweredError as error:
            print(f"{service}: {error}", file=sys.stderr)
            continue
        wrong = judged(found)
        print("\n".join([*wrong, f"{len(newer) + len(older)} pins looked up with {service}"]))
        return FOUND if wrong else 0
    print("the audit was NOT RUN: no advisory service answered", file=sys.stderr)
    return NOT_RUN


if __name__ == "__main__":
    sys.exit(main())
