"""A finished folder is verified: what changed in it is named, whatever it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import TINY

from segdeploy.calibration.files import write_atomic
from segdeploy.cli.main import main
from segdeploy.deploy.system.checksums import CHECKSUMS, files_of, update_checksums
from segdeploy.deploy.system.errors import InputError
from segdeploy.verify.verify import verify

NAME = "unet_plus_plus_l1"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    make_image_set: Callable[[Path, list[str]], Path],
    no_cold_start: None,
) -> Path:
    """A run, a training, a prediction and a package of one tiny network."""
    root = tmp_path_factory.mktemp("finished")
    data = make_image_set(root / "data", ["train"] * 4 + ["val"] * 2 + ["test"] * 2)
    common = ["--data", str(data)]
    (root / "tiny.json").write_text(TINY.to_json())
    train = ["train", *common, "--preprocess", str(root / "tiny.json"), "--epochs", "2"]
    train += ["--width", "2", "-o", str(root / "training")]
    assert main([*train, "--batch", "2", "--amp", "off"]) == 0
    best = str(root / "training" / "best.safetensors")
    run = ["run", *common, "-c", best, "--head", "1", "-o", str(root / "run"), "--threads", "1"]
    run += ["--num-samples", "2", "--target", "ort-x86", "--runtime", "onnxruntime"]
    assert main([*run, "--max-drop", "100", "--duration", "0.02", "--warmup", "0"]) == 0
    model = str(root / "run" / f"{NAME}.sim.onnx")
    predict = ["predict", model, str(data / "images"), "-o", str(root / "prediction")]
    assert main([*predict, "--runtime", "onnxruntime"]) == 0
    package = ["package", "--target", "onnx", "-m", model, "-o", str(root / "package")]
    assert main(package) == 0
    return root


@pytest.fixture
def folders(finished: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "all"))


KINDS = ("run", "training", "prediction", "package")


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_folder_is_unchanged_wherever_it_lies(folders: Path, kind: str) -> None:
    found = verify(folders / kind)
    assert (found.kind, found.changes) == (kind, ())
    assert found.files >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_one_other_byte_in_any_file_is_found_and_the_file_named(folders: Path, kind: str) -> None:
    folder = folders / kind
    for name in files_of(folder):
        if name == "index.jsonl":
            continue  # what it lists no longer fits then: see below
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert name in {change.file for change in verify(folder).changes}, name
        path.write_bytes(before)
    assert verify(folder).unchanged


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_file_is_found(folders: Path, kind: str) -> None:
    file = {"run": "report.md", "training": "last.safetensors", "package": "README.md"}.get(kind)
    if file is None:
        file = next(name for name in files_of(folders / kind) if name.endswith(".png"))
    (folders / kind / file).unlink()
    assert [(c.file, c.words) for c in verify(folders / kind).changes] == [(file, "missing")]


def test_the_command_names_what_changed_and_exits_with_1(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["verify", str(folders / "run")]) == 0
    assert "run of 10 files, unchanged" in capsys.readouterr().out
    with (folders / "run" / f"{NAME}.fp16.onnx").open("ab") as stream:
        stream.write(b"\0")
    (folders / "run" / "notes.txt").write_text("mine")
    assert main(["verify", str(folders / "run"), "--format", "json"]) == 1
    printed = capsys.readouterr()
    assert f"{NAME}.fp16.onnx: changed" in printed.err
    assert "not part of it: notes.txt" in printed.err
    assert json.loads(printed.out)["changes"][0]["file"] == f"{NAME}.fp16.onnx"


def doctored(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    """A report that was edited by hand, by one who also wrote the pages and checksums again."""

    def edit(folder: Path) -> None:
        report = json.loads((folder / "report.json").read_text())
        change(report)
        write_atomic(folder / "report.json", json.dumps(report, indent=2, sort_keys=True).encode())
        update_checksums(folder, ["report.json"])
        assert main(["report", str(folder)]) == 0
        update_checksums(folder, ["report.json"])

    return edit


def better(report: dict[str, object]) -> None:
    report["parity"]["rows"][1]["delta_iou_percentage_points"] = 0.5  # type: ignore[index]


def passed(report: dict[str, object]) -> None:
    report["passed"] = not report["passed"]


@pytest.mark.parametrize(
    ("change", "words"),
    [(better, "its change of IoU is not that of its images"), (passed, "does not follow")],
)
def test_figures_that_do_not_follow_from_others_are_found(
    folders: Path, change: Callable[[dict[str, object]], object], words: str
) -> None:
    doctored(change)(folders / "run")
    found = verify(folders / "run").changes
    assert [change.file for change in found] == ["report.json"]
    assert words in found[0].words


def test_a_model_of_another_run_is_found_though_the_checksums_fit(folders: Path) -> None:
    run = folders / "run"
    other = run / f"{NAME}.fp16.onnx"
    shutil.copyfile(run / f"{NAME}.sim.onnx", other)
    update_checksums(run, [other.name])
    assert f"{NAME}.fp16.onnx" in {change.file for change in verify(run).changes}


def test_writing_the_pages_again_keeps_the_folder_verified(folders: Path) -> None:
    assert main(["report", str(folders / "run")]) == 0
    assert verify(folders / "run").unchanged
    model = folders / "run" / f"{NAME}.sim.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    assert main(["report", str(folders / "run")]) == 0
    assert not verify(folders / "run").unchanged, "only the pages' own digests are stated anew"


def test_other_images_are_a_note_and_no_change(folders: Path) -> None:
    journal = folders / "prediction" / "index.jsonl"
    moved = journal.read_text().replace('"image": "', '"image": "nowhere/')
    journal.write_text(moved)
    found = verify(folders / "prediction")
    assert any("8 are not found from the working folder" in note for note in found.notes)
    assert [change.file for change in found.changes] == ["index.csv"]


def test_a_journal_cannot_lead_out_of_its_folder(folders: Path) -> None:
    journal = folders / "prediction" / "index.jsonl"
    (folders / "secret.png").write_text("x")
    first = json.loads(journal.read_text().splitlines()[0])
    first["outputs"] = {"../secret.png": "0" * 64}
    journal.write_text(json.dumps(first) + "\n")
    with pytest.raises(InputError, match=r"jsonl:1 is damaged .*no output '\.\./secret"):
        verify(folders / "prediction")


@pytest.mark.parametrize("file", ["../secret.png", "/etc/hostname", ".."])
def test_a_report_or_a_manifest_cannot_lead_out_of_its_folder(folders: Path, file: str) -> None:
    (folders / "secret.png").write_text("x")
    for name, edit in {
        "report.json": lambda content: content["stages"][0]["artifact"].update(file=file),
        "manifest.json": lambda content: content["stages"].update(
            x={"file": file, "sha256": "0" * 64, "key": ""}
        ),
    }.items():
        path = folders / "run" / name
        before = path.read_text()
        content = json.loads(before)
        edit(content)
        path.write_text(json.dumps(content))
        update_checksums(folders / "run", [name])
        words = {change.file: change.words for change in verify(folders / "run").changes}[name]
        assert "outside the folder" in words or "is damaged" in words
        path.write_text(before)
        update_checksums(folders / "run", [name])


def test_checksums_that_name_files_outside_read_none(folders: Path) -> None:
    (folders / "secret.png").write_text("x")
    path = folders / "run" / CHECKSUMS
    path.write_text(path.read_text() + f"{'0' * 64}  ../secret.png\n")
    changes = {change.file: change.words for change in verify(folders / "run").changes}
    assert changes == {"../secret.png": "missing"}, "never hashed"


def test_versions_that_are_none_are_named(folders: Path) -> None:
    path = folders / "run" / "manifest.json"
    content = json.loads(path.read_text())
    content["inputs"]["versions"] = "abc"
    path.write_text(json.dumps(content))
    update_checksums(folders / "run", ["manifest.json"])
    (change,) = verify(folders / "run").changes
    assert change.words.endswith("manifest.json states no versions")


def test_names_in_a_folder_cannot_break_a_line(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "package" / "a\n\x1b[2Jb").touch()
    assert main(["verify", str(folders / "package")]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"a\n\x1b[2Jb" in said


@pytest.mark.parametrize("kind", ["run", "training", "package"])
def test_an_unfinished_folder_is_refused(folders: Path, kind: str) -> None:
    (folders / kind / CHECKSUMS).unlink()
    with pytest.raises(InputError, match=r"checksums\.sha256 cannot be read.*finished\?"):
        verify(folders / kind)


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no output of run, train, predict or package"):
        verify(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        verify(tmp_path / "none")
