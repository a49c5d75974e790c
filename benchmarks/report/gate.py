"""What a gate judged, a check for each candidate: JUnit XML for a server, Markdown for people.

JUnit XML has no standard body; what is written is the part that Jenkins, GitLab and GitHub's
readers share: ``testsuites``, ``testsuite``, ``testcase``, ``failure``, ``skipped``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from segdeploy.benchmarks.parity.records import ParityRow, ParitySection
from segdeploy.benchmarks.report.compare import Comparison, SpeedChange
from segdeploy.benchmarks.report.compare_page import warnings
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.tables import Column, Columns, figure, interval
from segdeploy.benchmarks.report.templates import render
from segdeploy.benchmarks.speed.records import BenchmarkRow
from segdeploy.calibration.files import write_atomic
from segdeploy.deploy.system.errors import UsageError

ACCURACY, SPEED = "accuracy", "speed"

COLUMNS: Columns = (
    Column("Check", "name"),
    Column("Verdict", "word"),
    Column("Why", "why"),
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a gate judged.

    Attributes:
        group: accuracy or speed.
        name: the candidate; of a time with its setting.
        passed: ``None`` where it could not be judged.
        why: in a sentence.
    """

    group: str
    name: str
    passed: bool | None
    why: str

    @property
    def word(self) -> str:
        """The verdict in capitals."""
        return {True: "PASS", False: "FAIL", None: "NOT JUDGED"}[self.passed]


def accuracy_checks(section: ParitySection) -> tuple[Check, ...]:
    """Each candidate of a parity table beside its budget; the reference is none."""
    return tuple(
        Check(group=ACCURACY, name=row.name, passed=row.passed, why=_accuracy(row, section))
        for row in section.rows
        if row.passed is not None or row.skipped is not None
    )


def report_checks(report: Report) -> tuple[Check, ...]:
    """What a run judged: accuracy, and that everything could be timed."""
    timed = report.benchmark.rows if report.benchmark else ()
    failed = (
        Check(group=SPEED, name=_setting(row), passed=False, why=row.skipped)
        for row in timed
        if row.failed and row.skipped
    )
    return (*(accuracy_checks(report.parity) if report.parity else ()), *failed)


def _accuracy(row: ParityRow, section: ParitySection) -> str:
    if row.skipped is not None:
        return row.skipped
    if row.failures:
        return " ".join(row.failures)
    change = figure(row.delta_iou_percentage_points, "points")
    return (
        f"{section.score.shown} changed by {change} points (95 % interval "
        f"{interval(row.ci95_percentage_points)}) on {section.images} images; "
        f"{section.max_drop_percentage_points:g} may be lost"
    )


def speed_checks(found: Comparison, *, max_slowdown_percent: float) -> tuple[Check, ...]:
    """Each candidate and setting that two runs timed, beside the slowdown that is allowed.

    A candidate fails where it is proven to be slower: the whole 95 % interval of its ratio, and
    the noise between repetitions, lie above the limit. Times of different machines, and of
    different networks, are not judged.

    Args:
        found: two runs side by side, the earlier first.
        max_slowdown_percent: how much longer a call may take.
    """
    reasons = " ".join(warnings(found)) if found.other_machine or found.models_differ else ""
    return tuple(_speed(row, max_slowdown_percent, reasons) for row in found.speed)


def _setting(row: BenchmarkRow | SpeedChange) -> str:
    """A candidate with all that tells two of its times apart: servers take equal names for one."""
    how = f"batch {row.batch}, threads {row.threads}, streams {row.streams}"
    return f"{row.name}, {row.hint}, {how}"


def _speed(row: SpeedChange, limit: float, reasons: str) -> Check:
    name = _setting(row)
    ends = row.time_ratio_ci95
    if reasons or ends is None:
        why = reasons or "one of the runs has no two rounds of it"
        return Check(group=SPEED, name=name, passed=None, why=why)
    allowed = max(limit, row.noise_percent or 0.0)
    noise = f", noise {figure(row.noise_percent, 'rate')} %" if row.noise_percent else ""
    return Check(
        group=SPEED,
        name=name,
        passed=ends[0] <= 1 + allowed / 100,
        why=f"a call takes {ends[0]:.3f} to {ends[1]:.3f} times as long as before (95 % "
        f"interval{noise}); {limit:g} % more is allowed",
    )


def write_junit(checks: Sequence[Check], path: Path, *, suite: str) -> None:
    """Write checks as JUnit XML, a test case each; an earlier one is replaced.

    Args:
        checks: in the order of the file.
        path: the file to write.
        suite: what was judged.

    Raises:
        UsageError: the file is there and is no JUnit XML.
        OSError: it cannot be written.
    """
    require_junit(path)
    root = ElementTree.Element("testsuites", name="segdeploy")
    for group in dict.fromkeys(check.group for check in checks):
        held = [check for check in checks if check.group == group]
        element = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{_plain(suite)} {group}",
            tests=str(len(held)),
            failures=str(sum(check.passed is False for check in held)),
            errors="0",
            skipped=str(sum(check.passed is None for check in held)),
        )
        for check in held:
            case = ElementTree.SubElement(
                element, "testcase", classname=f"segdeploy.{group}", name=_plain(check.name)
            )
            if check.passed is None:
                ElementTree.SubElement(case, "skipped", message=_plain(check.why))
            elif not check.passed:
                failed = ElementTree.SubElement(case, "failure", message=_plain(check.why))
                failed.text = _plain(check.why)
            else:
                ElementTree.SubElement(case, "system-out").text = _plain(check.why)
    ElementTree.indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def require_junit(path: Path) -> None:
    """Refuse to replace a file that is something else.

    Raises:
        UsageError: it is there and is no JUnit XML.
    """
    if path.is_dir() or (path.exists() and b"<testsuite" not in path.read_bytes()[:500]):
        raise UsageError(f"--junit {path} is there and is no JUnit XML; give another name")


def append_summary(checks: Sequence[Check], path: Path, *, title: str, verdict: str) -> None:
    """Add the checks to a Markdown file, as a step's summary wants it; nothing in it is lost.

    Args:
        checks: in the order of the table.
        path: the file; made if missing.
        title: a heading: what was judged.
        verdict: in words, above the table.

    Raises:
        OSError: it cannot be written.
    """
    page = render("gate.md.j2", title=title, verdict=verdict, columns=COLUMNS, checks=checks)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def all_passed(checks: Iterable[Check]) -> bool:
    """Whether a gate opens: something was judged, and nothing of it failed."""
    judged = [check.passed for check in checks if check.passed is not None]
    return bool(judged) and all(judged)


def _plain(text: str) -> str:
    """Text without the control characters that XML cannot hold."""
    kept = (
        c if c in "\t\n" or (c >= "\x20" and c not in "\ufffe\uffff") else "\ufffd" for c in text
    )
    return "".join(kept).encode("utf-8", "replace").decode("utf-8")
