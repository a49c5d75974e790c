"""Published figures: every row has its source, a broken file says where."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.benchmarks.literature.file import DATA, PUBLISHED, load_rows
from segdeploy.benchmarks.literature.rows import NETWORKS
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
