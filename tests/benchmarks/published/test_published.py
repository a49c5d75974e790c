"""Published figures: every row has its source, a broken file says where, one table shows both."""

from __future__ import annotations

import copy
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from report_builders import full_report

from segdeploy.benchmarks.literature.file import DATA, PUBLISHED, PUBLISHED_NOTE, load_rows
from segdeploy.benchmarks.literature.rows import NETWORKS
from segdeploy.benchmarks.published import __main__ as published
from segdeploy.benchmarks.published.ours import our_rows
from segdeploy.benchmarks.published.page import HEAD, published_page
from segdeploy.benchmarks.report.rows import ABSENT
from segdeploy.deploy.system.errors import InputError

ROW: dict[str, Any] = {
    "name": "made-up",
    "arch": "r2u_net",
    "source": {"title": "A page", "url": "https://example.org/a", "where": "table 1"},
    "dataset": "DSB2018",
    "size": [96, 96],
    "iou": {"fp32": 80.5},
    "speed": [{"device": "card", "batch": 1, "fps": 100.5}],
}


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump(list(rows)), encoding="utf-8")
    return path


def with_value(path: str, value: Any) -> dict[str, Any]:
    """The row with one value at a dotted path replaced, or removed where it is ``None``."""
    row = copy.deepcopy(ROW)
    *outer, last = path.split(".")
    inner: Any = row
    for key in outer:
        inner = inner[int(key) if key.isdigit() else key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return row


def timing(runtime: str, precision: str, batch: int, fps: float, streams: int = 1) -> Any:
    return {
        "name": f"{precision} on {runtime}",
        "runtime": runtime,
        "precision_requested": precision,
        "precision_executed": precision,
        "hint": "throughput" if streams > 1 else "latency",
        "batch": batch,
        "threads": 2,
        "streams": streams,
        "images_per_s": fps,
        "skipped": None,
    }


def compared(runtime: str, precision: str, iou: float) -> Any:
    return {
        "name": f"{precision} on {runtime}",
        "runtime": runtime,
        "precision_requested": precision,
        "scores": {"iou": iou},
        "ci95_percentage_points": None,
        "passed": True,
        "skipped": None,
    }


def small_report() -> dict[str, Any]:
    """What the table reads of a report; every figure is invented."""
    lost = {"runtime": "openvino", "name": "int8 on openvino", "skipped": "not installed"}
    return {
        "schema_version": 1,
        "model": {
            "name": "nuclei|x",
            "arch": "r2u_net",
            "parameters": 39_091_393,
            "preprocess": {"size": [96, 96]},
        },
        "data": {"evaluation": {"root": "fake", "split": "test", "images": 64}},
        "cost": {"macs": 21_443_641_344, "published_gflops_reproduced": 47.7872},
        "environment": {"cpu": "Some CPU"},
        "parity": {
            "reference": "fp32 on pytorch",
            "rows": [
                compared("pytorch", "fp32", 81.0),
                compared("onnxruntime", "fp16", 81.125),
                compared("onnxruntime", "int8", 80.5),
                compared("onnxruntime", "int8", 79.25),
                lost,
            ],
        },
        "benchmark": {
            "rows": [
                timing("pytorch", "fp32", 1, 2.5),
                timing("onnxruntime", "fp16", 1, 3.5),
                timing("onnxruntime", "int8", 1, 9.5),
                timing("onnxruntime", "int8", 8, 11.5, streams=2),
                lost,
            ]
        },
    }


def page_of(*reports: dict[str, Any]) -> str:
    ours = [row for report in reports for row in our_rows(report, source="out/report.json")]
    return published_page(published.beside(load_rows(), ours, command="made up"))


def table_of(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


class TestDataFile:
    def test_every_row_cites_its_own_place(self) -> None:
        places = [row.source for row in load_rows()]
        assert len(set(places)) == len(places), "two rows from one place are one row"
        for source in places:
            # A commit, so that the page still says what was read.
            assert re.search(r"/blob/[0-9a-f]{40}/", source.url), source
            assert source.title
            assert source.where

    def test_the_row_of_the_report_page_is_whole(self) -> None:
        assert set(PUBLISHED) == set(NETWORKS)
        for row in PUBLISHED.values():
            assert None not in (row.iou.fp32, row.iou.fp16, row.iou.int8)
            assert None not in (row.gflops, row.parameters_m)

    def test_the_figures_of_the_source_tables(self) -> None:
        found = {
            arch: (row.iou.fp32, row.iou.fp16, row.iou.int8) for arch, row in PUBLISHED.items()
        }
        assert found == {
            "unet_plus_plus": (84.164, 83.179, 83.052),
            "r2u_net": (77.443, 77.421, 77.417),
        }

    def test_ships_beside_the_module(self) -> None:
        assert Path(inspect.getfile(load_rows)).with_name("published.yaml") == DATA

    @given(iou=st.floats(1, 100), fps=st.floats(0.001, 1e7), batch=st.integers(1, 1024))
    def test_what_stands_in_the_file_is_what_is_read(
        self, tmp_path_factory: pytest.TempPathFactory, iou: float, fps: float, batch: int
    ) -> None:
        speed = [{"device": "card", "batch": batch, "fps": fps}]
        entry = ROW | {"iou": {"int8": iou}, "speed": speed, "parameters_m": 9}
        (row,) = load_rows(written(tmp_path_factory.mktemp("rows"), entry))
        assert (row.iou.int8, row.speed[0].fps, row.speed[0].batch) == (iou, fps, batch)
        assert (row.iou.fp32, row.gflops, row.note, row.parameters_m) == (None, None, None, 9.0)
        assert row.network == "R2U-Net"


BROKEN: dict[str, tuple[str, Any, str]] = {
    "unknown key": ("fsp", 3, r"it has the unknown key 'fsp'; expected name, arch, .*gflops"),
    "unknown precision": ("iou.int4", 80, r"iou has the unknown key 'int4'; expected fp32, fp16"),
    "no source": (
        "source",
        None,
        "it lacks 'source'",
    ),
    "no place": ("source.where", None, "source lacks 'where'"),
    "no address": (
        "source.url",
        "a book",
        r"source\.url is 'a book'; expected an https:",
    ),
    "a share": ("iou.fp32", 0.842, r"iou\.fp32 is 0\.842; expected a number from 1 to 100"),
    "over all": ("iou.fp32", 100.5, r"iou\.fp32 is 100\.5; expected a number from 1 to 100"),
    "not a number": ("gflops", "10,897", "gflops is '10,897'; expected a number"),
    "yes": ("gflops", True, "gflops is True; expected a number"),
    "nan": ("gflops", float("nan"), "gflops is nan; expected a number from"),
    "negative": ("parameters_m", -9.1, "parameters_m is -9.1; expected a number from"),
    "network": ("arch", "unet", "arch is 'unet'; expected one of unet_plus_plus, r2u_net"),
    "size": ("size", [96], r"size is \[96\]; expected \[height, width\]"),
    "dataset": ("dataset", None, "it lacks 'dataset'"),
    "empty text": ("note", " ", "note is ' '; expected text"),
    "iou": ("iou", 84, "iou is 84; expected keys and values"),
    "speed": ("speed", 100, "speed is 100; expected a list"),
    "batch": (
        "speed.0.batch",
        1.5,
        r"speed\[0\]\.batch is 1\.5; expected a whole number of images",
    ),
    "fps": ("speed.0.fps", None, r"speed\[0\] lacks 'fps'"),
    "frames": ("speed.0.fps", "many", r"speed\[0\]\.fps is 'many'; expected images a second"),
    "side": ("size", [96, 0], r"size\[1\] is 0; expected a whole number of 1 or more"),
    "device": ("speed.0.device", None, r"speed\[0\] lacks 'device'"),
}


class TestBrokenFile:
    @pytest.mark.parametrize(("path", "value", "message"), BROKEN.values(), ids=BROKEN)
    def test_names_file_row_and_fault(
        self, tmp_path: Path, path: str, value: Any, message: str
    ) -> None:
        good = ROW | {"name": "good"}
        with pytest.raises(InputError, match=rf"^rows\.yaml, row 2 \(made-up\).*{message}"):
            load_rows(written(tmp_path, good, with_value(path, value)))

    def test_a_row_without_a_figure(self, tmp_path: Path) -> None:
        bare = {key: value for key, value in ROW.items() if key not in ("iou", "speed")}
        with pytest.raises(InputError, match=r"\(made-up\): no figure"):
            load_rows(written(tmp_path, bare))

    def test_two_rows_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="two rows are named 'made-up'"):
            load_rows(written(tmp_path, ROW, copy.deepcopy(ROW)))

    @pytest.mark.parametrize("text", ["", "rows: 3", "[]", "- [unclosed", "- 3", "- arch: r2u_net"])
    def test_no_list_of_rows(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "rows.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"rows\.yaml"):
            load_rows(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no\.yaml cannot be read"):
            load_rows(tmp_path / "no.yaml")


class TestOurs:
    def test_one_row_for_each_runtime_that_measured(self) -> None:
        torch_row, ort_row = our_rows(small_report(), source="out")
        assert (torch_row.runtime, ort_row.runtime) == ("pytorch", "onnxruntime")
        assert torch_row.iou == {"fp32": (81.0,)}
        assert ort_row.iou == {"fp16": (81.125,), "int8": (80.5, 79.25)}
        assert [speed.fps for speed in ort_row.speed] == [3.5, 9.5, 11.5]
        assert (ort_row.size, ort_row.macs) == ((96, 96), 21_443_641_344)

    def test_sections_that_did_not_run_are_absent(self) -> None:
        assert our_rows(small_report() | {"parity": None, "benchmark": None}, source="out") == ()
        (row, _) = our_rows(small_report() | {"cost": None, "benchmark": None}, source="out")
        assert (row.macs, row.gflops_reproduced, row.speed) == (None, None, ())

    @pytest.mark.parametrize("key", ["model", "data", "cost", "environment", "parity", "benchmark"])
    def test_a_report_without_a_section_is_named(self, key: str) -> None:
        report = small_report()
        del report[key]
        with pytest.raises(InputError, match=rf"out lacks what the table needs .*{key}"):
            our_rows(report, source="out")

    def test_another_network(self) -> None:
        report = small_report()
        report["model"]["arch"] = "unet"
        with pytest.raises(InputError, match="out is of network 'unet'; expected unet_plus_plus"):
            our_rows(report, source="out")


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
