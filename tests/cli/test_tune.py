"""The flags of a search for where Q and DQ stand."""

from __future__ import annotations

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
