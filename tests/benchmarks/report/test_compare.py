"""Two runs side by side: what is compared, what is refused to be compared, and what changed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from report_builders import bare_report, full_report, report_of, sample_report

from segdeploy.benchmarks.report.compare import Comparison, Difference, compare_reports
from segdeploy.benchmarks.report.compare_page import MACHINES, warnings, write_comparison
from segdeploy.benchmarks.report.files import write_report
from segdeploy.cli.main import main
from segdeploy.deploy.system.checksums import files_of, write_checksums

INT8 = "int8 ort-x86 on ONNX Runtime"


def later_report() -> dict[str, Any]:
    """The same network on the same images: int8 better by 0.5 and 1.5 points, twice as fast."""
    report = copy.deepcopy(sample_report())
    report["parity"]["rows"][3]["iou_per_image_percent"] = [79.5, 82.5]
    report["parity"]["rows"][3]["scores"]["iou"] = 81.0
    for row in report["benchmark"]["rows"]:
        if row["name"] == INT8:
            row["p50_ms"] /= 2
            row["images_per_s"] *= 2
    report["environment"]["versions"]["torch"] = "10.0.0"
    del report["benchmark"]["rows"][1]
    return report


def compared(one: dict[str, Any], other: dict[str, Any]) -> Comparison:
    return compare_reports(report_of(one), report_of(other))


@pytest.mark.parametrize("make", [sample_report, full_report, bare_report])
def test_a_run_beside_itself_changed_nothing(make: Any) -> None:
    found = compared(make(), make())
    assert (found.around, found.only) == ((), ())
    for row in found.parity:
        assert row.change_percentage_points in (0.0, None)
    for row in found.speed:
        assert row.p50_ratio == row.images_per_s_ratio == 1.0


def test_changes_are_b_minus_a_paired_over_the_images() -> None:
    found = compared(sample_report(), later_report())
    row = next(row for row in found.parity if row.name == INT8)
    assert row.change_percentage_points == 1.0
    low, high = row.ci95_percentage_points
    assert low <= 1.0 <= high
    speed = next(row for row in found.speed if row.name == INT8 and row.batch == 1)
    assert (speed.p50_ratio, speed.images_per_s_ratio) == (0.5, 2.0)
    assert found.around == (Difference(what="torch", a="9.9.9", b="10.0.0"),)
    assert [(only.side, only.where) for only in found.only] == [("A", "speed")]


def test_swapping_the_runs_turns_every_change() -> None:
    one = compared(sample_report(), later_report())
    other = compared(later_report(), sample_report())
    changes = [[r.change_percentage_points for r in found.parity] for found in (one, other)]
    assert changes[0] == [None if c is None else -c for c in changes[1]]
    ratios = [[row.p50_ratio for row in found.speed] for found in (one, other)]
    assert ratios[0] == pytest.approx([1 / ratio for ratio in ratios[1]])


def test_other_images_give_no_change_and_say_why(tmp_path: Path) -> None:
    later = later_report()
    later["data"]["evaluation"] |= {"sha256": "9" * 64, "images": 10}
    found = compared(sample_report(), later)
    assert {row.change_percentage_points for row in found.parity} == {None}
    assert {row.ci95_percentage_points for row in found.parity} == {None}
    assert found.parity[0].iou_a_percent == 80.0
    write_comparison(found, tmp_path)
    for name in ("compare.md", "compare.html"):
        assert "The runs scored different images (A: 64" in (tmp_path / name).read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"arch": "r2u_net", "parameters": 5}, "different networks (architecture unet_plus_plus"),
        ({"head": 2}, "different networks (head "),
        ({"checkpoint_sha256": "7" * 64}, "one network with different weights"),
    ],
)
def test_two_models_are_told_before_their_rows_are_paired(
    tmp_path: Path, changes: dict[str, Any], said: str | None
) -> None:
    later = later_report()
    later["model"] |= changes
    found = compared(sample_report(), later)
    if said is None:
        assert found.models_differ is None
        return
    assert said in str(found.models_differ)
    assert warnings(found)[0] == found.models_differ
    write_comparison(found, tmp_path)
    for name in ("compare.md", "compare.html"):
        assert said.split("(")[0] in (tmp_path / name).read_text("utf-8")


def test_other_machines_are_said() -> None:
    later = later_report()
    later["environment"]["cpu"] = "Another CPU"
    assert warnings(compared(sample_report(), later)) == [MACHINES]


def test_both_pages_hold_the_same_figures(tmp_path: Path) -> None:
    write_comparison(compared(sample_report(), later_report()), tmp_path)
    text = (tmp_path / "compare.md").read_text("utf-8")
    page = (tmp_path / "compare.html").read_text("utf-8")
    for shown in (INT8, "81.00", "+1.000", "0.50", "9.9.9", "10.0.0"):
        assert shown in text
        assert shown in page
    assert text.startswith("# sample\\_net: two runs") or text.startswith("# sample_net: two runs")


class TestCommand:
    def test_it_writes_both_pages_and_says_the_changes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_report(report_of(sample_report()), tmp_path / "a")
        write_report(report_of(later_report()), tmp_path / "b")
        before = {path: path.read_bytes() for path in tmp_path.glob("*/*")}
        runs = ["--compare", str(tmp_path / "a"), str(tmp_path / "b")]
        output = tmp_path / "out"
        assert main(["report", *runs, "-o", str(output), "--format", "json"]) == 0
        assert sorted(path.name for path in output.iterdir()) == ["compare.html", "compare.md"]
        assert {path: path.read_bytes() for path in before} == before
        said = capsys.readouterr()
        assert f"{INT8}: IoU +1.000 points" in said.err
        assert f"{INT8}, batch 1: 0.50 times the latency of A" in said.err
        assert json.loads(said.out)["images_differ"] is None

    @pytest.mark.parametrize("inside", [".", "pages", "deep/pages"])
    def test_it_writes_into_no_folder_of_a_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], inside: str
    ) -> None:
        """A page more would be one that its seal does not list."""
        for name in "ab":
            write_report(report_of(sample_report()), tmp_path / name)
        write_checksums(tmp_path / "a", files_of(tmp_path / "a"))
        before = sorted(tmp_path.rglob("*"))
        runs = ["--compare", str(tmp_path / "a"), str(tmp_path / "b")]
        assert main(["report", *runs, "-o", str(tmp_path / "a" / inside)]) == 2
        assert f"lies in {tmp_path / 'a'}, which belongs to a run" in capsys.readouterr().err
        assert main(["report", *runs, "-o", str(tmp_path / "b")]) == 2  # not sealed, a run's still
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ([], 2, "give one run (segdeploy report DIR), or two with --compare A B"),
            (["here", "--compare", "a", "b"], 2, "give one run"),
            (["here", "-o", "there"], 2, "-o goes with --compare"),
            (["--compare", "missing_a", "missing_b"], 3, "missing_a does not exist"),
            (["--compare", "a", "b", "-o", __file__], 2, "is a file; give a folder"),
        ],
    )
    def test_a_mistake_is_said_in_one_line(
        self, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", *words]) == code
        assert message in capsys.readouterr().err
