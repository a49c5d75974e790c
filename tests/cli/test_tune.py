"""The flags of a search for where Q and DQ stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segdeploy.cli.main import main

GIVEN = ("quantize", "-m", "net.onnx", "--calibration", "net.json", "-o", "out.onnx")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--device-file", "known.json"), "only a search with --tune takes it"),
        (("--tune", "soon"), "no time above 0"),
        (("--tune", "5m", "--reference", "ref.onnx"), "only a search with --max-drop takes it"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main([*GIVEN, *flags])
    except SystemExit as ended:
        status = int(ended.code or 0)
    assert status == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target", "tensorrt"), "trials|cannot be timed here"),
        (("--device-file", "."), "is a folder"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_the_search_for_layers(
    flags: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.onnx", "net.json", "ref.onnx"):
        Path(name).write_bytes(b"not looked at yet")
    budget = ("--max-drop", "0.1", "--data", ".", "--reference", "ref.onnx")
    assert main([*GIVEN, "--tune", "5m", *budget, *flags]) == 3
    assert re.search(said, capsys.readouterr().err)
