"""A run's folder: what is reused, what is refused, and what an interruption leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.pipeline.workspace import MANIFEST, Workspace, key_of

INPUTS = {"checkpoint_sha256": "ab", "head": None, "targets": ["ort-x86"], "method": "entropy"}


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A folder in which the stage ``fp16`` finished."""
    folder = tmp_path / "out"
    folder.mkdir()
    workspace = Workspace.open(folder, INPUTS, overwrite=False)
    workspace.path("net.onnx").write_bytes(b"model")
    workspace.record("fp16", file="net.onnx", key="k1")
    return folder


def reopened(folder: Path) -> Workspace:
    return Workspace.open(folder, INPUTS, overwrite=False)


def test_a_finished_stage_is_reused(used: Path) -> None:
    assert reopened(used).finished("fp16", file="net.onnx", key="k1")


@pytest.mark.parametrize(
    ("stage", "file", "key"),
    [("fp16", "net.onnx", "k2"), ("fp16", "other.onnx", "k1"), ("int8", "net.onnx", "k1")],
)
def test_another_key_file_or_stage_is_not_reused(
    used: Path, stage: str, file: str, key: str
) -> None:
    (used / "other.onnx").write_bytes(b"model")
    assert not reopened(used).finished(stage, file=file, key=key)


def test_changed_or_missing_bytes_are_not_reused(used: Path) -> None:
    (used / "net.onnx").write_bytes(b"modem")
    assert not reopened(used).finished("fp16", file="net.onnx", key="k1")
    (used / "net.onnx").unlink()
    assert not reopened(used).finished("fp16", file="net.onnx", key="k1")


def test_the_manifest_holds_inputs_and_digests_and_no_partial_file_stays(used: Path) -> None:
    assert json.loads((used / MANIFEST).read_text()) == {
        "schema_version": 1,
        "inputs": INPUTS,
        "stages": {
            "fp16": {"file": "net.onnx", "sha256": sha256_of(used / "net.onnx"), "key": "k1"}
        },
    }
    assert sorted(path.name for path in used.iterdir()) == [MANIFEST, "net.onnx"]


def test_a_run_interrupted_before_its_first_stage_ended_goes_on(tmp_path: Path) -> None:
    Workspace.open(tmp_path, INPUTS, overwrite=False)
    (tmp_path / "net.onnx.7.partial").write_bytes(b"half a mod")
    assert reopened(tmp_path).entries == {}


def test_other_inputs_are_refused_and_named(used: Path) -> None:
    other = {**INPUTS, "method": "minmax", "head": 2}
    with pytest.raises(UsageError, match=r"other inputs \(head, method\).*--overwrite"):
        Workspace.open(used, other, overwrite=False)
    with pytest.raises(UsageError, match=r"other inputs \(seed\)"):
        Workspace.open(used, {**INPUTS, "seed": 1}, overwrite=False)
    assert reopened(used).entries, "a refusal must leave the folder as it was"


def test_overwrite_starts_over_at_once(used: Path) -> None:
    other = {**INPUTS, "method": "minmax"}
    assert Workspace.open(used, other, overwrite=True).entries == {}
    assert Workspace.open(used, other, overwrite=False).entries == {}
    with pytest.raises(UsageError, match="other inputs"):
        reopened(used)


def test_a_folder_of_something_else_is_refused_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match=r"is not empty and holds no manifest\.json"):
        reopened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    Workspace.open(tmp_path, INPUTS, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"inputs": {}}',
        '{"schema_version": 99, "inputs": {}, "stages": {}}',
        '{"schema_version": 1, "inputs": {}, "stages": []}',
        '{"schema_version": 1, "inputs": {}, "stages": {"fp16": {"file": "net.onnx"}}}',
        '{"schema_version": 1, "inputs": {}, "stages": {"fp16": ["net.onnx"]}}',
    ],
)
def test_a_damaged_manifest_is_an_input_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"(?i)manifest\.json .*use --overwrite"):
        Workspace.open(tmp_path, {}, overwrite=False)
    assert Workspace.open(tmp_path, {}, overwrite=True).entries == {}


def test_a_key_depends_on_every_value_and_not_on_their_order() -> None:
    key = key_of(stage="fp16", parent="ab")
    assert key == key_of(parent="ab", stage="fp16")
    assert len({key, key_of(stage="fp16", parent=None), key_of(stage="int8", parent="ab")}) == 3
