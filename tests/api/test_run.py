"""segdeploy.deploy and segdeploy.Run: the whole job, and what is left of it to go on from."""

from __future__ import annotations

import ast
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import segdeploy as sd
from segdeploy.benchmarks.report.verdict import verdict_text, word_of
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.resizing import resize
from segdeploy.deploy.system.checksums import sha256_of

NAME = "unet_plus_plus_l1"


@pytest.fixture(scope="module")
def run(finished_run: Path) -> sd.Run:
    """A run on two targets, by the command; opened."""
    return sd.Run.open(finished_run)


@pytest.fixture(scope="module")
def called(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> sd.Run:
    """The same run, by the function."""
    root = finished_run.parent
    return sd.deploy(
        sd.load(root / "net.safetensors", head=1),
        sd.Data(root / "set", num_samples=3),
        out=tmp_path_factory.mktemp("called") / "out",
        targets=["ort-x86", "tensorrt"],
        runtimes="onnxruntime",
        max_drop=100,
        duration_s=0.02,
        warmup=0,
        batch=1,
        threads=1,
    )


def artefacts(folder: Path) -> dict[str, str]:
    return {
        path.name: sha256_of(path)
        for path in folder.iterdir()
        if path.suffix == ".onnx" or path.name.endswith("calib.json")
    }


class TestDeploy:
    def test_function_and_command_make_the_same_artefacts(
        self, called: sd.Run, finished_run: Path
    ) -> None:
        assert len(artefacts(finished_run)) == 7
        assert artefacts(called.folder) == artefacts(finished_run)

    def test_function_and_command_measure_the_same_accuracy(
        self, called: sd.Run, run: sd.Run
    ) -> None:
        assert called.report.parity == run.report.parity
        assert called.report.calibration is not None
        assert called.passed is run.passed is True

    def test_what_it_wrote_is_a_finished_run(self, called: sd.Run) -> None:
        assert sd.verify(called.folder).changes == ()

    def test_the_report_tells_the_call_that_does_it_again(self, called: sd.Run) -> None:
        command = called.report.command
        tree = ast.parse(command, mode="eval").body
        assert isinstance(tree, ast.Call)
        assert ast.unparse(tree.func) == "segdeploy.deploy"
        stated = {word.arg: ast.literal_eval(word.value) for word in tree.keywords}
        assert stated == {
            "out": "out",
            "targets": ["ort-x86", "tensorrt"],
            "runtimes": "onnxruntime",
            "max_drop": 100,
            "duration_s": 0.02,
            "warmup": 0,
            "batch": 1,
            "threads": 1,
        }
        assert "head=1" in command
        assert "num_samples=3" in command
        assert str(called.folder.parent) not in command

    def test_it_goes_on_in_its_folder_and_not_in_anothers(
        self, called: sd.Run, finished_run: Path, tmp_path: Path
    ) -> None:
        root = finished_run.parent
        with pytest.raises(sd.UsageError, match="holds a run with other inputs"):
            sd.deploy(root / "net.safetensors", root / "set", out=called.folder)
        with pytest.raises(sd.InputError, match="is also evaluation image"):
            sd.deploy(
                root / "net.safetensors", overlapping(root / "set", tmp_path), out=tmp_path / "out"
            )
        assert not (tmp_path / "out").exists()

    def test_a_quantized_file_is_refused(self, run: sd.Run, tmp_path: Path) -> None:
        with pytest.raises(sd.InputError, match="is int8; a run starts from fp32"):
            sd.deploy(run.model("ort-x86"), out=tmp_path / "out")

    def test_what_is_no_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(sd.UsageError, match="a int is no model"):
            sd.deploy(3, out=tmp_path / "out")  # type: ignore[arg-type]  # the mistake


def overlapping(folder: Path, root: Path) -> sd.Data:
    """Images of a set that calibrates on what it judges with."""
    (root / "images").symlink_to(folder / "images")
    (root / "masks").symlink_to(folder / "masks")
    text = (folder / "splits.csv").read_text()
    (root / "splits.csv").write_text(text.replace("test", "train"))
    return sd.Data(folder, calibration=root)


class TestRun:
    def test_it_says_what_the_report_says(self, run: sd.Run, finished_run: Path) -> None:
        assert run.folder == finished_run
        assert run.verdict == verdict_text(run.report)
        assert repr(run) == (
            f"<Run {finished_run}: {word_of(run.report)}, deploy "
            f"{run.recommended.artifact.path.name} with onnxruntime>"
        )

    def test_models_and_table_belong_together(self, run: sd.Run) -> None:
        assert run.calibration == CalibrationTable.read(run.folder / f"{NAME}.calib.json")
        assert run.calibration.model_sha256 == run.model("rewritten").sha256
        assert run.model("ort-x86").target == "ort-x86"
        assert run.model("ort-x86").parent == run.model("rewritten").sha256
        with pytest.raises(sd.InputError, match="has no model 'sharpened'"):
            run.model("sharpened")

    def test_int8_made_again_from_its_parts_is_the_same_file(
        self, run: sd.Run, tmp_path: Path
    ) -> None:
        again = sd.quantize(
            run.model("rewritten"), run.calibration, target="ort-x86", out=tmp_path / "q.onnx"
        )
        assert again.sha256 == run.model("ort-x86").sha256

    def test_the_recommendation_can_be_used_at_once(self, run: sd.Run) -> None:
        found = run.recommended
        assert found.artifact.sha256 == sha256_of(run.folder / found.artifact.path.name)
        image = sd.Data(run.folder.parent / "set").test.samples[0].image()
        with sd.Predictor(found, threads=1) as predictor:
            assert predictor.name == f"{found.artifact.path.name} on {found.runtime.value}"
            assert predictor(image).shape == image.shape[:2]

    def test_nothing_proven_is_nothing_recommended(
        self, run: sd.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in run.folder.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        report = json.loads((tmp_path / "report.json").read_text())
        report["recommendation"] = None
        (tmp_path / "report.json").write_text(json.dumps(report))
        other = sd.Run.open(tmp_path)
        assert repr(other).endswith("nothing to recommend>")
        with pytest.raises(sd.InputError, match="recommends no file"):
            _ = other.recommended

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(sd.InputError, match="holds no finished run"):
            sd.Run.open(tmp_path)


class TestTable:
    def test_rows_are_those_of_parity_and_speed(self, run: sd.Run) -> None:
        rows = run.table()
        parity = run.report.parity
        assert parity is not None
        assert isinstance(rows, list)
        assert [row["name"] for row in rows] == [row.name for row in parity.rows]
        timed = {row.name: row for row in run.report.benchmark.rows}  # type: ignore[union-attr]  # it was
        for row in rows:
            if row["name"] in timed:
                assert row["p50_ms"] == timed[row["name"]].p50_ms
        assert [row["file"] for row in rows if row["recommended"]] == [
            run.recommended.artifact.path.name
        ]
        json.dumps(rows)  # plain values alone

    def test_it_is_a_dataframe_where_pandas_is(
        self, run: sd.Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = run.table()
        pandas = ModuleType("pandas")
        pandas.DataFrame = lambda rows: ("frame", rows)  # type: ignore[attr-defined]  # fake
        pandas.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, "pandas", pandas)
        assert run.table() == ("frame", plain)


class Page(HTMLParser):
    """Tags in balance, and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in ("path", "use", "rect", "circle", "line"):
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells[-1] += data


class TestNotebook:
    def test_it_shows_the_verdict_the_candidates_and_the_chart(self, run: sd.Run) -> None:
        text = run._repr_html_()
        page = Page(text)
        assert page.open == []
        assert text.count("<div") == text.count("</div>") == 1
        assert word_of(run.report) in text
        names = [row["name"] for row in run.table() if not row["skipped"]]
        assert [name for name in names if name not in page.cells] == []
        assert "svg" in page.seen

    def test_it_takes_nothing_from_elsewhere(self, run: sd.Run) -> None:
        text = run._repr_html_()
        assert "script" not in Page(text).seen
        for word in ("http:", "https:", "@import", "url(//"):
            assert word not in text

    def test_its_style_stays_in_its_element(self, run: sd.Run) -> None:
        text = run._repr_html_()
        style = text[text.index("<style>") + 7 : text.index("</style>")]
        selectors = [rule.partition("{")[0] for rule in style.split("}") if rule.strip()]
        for selector in selectors:
            for part in selector.split(","):
                assert part.strip().startswith(".segdeploy-run")


class TestAfterwards:
    def test_parity_of_files_judges_as_the_run_did(self, run: sd.Run) -> None:
        root = run.folder.parent
        found = sd.parity(
            [run.model("ort-x86")],
            reference=sd.load(root / "net.safetensors", head=1),
            data=root / "set",
            max_drop=100,
            runtimes="onnxruntime",
            threads=1,
        )
        assert found.kept
        assert run.report.parity is not None
        of_run = {row.file: row for row in run.report.parity.rows}
        assert found.rows[1].scores == of_run[found.rows[1].file].scores
        assert repr(found).startswith("<Parity kept over 4: ")
        assert found.table()[0]["verdict"] is None

    def test_outputs_of_a_device_are_judged_too(self, run: sd.Run, tmp_path: Path) -> None:
        data = sd.Data(run.folder.parent / "set")
        with sd.Predictor(run.model("exported"), threads=1) as device:
            for sample in data.test:
                small = resize(sample.image(), (32, 32))  # of the network's size, as a device takes
                np.save(tmp_path / f"{sample.name}.npy", device.probability(small))
        found = sd.parity(
            reference=run.model("exported"),
            data=data,
            outputs=[sd.DeviceOutputs(folder=tmp_path, name="card")],
            max_drop=100,
            threads=1,
        )
        assert [row.name for row in found.rows[1:]] == ["card"]
        assert found.kept
        assert found.rows[1].disagreement_percent == 0

    def test_two_outputs_of_one_name_are_refused(self, run: sd.Run, tmp_path: Path) -> None:
        with pytest.raises(sd.UsageError, match="tell them apart"):
            sd.parity(reference=run.model("exported"), outputs=[tmp_path, tmp_path])
        with pytest.raises(sd.UsageError, match="nothing to compare"):
            sd.parity(reference=run.model("exported"))

    def test_layers_of_both_forms_are_ranked_the_same(self, run: sd.Run, tmp_path: Path) -> None:
        data = sd.Data(run.folder.parent / "set", num_samples=2)
        made = sd.debug(
            run.model("ort-x86"), reference=run.model("rewritten"), data=data, threads=1
        )
        asked = sd.debug(
            run.model("rewritten"),
            table=run.calibration,
            data=data,
            threads=1,
            out=tmp_path / "debug.json",
        )
        assert [layer.name for layer in made.layers] == [layer.name for layer in asked.layers]
        assert made.exclude == asked.exclude
        assert [row["name"] for row in asked.table()] == [layer.name for layer in asked.layers]
        assert len(json.loads((tmp_path / "debug.json").read_text())["layers"]) == len(asked.layers)
        with pytest.raises(sd.UsageError, match="exists"):
            sd.debug(
                run.model("rewritten"),
                table=run.calibration,
                data=data,
                out=tmp_path / "debug.json",
            )

    def test_models_are_timed_from_calls_and_from_files(self, run: sd.Run, tmp_path: Path) -> None:
        root = run.folder.parent
        models = [run.model("simplified"), run.model("ort-x86")]
        quick: dict[str, Any] = {
            "runtimes": "onnxruntime",
            "threads": 1,
            "warmup": 1,
            "duration_s": 0.02,
        }
        net = sd.load(root / "net.safetensors", head=1)
        calls = sd.benchmark(models, reference=net, data=root / "set", batches=1, **quick)
        assert calls.rows[0].name == "PyTorch fp32"
        assert len(calls.table()) == 3
        assert calls.failed == ()
        files = sd.end_to_end(models, root / "set" / "images", tmp_path / "masks", **quick)
        assert [folder.parent for folder in files.masks] == [tmp_path / "masks"] * 2
        assert len(list(files.masks[0].iterdir())) == 12
        assert len(files.table()) == 2

    def test_pages_are_written_again_and_runs_compared(self, run: sd.Run, tmp_path: Path) -> None:
        before = (run.folder / "report.html").read_bytes()
        (run.folder / "report.html").write_bytes(b"scribbled over")
        assert sd.report(run.folder) == run.report
        assert (run.folder / "report.html").read_bytes() == before
        found = sd.compare(run.folder, run.folder, out=tmp_path / "compared")
        assert all(not row.change_percentage_points for row in found.parity)
        assert (tmp_path / "compared" / "compare.html").is_file()
        assert sd.compare(run.folder, run.folder) == found
