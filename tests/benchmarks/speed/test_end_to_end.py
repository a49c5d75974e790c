"""Image files in, mask files out: what is measured of it, and which folders are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.benchmarks.speed.end_to_end import image_files, require_apart
from segdeploy.benchmarks.speed.end_to_end_worker import (
    MIN_IMAGES,
    EndToEnd,
    masks_flow,
    measure,
    rates_alone,
)
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.prediction.flow import Flow
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.base import Feeds, Results
from segdeploy.deploy.system.errors import InputError, RunError, UsageError

SIDE = 16
CONTRACT = Preprocess(size=(SIDE, SIDE))
WritePng = Callable[[Path, NDArray[np.generic]], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images of different sizes, each half dark and half bright."""
    root = tmp_path_factory.mktemp("images")
    for index in range(7):
        pixels = np.zeros((30 + 3 * index, 50 - 4 * index, 3), np.uint8)
        pixels[:, (index + 1) * pixels.shape[1] // 9 :] = 255
        suffix = ("png", "tif")[index % 2]
        Image.fromarray(pixels).save(root / f"cells {index}.{suffix}")
    return root


@pytest.fixture
def sources(folder: Path) -> list[ImageSource]:
    return [ImageSource(path=str(path), name=path.stem) for path in image_files(folder)]


@pytest.fixture
def flow(brightness: type[Any], tmp_path: Path) -> Flow:
    runtime = brightness(sides=(SIDE, SIDE), batch=2, streams=2)
    return masks_flow(runtime, preprocess=CONTRACT, output=tmp_path, workers=2)


class TestMeasure:
    def test_images_are_taken_again_until_there_are_enough(
        self, flow: Flow, sources: list[ImageSource]
    ) -> None:
        shares: list[float] = []
        measured = measure(flow, sources, warmup=4, duration_s=0.05, progress=shares.append)
        assert len(measured.written_s) >= 4 + MIN_IMAGES
        assert measured.written_s[-1] - measured.written_s[0] > 0
        assert measured.images_per_s > 0
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= shares[-1] <= 1
        assert sum(measured.processor_share.values()) == pytest.approx(1)
        assert set(measured.processor_share) == {"decode", "inference", "encode"}
        assert set(measured.alone_images_per_s) == {"decode", "inference", "encode", "in_turn"}
        assert measured.most_at_once <= measured.bound
        assert measured.peak_bytes > 10_000_000
        masks = [flow.output / f"{source.name}.png" for source in sources]
        assert sorted(flow.output.iterdir()) == sorted(masks), "nothing half written stays"

    def test_a_large_folder_is_taken_once(self, flow: Flow, sources: list[ImageSource]) -> None:
        many = sources * 5
        measured = measure(flow, many, warmup=1, duration_s=0.0, progress=lambda share: None)
        assert len(measured.written_s) == len(many)

    def test_what_was_measured_alone_is_not_counted(
        self, flow: Flow, sources: list[ImageSource]
    ) -> None:
        assert all(rate > 0 for rate in rates_alone(flow, sources, seconds=0).values())
        assert flow.written_at
        flow.start_over()
        assert (flow.written_at, flow.most_at_once, flow.encode_processor_s) == ([], 0, 0.0)

    @pytest.mark.parametrize("position", [0, 40])
    def test_figures_are_those_of_all_images_or_none(
        self, flow: Flow, sources: list[ImageSource], tmp_path: Path, position: int
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes(Path(sources[0].path).read_bytes()[:60])
        many = sources * 7
        many.insert(position, ImageSource(path=str(broken), name="broken"))
        with pytest.raises(InputError, match=r"broken\.png cannot be read"):
            measure(flow, many, warmup=1, duration_s=0.0, progress=lambda share: None)

    def test_a_runtime_that_fails_gives_no_figures(
        self, flow: Flow, sources: list[ImageSource], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(feeds: Feeds) -> Results:
            raise RunError("out of memory")

        monkeypatch.setattr(flow.runtime, "infer", fail)
        with pytest.raises(RunError, match="out of memory"):
            measure(flow, sources, warmup=1, duration_s=0.0, progress=lambda share: None)

    def test_a_model_with_other_outputs_is_refused(
        self, brightness: type[Any], tmp_path: Path
    ) -> None:
        runtime = brightness(sides=(SIDE, SIDE))
        runtime.outputs = (runtime.outputs[0], runtime.outputs[0])
        with pytest.raises(InputError, match="expected one image and one probability"):
            masks_flow(runtime, preprocess=CONTRACT, output=tmp_path, workers=1)

    @pytest.mark.parametrize(
        "wrong", [{"warmup": 0}, {"warmup": 3}, {"written_s": (0.1, 0.3, 0.2)}, {"most_at_once": 9}]
    )
    def test_figures_that_cannot_be_are_refused(self, wrong: dict[str, Any]) -> None:
        right: dict[str, Any] = {
            "written_s": (0.1, 0.2, 0.3),
            "warmup": 1,
            "processor_s": {"decode": 1.0},
            "alone_images_per_s": {"decode": 1.0},
            "most_at_once": 8,
            "bound": 8,
            "peak_bytes": 1,
        }
        assert EndToEnd(**right).images_per_s == pytest.approx(10)
        with pytest.raises(RunError):
            EndToEnd(**right | wrong)


class TestFolders:
    def test_images_are_listed_by_name_without_hidden_files(
        self, tmp_path: Path, write_png: WritePng
    ) -> None:
        grey = np.zeros((4, 5), np.uint8)
        made = [write_png(tmp_path / name, grey) for name in ("b.png", "a.PNG")]
        (tmp_path / ".DS_Store").write_bytes(b"finder")
        assert image_files(tmp_path) == tuple(sorted(made))

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda root: root / "absent", "absent does not exist; expected a folder of images"),
            (lambda root: root / "a.png", "is a file; expected a folder of images"),
            (lambda root: root / "empty", "is empty; expected images"),
            (lambda root: root, r"holds the folder deep/; expected images only"),
            (lambda root: root / "texts", r"notes\.txt is no image"),
            (lambda root: root / "named", r"fake\.png cannot be read"),
            (lambda root: root / "deep", r"deep\.png has 16 bits a pixel"),
            (lambda root: root / "twins", r"would have the same mask a\.png; rename one"),
        ],
    )
    def test_a_newcomer_s_mistake_is_named(
        self,
        tmp_path: Path,
        write_png: WritePng,
        make: Callable[[Path], Path],
        words: str,
    ) -> None:
        grey = np.zeros((4, 5), np.uint8)
        for name in ("a.png", "texts/a.png", "named/a.png", "twins/a.png"):
            write_png(tmp_path / name, grey)
        (tmp_path / "empty").mkdir()
        (tmp_path / "texts" / "notes.txt").write_text("no image")
        (tmp_path / "named" / "fake.png").write_text("no image")
        write_png(tmp_path / "deep" / "deep.png", grey.astype(np.uint16))
        Image.fromarray(grey).save(tmp_path / "twins" / "a.tif")
        with pytest.raises(InputError, match=words):
            image_files(make(tmp_path))

    def test_masks_do_not_replace_their_images(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        with pytest.raises(UsageError, match="holds the images"):
            require_apart(tmp_path, tmp_path / "inside" / "..")
        with pytest.raises(UsageError, match="is a file"):
            require_apart(tmp_path, file)
        require_apart(tmp_path, tmp_path / "masks")
