"""The tables of all scores on both pages, from a report whose figures are invented."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_builders import bare_report, parity_row, report_of

from segdeploy.benchmarks.report.files import read_report, write_report
from segdeploy.benchmarks.report.schema import report_schema
from segdeploy.benchmarks.report.scores import PER_IMAGE as PER_IMAGE_COLUMNS
from segdeploy.benchmarks.report.scores import POOLED as POOLED_COLUMNS
from segdeploy.benchmarks.report.scores import per_image_rows
from segdeploy.benchmarks.report.tables import ABSENT, figure
from segdeploy.benchmarks.scores.definitions import DEFINITIONS, PER_IMAGE, POOLED
from segdeploy.calibration.json_record import json_of

# jsonschema ships no type stubs.
jsonschema: Any = importlib.import_module("jsonschema")


def image_scores(first: float) -> dict[str, Any]:
    """A score of each image, every mean another figure; one image is without a distance."""
    return {
        name: {"mean": first + n, "left_out": 0, "values": [first + n, first + n]}
        for n, name in enumerate(PER_IMAGE)
    } | {"hausdorff": {"mean": 3.25, "left_out": 1, "values": [3.25, None]}}


def row(name: str, **changes: Any) -> dict[str, Any]:
    judged = {
        "scores": {name: 60.5 + n for n, name in enumerate(POOLED)},
        "image_scores": image_scores(70.125),
    }
    return parity_row(name) | judged | changes


def scored_report(*rows: dict[str, Any], inside: float | None = None) -> dict[str, Any]:
    parity = {
        "reference": "PyTorch fp32",
        "max_drop_percentage_points": 0.1,
        "images": 2,
        "field_of_view_percent": inside,
        "rows": list(rows),
    }
    return bare_report() | {"definitions": dict(DEFINITIONS), "parity": parity}


def older(report: dict[str, Any]) -> dict[str, Any]:
    """The report as versions wrote it that knew no image scores and no field of view."""
    del report["parity"]["field_of_view_percent"]
    for each in report["parity"]["rows"]:
        del each["image_scores"]
    report["definitions"] = dict(POOLED)
    return report


def pages(report: dict[str, Any], folder: Path) -> tuple[str, str]:
    """Both pages, what was written accepted by the schema."""
    write_report(report_of(report), folder)
    jsonschema.validate(json.loads((folder / "report.json").read_text("utf-8")), report_schema())
    return (folder / "report.html").read_text("utf-8"), (folder / "report.md").read_text("utf-8")


@pytest.mark.parametrize("page", [0, 1], ids=["html", "markdown"])
def test_both_pages_show_every_mean_with_its_definition(page: int, tmp_path: Path) -> None:
    found = pages(scored_report(row("PyTorch fp32")), tmp_path)[page]
    shown = [figure(score["mean"], "percent") for score in image_scores(70.125).values()]
    shown += [figure(score, "percent") for score in row("")["scores"].values()]
    missing = [text for text in shown if text not in found]
    assert not missing
    unescaped = found.replace("&#39;", "'")
    assert all(text in unescaped for text in DEFINITIONS.values())


def test_every_score_is_a_column_under_its_own_key() -> None:
    names = [column.name for column in (*POOLED_COLUMNS, *PER_IMAGE_COLUMNS)]
    assert set(DEFINITIONS) <= set(names)
    (found,) = per_image_rows(report_of(scored_report(row("PyTorch fp32"))))
    values = {column.name: column.value(found) for column in PER_IMAGE_COLUMNS}
    assert values.keys() == {"name"} | found.figures.keys()
    assert (values["hausdorff"], values["hausdorff_left_out"]) == (3.25, 1)


def test_what_a_model_has_not_is_shown_as_absent_not_as_zero(tmp_path: Path) -> None:
    masks = row("masks", image_scores=image_scores(70) | {"auc_per_image": None})
    (found,) = per_image_rows(report_of(scored_report(masks)))
    assert found.figures["auc_per_image"] is found.figures["auc_left_out"] is None
    _, text = pages(scored_report(masks), tmp_path)
    cells = next(line for line in text.splitlines() if "3.25" in line).split(" | ")
    assert cells[8:10] == [ABSENT, ABSENT]


@pytest.mark.parametrize("page", [0, 1], ids=["html", "markdown"])
def test_a_field_of_view_is_named_where_there_is_one(page: int, tmp_path: Path) -> None:
    note = "Scored inside the field of view, 68.75 % of all pixels"
    with_field = pages(scored_report(row("a"), inside=68.75), tmp_path / "a")[page]
    without = pages(scored_report(row("a")), tmp_path / "b")[page]
    assert note in with_field
    assert "field of view" not in without


def test_a_report_of_an_older_version_loads_and_shows_what_it_has(tmp_path: Path) -> None:
    report = older(scored_report(row("PyTorch fp32"), row("fp32", scores=None, skipped="gone")))
    html, text = pages(report, tmp_path)
    assert json_of(read_report(tmp_path)) == report
    assert "Hausdorff" not in html
    assert "Hausdorff" not in text
    for page in (html, text):
        assert figure(report["parity"]["rows"][0]["scores"]["dice"], "percent") in page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hausdorff", None),
        ("dice_per_image", {"mean": 101, "left_out": 0, "values": [101]}),
        ("hausdorff", {"mean": -1, "left_out": 0, "values": [1]}),
        ("hausdorff", {"mean": 1, "left_out": 0, "values": []}),
        ("iou", {"mean": 1, "left_out": 0, "values": [1]}),
    ],
)
def test_the_schema_refuses_broken_image_scores(name: str, value: Any) -> None:
    report = scored_report(row("PyTorch fp32"))
    validator = jsonschema.Draft202012Validator(report_schema())
    assert not list(validator.iter_errors(report))
    report["parity"]["rows"][0]["image_scores"][name] = value
    assert list(validator.iter_errors(report))


def test_the_tables_are_well_formed(tmp_path: Path) -> None:
    html, text = pages(scored_report(row("a"), row("b")), tmp_path)
    for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
        head, *lines = table.split("<tr>")[1:]
        width = head.count("<th ")
        assert all(line.count("<td") + line.count("<th") == width for line in lines)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
