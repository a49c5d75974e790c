"""Many images: nothing done twice, nothing lost, the same files whatever happens on the way."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.cli.main import main
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import load_checkpoint
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.prediction import run as run_module
from segdeploy.deploy.prediction.flow import PARTIAL
from segdeploy.deploy.prediction.journal import JOURNAL, TABLE, Journal, Row, Status
from segdeploy.deploy.prediction.model import CheckpointModel
from segdeploy.deploy.prediction.run import Summary, predict
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.prediction.sources import ImageSource, sources_of
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, UsageError

WritePng = Callable[[Path, NDArray[np.generic]], Path]
ONE = Execution(threads=1)
LABELLED = Settings(writes=(Write.MASK, Write.LABELS))
SIDE = 16


class BrightnessModel(CheckpointModel):
    """Opens the runtime of ``conftest`` and counts what it is asked for."""

    fake: Any
    opened = 0
    inferred = 0

    def open(self, execution: Execution) -> Any:
        type(self).opened += 1

        class Counted(self.fake):  # type: ignore[misc, name-defined]  # a fixture gives the class
            def infer(inner, feeds: Any) -> Any:  # noqa: N805  # self is the test
                type(self).inferred += 1
                return super().infer(feeds)

        return Counted(sides=(SIDE, SIDE), batch=execution.batch, streams=execution.streams)


@pytest.fixture
def model(brightness: Any, monkeypatch: pytest.MonkeyPatch) -> BrightnessModel:
    monkeypatch.setattr(BrightnessModel, "fake", brightness, raising=False)
    monkeypatch.setattr(BrightnessModel, "opened", 0)
    monkeypatch.setattr(BrightnessModel, "inferred", 0)
    contract = Preprocess(size=(SIDE, SIDE))
    return BrightnessModel(
        path=Path("model"), sha256="ab" * 32, preprocess=contract, recurrence=None, head=None
    )


@pytest.fixture
def images(tmp_path: Path, write_png: WritePng, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine images in two folders, one of them broken; the working directory is their parent."""
    generator = np.random.default_rng(2)
    for index in range(8):
        pixels = generator.integers(0, 256, (20 + index, 30, 3), np.uint8)
        write_png(tmp_path / "images" / ("", "more")[index % 2] / f"{index}.png", pixels)
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    monkeypatch.chdir(tmp_path)
    return Path("images")


def run(
    model: Any,
    images: Path,
    output: Path,
    *,
    settings: Settings = LABELLED,
    workers: int = 2,
    **more: Any,
) -> Summary:
    sources = sources_of([str(images)], output=output, writes=settings.writes)
    more = {"execution": ONE} | more
    return predict(sources, model=model, settings=settings, output=output, workers=workers, **more)


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / TABLE).open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class TestIndex:
    def test_there_is_a_row_for_each_image_in_order(
        self, model: BrightnessModel, images: Path
    ) -> None:
        summary = run(model, images, Path("out"))
        rows = rows_of(Path("out"))
        assert [row["name"] for row in rows] == [
            *("0", "2", "4", "6", "broken"),
            *("more/1", "more/3", "more/5", "more/7"),
        ]
        assert (summary.images, summary.done_now, summary.unreadable) == (9, 8, 1)
        assert summary.exit_code == 3
        for row in rows:
            if row["name"] == "broken":
                assert row["status"] == "unreadable"
                assert "cannot be read" in row["error"]
                continue
            with Image.open(f"out/{row['name']}.png") as mask:
                share = (np.asarray(mask) > 0).mean()
                assert mask.size == (int(row["width"]), int(row["height"]))
            with Image.open(f"out/labels/{row['name']}.png") as labels:
                assert np.asarray(labels).max() == int(row["instances"])
            assert float(row["foreground_share"]) == pytest.approx(share, abs=1e-6)
            assert row["status"] == "done"
            assert row["exif_orientation"] == "1"
        lines = (Path("out") / JOURNAL).read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["name"] for line in lines] == [row["name"] for row in rows]

    def test_pixels_are_taken_as_stored_and_exif_is_said(
        self, model: BrightnessModel, images: Path
    ) -> None:
        turned = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
        exif = Image.Exif()
        exif[274] = 6
        turned.save(images / "turned.jpg", exif=exif)
        assert run(model, images, Path("out")).turned == 1
        (row,) = (row for row in rows_of(Path("out")) if row["name"] == "turned")
        assert (row["width"], row["height"], row["exif_orientation"]) == ("40", "20", "6")
        with Image.open("out/turned.png") as mask:
            assert mask.size == (40, 20)
            assert not mask.getexif()


class TestTheSameFiles:
    @pytest.mark.parametrize("fit", [Fit.RESIZE, Fit.TILE])
    def test_for_any_number_of_workers_streams_and_threads(
        self, model: BrightnessModel, images: Path, fit: Fit
    ) -> None:
        chosen = replace(LABELLED, fit=fit)
        run(model, images, Path("one"), settings=chosen, workers=1)
        for workers, streams in ((4, 1), (1, 3), (3, 2)):
            output = Path(f"out{workers}{streams}")
            execution = Execution(threads=streams, streams=streams)
            run(model, images, output, settings=chosen, workers=workers, execution=execution)
            assert files_of(output) == files_of(Path("one"))

    @pytest.mark.parametrize("after", range(10))
    def test_after_a_stop_at_any_image_and_nothing_is_done_twice(
        self, model: BrightnessModel, images: Path, after: int
    ) -> None:
        run(model, images, Path("whole"))
        BrightnessModel.inferred = 0
        told = 0

        def stop() -> None:
            nonlocal told
            told += 1
            if told > after:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            run(model, images, Path("out"), workers=1, progress=stop)
        written = len([1 for file in files_of(Path("out")) if file.startswith("labels/")])
        before = BrightnessModel.inferred
        summary = run(model, images, Path("out"))
        assert files_of(Path("out")) == files_of(Path("whole"))
        assert summary.reused >= min(after, 4)
        assert BrightnessModel.inferred - before == 8 - summary.reused
        assert written >= summary.reused

    def test_after_the_process_was_killed(
        self, images: Path, tmp_path: Path, tiny_unet_checkpoint: Path
    ) -> None:
        """SIGKILL, in a process of its own, after the third image and half a line were noted."""
        file = export(load_checkpoint(tiny_unet_checkpoint, head=1), tmp_path / "net.onnx").path
        script = textwrap.dedent(
            """
            import os, signal, sys
            from segdeploy.cli.main import main
            from segdeploy.deploy.prediction import journal
            append, noted = journal.Journal.append, []
            def killing(self, row):
                append(self, row)
                noted.append(row)
                if len(noted) == 3:
                    self._file.write(b'{"image": "half a li')
                    self._file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            journal.Journal.append = killing
            sys.exit(main(sys.argv[1:]))
            """
        )
        command = ["predict", str(file), str(images), "--threads", "1", "-o"]
        killed = subprocess.run(
            [sys.executable, "-c", script, *command, "out"],
            check=False,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(Path(run_module.__file__).parents[2])},
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert not (Path("out") / TABLE).exists()
        assert main([*command, "out"]) == 3, "one image is broken"
        assert main([*command, "whole"]) == 3
        assert files_of(Path("out")) == files_of(Path("whole"))


class TestResume:
    def test_what_is_done_is_not_done_again_and_the_model_not_even_loaded(
        self, model: BrightnessModel, images: Path
    ) -> None:
        (images / "broken.png").unlink()
        run(model, images, Path("out"))
        before = files_of(Path("out"))
        Path("out", PARTIAL).mkdir()  # of a process that was killed when all was done
        summary = run(model, images, Path("out"))
        assert (summary.reused, summary.done_now, summary.exit_code) == (8, 0, 0)
        assert BrightnessModel.opened == 1
        assert files_of(Path("out")) == before
        assert not Path("out", PARTIAL).exists()

    @pytest.mark.parametrize(
        "change",
        ["image", "mask gone", "mask spoiled", "model", "settings", "contract", "overwrite"],
    )
    def test_what_would_be_different_is_done_again(
        self, model: BrightnessModel, images: Path, write_png: WritePng, change: str
    ) -> None:
        (images / "broken.png").unlink()
        run(model, images, Path("out"))
        other, chosen, again = model, LABELLED, 1
        if change == "image":
            write_png(images / "0.png", np.zeros((9, 9, 3), np.uint8))
        elif change == "mask gone":
            Path("out/0.png").unlink()
        elif change == "mask spoiled":
            Path("out/0.png").write_bytes(b"")
        else:
            again = 8
        if change == "model":
            other = replace(model, sha256="cd" * 32)
        elif change == "contract":
            other = replace(model, preprocess=Preprocess(size=(SIDE, SIDE), antialias=True))
        elif change == "settings":
            chosen = replace(LABELLED, writes=(Write.MASK,))
        summary = run(other, images, Path("out"), settings=chosen, overwrite=change == "overwrite")
        assert (summary.done_now, summary.reused) == (again, 8 - again)
        run(other, images, Path("fresh"), settings=chosen)
        assert files_of(Path("out")) == files_of(Path("fresh")), "no old label stays"

    def test_a_mended_image_is_done_and_a_broken_one_tried_again(
        self, model: BrightnessModel, images: Path, write_png: WritePng
    ) -> None:
        assert run(model, images, Path("out")).unreadable == 1
        assert run(model, images, Path("out")).unreadable == 1
        write_png(images / "broken.png", np.zeros((9, 9, 3), np.uint8))
        summary = run(model, images, Path("out"))
        assert (summary.done_now, summary.reused, summary.exit_code) == (1, 8, 0)

    def test_an_image_that_broke_leaves_no_old_mask(
        self, model: BrightnessModel, images: Path
    ) -> None:
        run(model, images, Path("out"))
        (images / "0.png").write_bytes(b"")
        assert run(model, images, Path("out")).unreadable == 2
        assert not Path("out/0.png").exists()
        assert not Path("out/labels/0.png").exists()

    def test_images_that_come_later_are_added(
        self, model: BrightnessModel, images: Path, write_png: WritePng
    ) -> None:
        run(model, images, Path("out"))
        write_png(images / "2b.png", np.zeros((9, 9, 3), np.uint8))
        assert run(model, images, Path("out")).done_now == 1
        run(model, images, Path("fresh"))
        assert files_of(Path("out")) == files_of(Path("fresh"))

    def test_the_same_images_by_another_path_are_not_done_again(
        self, model: BrightnessModel, images: Path
    ) -> None:
        run(model, images, Path("out"))
        rows = rows_of(Path("out"))
        assert run(model, images.absolute(), Path("out")).reused == 8
        assert rows_of(Path("out")) == rows

    def test_images_elsewhere_are_named_below_the_folder_that_was_given(
        self,
        model: BrightnessModel,
        images: Path,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        run(model, images, Path("out"))
        images, output = images.absolute(), Path("out").absolute()
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert run(model, images, output).reused == 8
        below = [path.relative_to(images.parent) for path in sorted(images.rglob("*.png"))]
        assert {row["image"] for row in rows_of(output)} >= set(map(str, below))


class TestFolders:
    def test_a_folder_of_other_files_is_refused_unless_told(
        self, model: BrightnessModel, images: Path
    ) -> None:
        Path("out").mkdir()
        Path("out/thesis.txt").write_text("years of work")
        with pytest.raises(UsageError, match=r"is not empty and holds no index\.jsonl"):
            run(model, images, Path("out"))
        run(model, images, Path("out"), overwrite=True)
        assert Path("out/thesis.txt").read_text() == "years of work"

    def test_a_file_is_no_folder(self, model: BrightnessModel, images: Path) -> None:
        Path("out").touch()
        with pytest.raises(UsageError, match="is a file; give a folder"):
            run(model, images, Path("out"))

    @pytest.mark.parametrize("damage", [b"nonsense\n", b"[]\n", b'{"name": "a"}\n'])
    def test_a_damaged_journal_is_said_and_can_be_replaced(
        self, model: BrightnessModel, images: Path, damage: bytes
    ) -> None:
        run(model, images, Path("out"))
        journal = Path("out") / JOURNAL
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
        with pytest.raises(InputError, match=r"index\.jsonl is damaged at byte \d+"):
            run(model, images, Path("out"))
        assert run(model, images, Path("out"), overwrite=True).done_now == 8
        run(model, images, Path("fresh"))
        assert files_of(Path("out")) == files_of(Path("fresh"))


class TestImpossible:
    def test_a_model_of_one_size_cannot_pad(
        self, model: BrightnessModel, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(BrightnessModel, "takes_any_size", False)
        with pytest.raises(InputError, match=r"16x16 pixels only.*--rewrites any-size"):
            run(model, images, Path("out"), settings=Settings(fit=Fit.PAD))
        assert not Path("out").exists()

    def test_a_model_that_gives_masks_has_no_probability(
        self, model: BrightnessModel, images: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(BrightnessModel, "interface", Interface.IMAGE)
        with pytest.raises(InputError, match="gives masks, no probability"):
            run(model, images, Path("out"), settings=Settings(writes=(Write.PROBABILITY,)))

    def test_images_of_any_size_cannot_be_batched(
        self, model: BrightnessModel, images: Path
    ) -> None:
        with pytest.raises(UsageError, match="--batch 2 needs images of one size"):
            run(
                *(model, images, Path("out")),
                settings=Settings(fit=Fit.PAD),
                execution=Execution(threads=1, batch=2),
            )

    def test_tiles_cannot_overlap_by_all_of_their_size(
        self, model: BrightnessModel, images: Path
    ) -> None:
        with pytest.raises(UsageError, match="choose an --overlap below 16"):
            run(model, images, Path("out"), settings=Settings(fit=Fit.TILE, overlap=16))


def test_the_journal_holds_places_not_rows(tmp_path: Path) -> None:
    """Memory: 2000 rows of a kilobyte each cost their names and one number each."""
    (tmp_path / "out").mkdir()
    journal = Journal(tmp_path / "out")
    rows = [
        Row(image="x" * 1000, name=str(index), status=Status.DONE, width=index)
        for index in range(2000)
    ]
    for row in rows:
        journal.append(row)
    assert journal.row("1234") == rows[1234]
    assert journal.row("none") is None
    journal.append(replace(rows[7], width=1))
    journal.close()
    again = Journal(tmp_path / "out")
    assert again.row("7") == replace(rows[7], width=1), "the last one counts"
    assert sum(sys.getsizeof(value) for value in vars(again).values()) < 200_000
    again.finish(ImageSource(path=row.image, name=row.name) for row in rows)
    assert len((tmp_path / "out" / JOURNAL).read_bytes().splitlines()) == 2000
