"""Nothing is replaced in silence: every writer refuses what is there, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from segdeploy.cli.main import main
from segdeploy.cli.parser import build_parser, subparsers_of
from segdeploy.pipeline.finished import FinishedRun

FILES = {
    "export": "export -c {root}/net.safetensors -o {out}",
    "adopt": "adopt {run}/unet_plus_plus_l1.sim.onnx --preprocess published -o {out}",
    "simplify": "simplify {run} -o {out}",
    "convert": "convert {run} -o {out}",
    "rewrite": "rewrite {run} --rewrites recurrent-sum -o {out}",
    "calibrate": "calibrate {run} --data {root}/set -o {out}",
    "calibrate --export": "calibrate {run} --data {root}/set --export tensorrt -o {tmp}/net.json",
    "quantize": "quantize {run} -o {out}",
    "quantize --max-drop": "quantize {run} --max-drop 9 --data {root}/set -o {out}",
    "debug": "debug {run} --data {root}/set -o {out}",
    "align curves": "align curves {tmp}/a.csv {tmp}/a.csv --plot {tmp}/out.png",
}
"""Commands that write a file."""

FOLDERS = {
    "data": ("data prepare {raw} -o {out}", "splits.csv"),
    "align dump": ("align dump -c {root}/net.safetensors --data {root}/set -o {out}", "index.json"),
    "report": ("report --compare {run} {run} -o {out}", "compare.html"),
    "benchmark": ("benchmark {run} --end-to-end {root}/set/images -o {out}", "a.png"),
    "package": ("package {run} --target onnx -o {out}", "model.onnx"),
    "predict": ("predict {run} {root}/set/images -o {out}", "cells_00.png"),
    "run": ("run -c {root}/net.safetensors --data {root}/set -o {out}", "notes.txt"),
    "train": ("train --data {root}/set -o {out} --epochs 1", "state.pt"),
}
"""Commands that write a folder, and a file in it that is not theirs."""

WRITTEN = {"align curves": "out.png", "calibrate --export": "net.tensorrt.cache"}


def command(form: str, run: Path, raw: Path, tmp: Path) -> list[str]:
    places = {"root": run.parent, "run": run, "raw": raw, "tmp": tmp, "out": tmp / "out"}
    return form.format(**places).split()


@pytest.mark.parametrize("verb", FILES)
def test_a_file_that_is_there_stays(
    verb: str,
    finished_run: Path,
    raw_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.csv").write_text("epoch,train_loss\n1,1.0\n2,1.0\n")
    there = tmp_path / WRITTEN.get(verb, "out")
    there.write_bytes(b"mine")
    words = command(FILES[verb], finished_run, raw_set, tmp_path)
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"-o {there} exists; choose another, or --overwrite" in line
    assert there.read_bytes() == b"mine"
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("verb", FOLDERS)
def test_what_a_folder_holds_stays(
    verb: str,
    finished_run: Path,
    raw_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    form, file = FOLDERS[verb]
    there = tmp_path / "out" / file
    there.parent.mkdir()
    there.write_bytes(b"mine")
    capsys.readouterr()
    code = main(command(form, finished_run, raw_set, tmp_path))
    said = capsys.readouterr().err
    assert code in (2, 3), said  # 3: a file of its own kind, which it cannot read
    assert str(there.parent) in said
    assert "--overwrite" in said
    assert there.read_bytes() == b"mine"
    assert [path.name for path in there.parent.iterdir()] == [file]


def test_every_writer_is_tried() -> None:
    parsers = subparsers_of(build_parser())
    tried = {name.partition(" --")[0] for name in (*FILES, *FOLDERS)}
    for verb, parser in parsers.items():
        for name, leaf in (subparsers_of(parser) or {"": parser}).items():
            if "--overwrite" in leaf._option_string_actions:
                assert f"{verb} {name}".strip() in tried


def test_with_the_flag_it_is_replaced(finished_run: Path, tmp_path: Path) -> None:
    there = tmp_path / "out.onnx"
    there.write_bytes(b"mine")
    assert main(["convert", str(finished_run), "-o", str(there), "--overwrite"]) == 0
    assert there.read_bytes() == FinishedRun.open(finished_run).model("fp16").read_bytes()


def test_a_calibration_that_was_interrupted_goes_on_without_the_flag(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is there, the cache beside it is not."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    words = command(FILES["calibrate --export"], finished_run, tmp_path, tmp_path)
    words += ["--num-samples", "1", "--threads", "1"]
    with monkeypatch.context() as broken:
        broken.setattr("segdeploy.deploy.quantize.calibrate.SAVE_EVERY_S", 0.0)
        broken.setattr("segdeploy.api.calibrate.export_table", interrupted)
        assert main(words) == 130
    assert (tmp_path / "net.json.partial.npz").exists()
    table = (tmp_path / "net.json").read_bytes()
    assert main(words) == 0
    assert (tmp_path / "net.json").read_bytes() == table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.tensorrt.cache"]
    assert main(words) == 2
