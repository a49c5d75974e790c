"""The gate: which checks fail, what a server and a person read of them, and the exit code."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from report_builders import report_of, sample_report

from segdeploy.benchmarks.report.compare import compare_reports
from segdeploy.benchmarks.report.files import write_report
from segdeploy.benchmarks.report.gate import (
    Check,
    accuracy_checks,
    all_passed,
    append_summary,
    speed_checks,
    write_junit,
)
from segdeploy.cli.main import main

ROOT = Path(__file__).parents[3]
INT8 = "int8 ort-x86 on ONNX Runtime"
CHECKS = (
    Check(group="accuracy", name='a <b> & "c" | d', passed=True, why="kept"),
    Check(group="accuracy", name="lost\x00one", passed=False, why="lost 3 points"),
    Check(group="speed", name="int8", passed=None, why="another machine"),
)


def timed(*, factor: float = 1.0) -> dict[str, Any]:
    """A report whose int8 rows took so many times as long, in each of 40 rounds."""
    report = copy.deepcopy(sample_report())
    for row in report["benchmark"]["rows"]:
        if row["latencies_s"]:
            scale = factor if row["name"] == INT8 else 1.0
            row["latencies_s"] = [scale * (0.010 + 0.0001 * (i % 5)) for i in range(40)]
            row["noise_percent"] = 1.0
    return report


def judged(before: dict[str, Any], after: dict[str, Any], limit: float) -> dict[str, Any]:
    found = compare_reports(report_of(before), report_of(after))
    checks = speed_checks(found, max_slowdown_percent=limit)
    return {check.name: check.passed for check in checks if check.passed is not None}


@pytest.mark.parametrize(("factor", "kept"), [(0.5, True), (1.0, True), (1.04, True), (1.2, False)])
def test_what_is_proven_to_be_slower_fails_and_it_alone(factor: float, kept: bool) -> None:
    found = judged(timed(), timed(factor=factor), 5.0)
    assert {passed for name, passed in found.items() if name.startswith(INT8)} == {kept}
    assert {passed for name, passed in found.items() if not name.startswith(INT8)} <= {True}


def test_a_difference_within_the_noise_does_not_fail() -> None:
    later = timed(factor=1.2)
    for row in later["benchmark"]["rows"]:
        row["noise_percent"] = row["noise_percent"] and 30.0
    assert all(judged(timed(), later, 5.0).values())


def test_each_time_of_a_candidate_has_a_name_of_its_own() -> None:
    found = compare_reports(report_of(timed()), report_of(timed()))
    row = found.speed[0]
    settings = [
        replace(row, **{name: value})
        for name, value in (("hint", "throughput"), ("batch", 64), ("threads", 64), ("streams", 64))
    ]
    several = replace(found, speed=(replace(row, hint="latency"), *settings))
    names = {check.name for check in speed_checks(several, max_slowdown_percent=5)}
    assert len(names) == len(several.speed)


def test_times_of_another_machine_or_network_are_not_judged() -> None:
    for section, key, value in (("environment", "cpu", "other"), ("model", "parameters", 7)):
        later = timed(factor=3.0)
        later[section][key] = value
        assert judged(timed(), later, 5.0) == {}


def test_every_candidate_is_a_check_and_the_reference_is_none() -> None:
    section = report_of(sample_report()).parity
    assert section is not None
    checks = accuracy_checks(section)
    assert [check.name for check in checks] == [row.name for row in section.rows[1:]]
    assert [check.passed for check in checks] == [row.passed for row in section.rows[1:]]


@pytest.mark.parametrize(
    ("verdicts", "opens"),
    [([], False), ([None], False), ([True, None], True), ([True, False], False)],
)
def test_a_gate_opens_where_something_was_judged_and_nothing_failed(
    verdicts: list[bool | None], opens: bool
) -> None:
    checks = [Check(group="g", name="n", passed=passed, why="w") for passed in verdicts]
    assert all_passed(checks) is opens


def test_junit_holds_every_check_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "gate.xml"
    write_junit(CHECKS, path, suite="net")
    write_junit(CHECKS, path, suite="net")  # again, as the next build does
    root = ElementTree.parse(path).getroot()
    suites = {suite.attrib["name"]: suite.attrib for suite in root}
    assert suites["net accuracy"]["tests"] == "2"
    assert (suites["net accuracy"]["failures"], suites["net speed"]["skipped"]) == ("1", "1")
    names = [case.attrib["name"] for case in root.iter("testcase")]
    assert names == ['a <b> & "c" | d', "lost\ufffdone", "int8"]
    assert [found.attrib["message"] for found in root.iter("failure")] == ["lost 3 points"]


def test_a_summary_is_added_and_a_table_stays_a_table(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n", "utf-8")
    append_summary(CHECKS, path, title="net", verdict="FAIL")
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "before"
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 2 + len(CHECKS)
    assert all(row.replace(r"\|", "").count("|") == 4 for row in rows)


class TestCommand:
    """``segdeploy report``."""

    def runs(self, tmp_path: Path, *, factor: float, passed: bool = True) -> list[str]:
        for name, report in (("a", timed()), ("b", timed(factor=factor))):
            report["passed"] = passed
            for row in report["parity"]["rows"]:
                row["passed"] = row["passed"] and passed
            write_report(report_of(report), tmp_path / name)
        return [str(tmp_path / "a"), str(tmp_path / "b")]

    def test_one_run(self, tmp_path: Path) -> None:
        files = ["--junit", str(tmp_path / "j.xml"), "--summary", str(tmp_path / "s.md")]
        for passed, code in ((True, 0), (False, 1)):
            run, _ = self.runs(tmp_path, factor=1.0, passed=passed)
            assert main(["report", run, "--gate", *files]) == code
            assert main(["report", run]) == 0
        assert ElementTree.parse(tmp_path / "j.xml").getroot().findall(".//failure")
        assert (tmp_path / "s.md").read_text("utf-8").count("## ") == 2

    @pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1)])
    def test_two_runs(self, tmp_path: Path, factor: float, code: int) -> None:
        runs = self.runs(tmp_path, factor=factor)
        given = ["report", "--compare", *runs, "-o", str(tmp_path / "out")]
        assert main([*given, "--max-slowdown", "5%", "--junit", str(tmp_path / "j.xml")]) == code
        found = ElementTree.parse(tmp_path / "j.xml").getroot().findall(".//failure")
        assert bool(found) is bool(code)

    def test_mistakes_are_refused_in_a_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run, _ = self.runs(tmp_path, factor=1.0)
        (tmp_path / "mine.xml").write_text("<project/>", "utf-8")
        for words, said in (
            ([run, "--junit", "j.xml"], "add --gate or --max-slowdown"),
            ([run, "--max-slowdown", "5"], "goes with --compare"),
            ([run, "--gate", "--junit", str(tmp_path / "mine.xml")], "is no JUnit XML"),
            ([run, "--gate", "--summary", str(tmp_path)], "is a folder"),
        ):
            assert main(["report", *words]) == 2
            assert said in capsys.readouterr().err
        assert (tmp_path / "mine.xml").read_text("utf-8") == "<project/>"


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (1.3, 1)])
def test_the_actions_step_fails_where_a_later_run_is_slower(
    tmp_path: Path, factor: float, code: int
) -> None:
    """The script of ``action.yml``, as its server would run it."""
    for name, report in (("before", timed()), ("segdeploy-out", timed(factor=factor))):
        write_report(report_of(report), tmp_path / name)
    action = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
    script = next(step["run"] for step in action["runs"]["steps"] if step["name"] == "Speed")
    given = {"BASELINE": "before", "MAX_SLOWDOWN": action["inputs"]["max-slowdown"]["default"]}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=os.environ | given | {"GITHUB_STEP_SUMMARY": "summary.md", "PATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("FAIL" in (tmp_path / "summary.md").read_text("utf-8")) is bool(code)
