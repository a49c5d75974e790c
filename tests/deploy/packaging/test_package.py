"""Packages: whole or not at all, the same bytes for the same inputs, checksums that hold."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from segdeploy.cli import package as cli_package
from segdeploy.cli.main import main
from segdeploy.deploy.onnx_model.file import load_model, metadata, save_model, set_metadata
from segdeploy.deploy.packaging.base import (
    COMMANDS,
    MANIFEST,
    README,
    Contents,
    PackagedModel,
    PackageTarget,
    Request,
    Step,
)
from segdeploy.deploy.packaging.package import package, reread
from segdeploy.deploy.packaging.registry import PACKAGE_TARGETS, package_target, verify_package
from segdeploy.deploy.system.checksums import CHECKSUMS, files_of, read_checksums, write_checksums
from segdeploy.deploy.system.errors import InputError, UsageError


@pytest.fixture
def model(tmp_path: Path, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path / "net.fp32.onnx")


@pytest.fixture
def request_(model: Path) -> Request:
    return Request(sources=(PackagedModel.open(model),))


def write_shape(request: Request, folder: Path) -> Contents:
    """A target that writes the usual input shape into a file of a sub-folder."""
    shape = request.sources[0].image_shape(request.batches[1])
    (folder / "in").mkdir()
    (folder / "in" / "shape.json").write_text(json.dumps(shape))
    steps = tuple(Step(what=f"step {n}", command=f"tool{n} in/shape.json") for n in range(COMMANDS))
    return Contents(steps=steps, executed=("the file was read back",), not_run=("the device",))


def verify_shape(folder: Path) -> None:
    if len(json.loads((folder / "in" / "shape.json").read_text())) != 4:
        raise InputError(f"{folder / 'in' / 'shape.json'} has not four sides")


TOY = PackageTarget(
    name="toy", title="a toy", document="a document", write=write_shape, verify=verify_shape
)


class TestLaws:
    def test_the_same_request_gives_the_same_bytes_wherever_it_is_written(
        self, request_: Request, tmp_path: Path
    ) -> None:
        one = package(request_, target=TOY, output=tmp_path / "a" / "one")
        other = package(request_, target=TOY, output=tmp_path / "b" / "other")
        for path in sorted(p for p in one.folder.rglob("*") if p.is_file()):
            twin = other.folder / path.relative_to(one.folder)
            assert path.read_bytes() == twin.read_bytes(), path.name
        assert one.files == other.files

    def test_what_is_returned_is_what_is_read_back(self, request_: Request, tmp_path: Path) -> None:
        written = package(request_, target=TOY, output=tmp_path / "out")
        assert reread(written.folder, target=TOY) == written
        assert written.contents.steps[0].command == "tool0 in/shape.json"
        assert [file.path for file in written.files] == ["in/shape.json"]

    def test_sha256sum_agrees(self, request_: Request, tmp_path: Path) -> None:
        written = package(request_, target=TOY, output=tmp_path / "out")
        checked = subprocess.run(
            ["sha256sum", "-c", "--strict", CHECKSUMS],
            cwd=written.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert sorted(line.removesuffix(": OK") for line in checked.stdout.splitlines()) == sorted(
            [README, MANIFEST, "in/shape.json"]
        )

    @pytest.mark.parametrize("file", [README, MANIFEST, "in/shape.json"])
    def test_a_changed_byte_anywhere_is_found(
        self, request_: Request, tmp_path: Path, file: str
    ) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        (folder / file).write_text((folder / file).read_text() + " ")
        with pytest.raises(InputError, match=f"{Path(file).name} was changed"):
            reread(folder, target=TOY)

    def test_a_file_more_or_less_is_found(self, request_: Request, tmp_path: Path) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        (folder / "more").write_text("x")
        with pytest.raises(InputError, match=r"lacks \['more'\]"):
            reread(folder, target=TOY)
        (folder / "more").unlink()
        (folder / "in" / "shape.json").unlink()
        with pytest.raises(InputError, match=r"lists \['in/shape.json'\] that are not there"):
            reread(folder, target=TOY)

    def test_the_targets_own_check_runs_too(self, request_: Request, tmp_path: Path) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        (folder / "in" / "shape.json").write_text("[1, 2, 3]")
        content = json.loads((folder / MANIFEST).read_text())
        write_checksums(folder, files_of(folder))
        listed = read_checksums(folder / CHECKSUMS)
        content["files"][0] |= {"sha256": listed["in/shape.json"], "bytes": 9}
        (folder / MANIFEST).write_text(json.dumps(content))
        write_checksums(folder, files_of(folder))
        with pytest.raises(InputError, match="has not four sides"):
            reread(folder, target=TOY)

    def test_the_contents_follow_the_metadata(self, request_: Request, tmp_path: Path) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        content = json.loads((folder / MANIFEST).read_text())
        source = request_.sources[0]
        assert content["preprocess"] == json.loads(source.preprocess.to_json())
        assert content["arch"] == "unet_plus_plus"
        assert content["models"][0]["sha256"] == source.artifact.sha256
        page = (folder / README).read_text()
        assert "| size, height x width | 32 x 32 |" in page
        assert page.count("tool") >= COMMANDS
        assert "Not run on hardware:\n\n- the device" in page
        assert "Format taken from: a document." in page


class TestWholeOrNotAtAll:
    def test_a_folder_that_exists_is_refused_and_kept(
        self, request_: Request, tmp_path: Path
    ) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="exists" if not overwrite else "is no package"):
                package(request_, target=TOY, output=tmp_path / "out", overwrite=overwrite)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]

    def test_overwrite_replaces_a_package_with_all_its_files(
        self, request_: Request, tmp_path: Path
    ) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        (folder / "stale").write_text("x")
        package(request_, target=TOY, output=folder, overwrite=True)
        assert not (folder / "stale").exists()
        assert list(tmp_path.glob(".out*")) == []

    @pytest.mark.parametrize("fails", ["write", "verify"])
    def test_a_failure_leaves_nothing_behind_and_the_old_package_as_it_was(
        self, request_: Request, tmp_path: Path, fails: str
    ) -> None:
        def fail(*_: object) -> Contents:
            raise InputError("on purpose")

        before = package(request_, target=TOY, output=tmp_path / "out")
        broken = PackageTarget(
            name="toy",
            title="a toy",
            document="a document",
            write=fail if fails == "write" else write_shape,
            verify=fail if fails == "verify" else verify_shape,
        )
        for output in (tmp_path / "out", tmp_path / "new"):
            with pytest.raises(InputError, match="on purpose"):
                package(request_, target=broken, output=output, overwrite=True)
        assert reread(tmp_path / "out", target=TOY) == before
        assert not (tmp_path / "new").exists()
        assert list(tmp_path.glob(".*partial")) == []


class TestRefusals:
    def test_a_model_without_a_contract(self, model: Path, tmp_path: Path) -> None:
        bare = load_model(model)
        entries = metadata(bare)
        del entries["preprocess"]
        set_metadata(bare, entries)
        save_model(bare, tmp_path / "bare.onnx")
        with pytest.raises(InputError, match="carries no preprocessing contract"):
            PackagedModel.open(tmp_path / "bare.onnx")

    def test_two_networks_in_one_package(self, model: Path, tmp_path: Path) -> None:
        other = load_model(model)
        set_metadata(other, metadata(other) | {"arch": "r2u_net"})
        save_model(other, tmp_path / "other.onnx")
        with pytest.raises(InputError, match="different input contracts or networks"):
            Request(
                sources=(PackagedModel.open(model), PackagedModel.open(tmp_path / "other.onnx"))
            )

    def test_a_name_that_a_shell_would_split(
        self, tmp_path: Path, small_onnx: Callable[..., Path]
    ) -> None:
        source = PackagedModel.open(small_onnx(tmp_path / "my net.onnx"))
        with pytest.raises(InputError, match=r"the model's name 'my net\.onnx' goes into command"):
            Request(sources=(source,))

    def test_batches_out_of_order(self, model: Path) -> None:
        with pytest.raises(UsageError, match="batches 4 1 8 are out of order"):
            Request(sources=(PackagedModel.open(model),), batches=(4, 1, 8))

    def test_a_package_of_an_unknown_target(self, request_: Request, tmp_path: Path) -> None:
        folder = package(request_, target=TOY, output=tmp_path / "out").folder
        with pytest.raises(UsageError, match="package target 'toy' is unknown; choose from"):
            verify_package(folder)

    def test_a_folder_that_is_no_package(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"package.json cannot be read"):
            verify_package(tmp_path)

    def test_a_malformed_checksum_line(self, tmp_path: Path) -> None:
        (tmp_path / CHECKSUMS).write_text("abc  file\n")
        with pytest.raises(InputError, match=r"checksums.sha256:1: 'abc  file' is not"):
            read_checksums(tmp_path / CHECKSUMS)


class TestCommandLine:
    def test_the_flags_list_what_the_registry_holds(self) -> None:
        assert set(cli_package.PACKAGE_TARGETS) == set(PACKAGE_TARGETS)
        assert all(package_target(name).name == name for name in PACKAGE_TARGETS)

    def test_it_writes_says_and_prints(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "trt"
        arguments = ["package", "--target", "tensorrt", "-m", str(model), "-o", str(output)]
        assert main([*arguments, "--format", "json"]) == 0
        found = capsys.readouterr()
        assert json.loads(found.out)["target"] == "tensorrt"
        assert "not run on hardware: TensorRT" in found.err
        assert verify_package(output).files
        assert main(arguments) == 2
        assert "exists; choose another, or --overwrite" in capsys.readouterr().err
        assert main([*arguments, "--overwrite"]) == 0

    def test_calibration_images_must_not_be_evaluation_images(
        self, model: Path, image_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(image_set, tmp_path / "twin")
        rows = (tmp_path / "twin" / "splits.csv").read_text()
        (tmp_path / "twin" / "splits.csv").write_text(rows.replace("train", "test"))
        command = f"package --target tensorrt -m {model} -o {tmp_path / 'out'}"
        data = f"--calib-data {image_set} --data {tmp_path / 'twin'}"
        assert main(shlex.split(f"{command} {data}")) == 3
        assert "is also evaluation image" in capsys.readouterr().err
