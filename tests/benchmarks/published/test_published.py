"""Published figures and those of finished runs in one table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_builders import (
    compared_row,
    full_report,
    parity_row,
    report_of,
    sample_report,
    scores,
    speed_row,
)

from segdeploy.benchmarks.literature.file import PUBLISHED_NOTE, load_rows
from segdeploy.benchmarks.published import __main__ as published
from segdeploy.benchmarks.published.beside import beside
from segdeploy.benchmarks.published.ours import our_rows
from segdeploy.benchmarks.published.page import HEAD, published_page
from segdeploy.benchmarks.report.records import Report
from segdeploy.benchmarks.report.tables import ABSENT
from segdeploy.deploy.system.errors import InputError


def timing(runtime: str, precision: str, batch: int, fps: float, streams: int = 1) -> Any:
    return speed_row(
        f"{precision} on {runtime}",
        batch,
        1000 * batch / fps,
        runtime=runtime,
        precision_requested=precision,
        precision_executed=precision,
        hint="throughput" if streams > 1 else "latency",
        streams=streams,
        images_per_s=fps,
    )


def compared(runtime: str, precision: str, iou: float) -> Any:
    return compared_row(
        f"{precision} on {runtime}",
        *(0.0, 0.0, 0.0),
        runtime=runtime,
        precision_requested=precision,
        scores=scores(iou),
    )


def small_content() -> dict[str, Any]:
    """A report of one network on two runtimes; every figure is invented."""
    content = sample_report()
    lost = {"runtime": "openvino", "skipped": "not installed", "precision_executed": None}
    content["model"] |= {"name": "nuclei|x", "arch": "r2u_net", "parameters": 39_091_393}
    content["cost"] |= {"macs": 21_443_641_344, "published_gflops_reproduced": 47.7872}
    content["environment"] |= {"cpu": "Some CPU"}
    content["parity"] |= {
        "reference": "fp32 on pytorch",
        "rows": [
            compared("pytorch", "fp32", 81.0),
            compared("onnxruntime", "fp16", 81.125),
            compared("onnxruntime", "int8", 80.5),
            compared("onnxruntime", "int8", 79.25),
            parity_row("int8 on openvino", **lost),
        ],
    }
    content["benchmark"]["rows"] = [
        timing("pytorch", "fp32", 1, 2.5),
        timing("onnxruntime", "fp16", 1, 3.5),
        timing("onnxruntime", "int8", 1, 9.5),
        timing("onnxruntime", "int8", 8, 11.5, streams=2),
        speed_row("int8 on openvino", 1, None, **lost),
    ]
    return content


def small_report(**changes: Any) -> Report:
    return report_of(small_content() | changes)


def page_of(*reports: Report) -> str:
    ours = [row for report in reports for row in our_rows(report, source="out/report.json")]
    return published_page(beside(load_rows(), ours, command="made up"))


def table_of(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


class TestOurs:
    def test_one_row_for_each_runtime_that_measured(self) -> None:
        torch_row, ort_row = our_rows(small_report(), source="out")
        assert (torch_row.runtime, ort_row.runtime) == ("pytorch", "onnxruntime")
        assert torch_row.iou == {"fp32": (81.0,)}
        assert ort_row.iou == {"fp16": (81.125,), "int8": (80.5, 79.25)}
        assert [speed.fps for speed in ort_row.speed] == [3.5, 9.5, 11.5]
        assert (ort_row.size, ort_row.macs) == ((96, 96), 21_443_641_344)

    def test_sections_that_did_not_run_are_absent(self) -> None:
        assert our_rows(small_report(parity=None, benchmark=None), source="out") == ()
        (row, _) = our_rows(small_report(cost=None, benchmark=None), source="out")
        assert (row.macs, row.gflops_reproduced, row.speed) == (None, None, ())

    @pytest.mark.parametrize(
        ("section", "key", "value", "message"),
        [
            ("data", "evaluation", None, "out lacks data.evaluation"),
            ("model", "preprocess", {}, "out lacks what the table needs.* size is None; expected"),
            ("model", "preprocess", {"size": [96.0, 1]}, r"size is \[96.0, 1\]; expected \[height"),
        ],
    )
    def test_a_report_without_what_the_table_needs_is_named(
        self, section: str, key: str, value: Any, message: str
    ) -> None:
        content = small_content()
        content[section][key] = value
        with pytest.raises(InputError, match=message.replace(" size", r".*size")):
            our_rows(report_of(content), source="out")

    def test_another_network(self) -> None:
        content = small_content()
        content["model"]["arch"] = "unet"
        with pytest.raises(InputError, match="out is of network 'unet'; expected unet_plus_plus"):
            our_rows(report_of(content), source="out")


class TestPage:
    def test_a_row_for_each_source_and_runtime_under_its_network(self) -> None:
        head, _, *body = table_of(page_of(small_report()))
        assert head == list(HEAD)
        assert {len(row) for row in body} == {len(HEAD)}
        networks = [row[0].split(",")[0] for row in body]
        assert networks == sorted(networks, reverse=True), "UNet++ first, then R2U-Net"
        assert len(body) == len(load_rows()) + 2
        assert [row[1] for row in body[-2:]] == [
            r"this project, run nuclei\|x on pytorch",
            r"this project, run nuclei\|x on onnxruntime",
        ]

    def test_published_figures_keep_the_digits_of_their_source(self) -> None:
        rows = {row[1]: row for row in table_of(page_of())}
        share = next(row for source, row in rows.items() if "pytorch-nested-unet [^2]" in source)
        assert share[7] == "84.2"
        first = next(row for source, row in rows.items() if source.endswith("[^1]"))
        assert first[3:] == [
            *("9.163", "4.850", "10.897", "10.897", "84.164", "83.179", "83.052"),
            *(ABSENT, ABSENT, ABSENT),
        ]

    def test_ours_beside_them(self) -> None:
        ours = table_of(page_of(small_report()))[-1]
        assert ours[2:] == [
            *("fake test, 64 images, 96x96", "39.091", "21.444", ABSENT, "47.787"),
            *(ABSENT, "81.125", "80.500, 79.250", ABSENT),
            *("9.5 (int8, batch 1); 11.5 (int8, batch 8, 2 streams)", "Some CPU, 2 threads"),
        ]

    def test_each_published_row_has_a_footnote_with_its_address(self) -> None:
        page = page_of(small_report())
        used = re.findall(r"\[\^(\d+)\] \|", page)
        given = re.findall(r"^\[\^(\d+)\]: .*<(https://\S+)>", page, re.MULTILINE)
        assert used == [number for number, _ in given] == [str(n + 1) for n in range(len(used))]
        assert sorted(url for _, url in given) == sorted(row.source.url for row in load_rows())

    def test_says_that_no_difference_is_better_or_worse(self) -> None:
        assert PUBLISHED_NOTE in page_of()
        assert "better or worse" in PUBLISHED_NOTE


class TestCommand:
    def test_alone_it_prints_the_published_side_with_the_reproduction(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert published.main(["--format", "json"]) == 0
        shown = capsys.readouterr()
        assert "# Published figures beside ours" in shown.err
        result = json.loads(shown.out)
        assert result["ours"] == []
        for row in result["published"]:
            if row["gflops"] is None:
                assert row["gflops_reproduced"] is None
            else:
                assert row["gflops_reproduced"] == pytest.approx(row["gflops"], abs=1e-3)

    def test_writes_the_page_it_prints(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report, page = tmp_path / "report.json", tmp_path / "new" / "published.md"
        whole = full_report()
        whole["model"]["arch"] = "r2u_net"
        report.write_text(json.dumps(whole), encoding="utf-8")
        assert published.main([str(report), "-o", str(page)]) == 0
        shown = capsys.readouterr()
        assert shown.out == "", "standard output is for JSON"
        text = page.read_text(encoding="utf-8")
        assert text in shown.err
        assert "python -m segdeploy.benchmarks.published report.json -o published.md" in text

    def test_faults_have_their_exit_code(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert published.main(["-o", str(tmp_path)]) == 2
        assert "is a folder; give a file" in capsys.readouterr().err
        assert published.main([str(tmp_path / "none.json")]) == 3
        assert "does not exist" in capsys.readouterr().err
