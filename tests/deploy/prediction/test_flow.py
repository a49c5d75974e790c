"""Image files in, output files out: the right ones, overlapped, few images at once, none lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import read_image
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.prediction.flow import Flow
from segdeploy.deploy.prediction.image import Job, Outcome, Prepared, predict_image
from segdeploy.deploy.prediction.journal import Status
from segdeploy.deploy.prediction.settings import Fit, Settings, Write
from segdeploy.deploy.prediction.sources import ImageSource
from segdeploy.deploy.runtimes.base import Feeds, Results
from segdeploy.deploy.system.errors import RunError

SIDE = 16
CONTRACT = Preprocess(size=(SIDE, SIDE))
ANY_SIZE = ("height", "width")
Fake = type[Any]
"""``conftest.Brightness``."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[ImageSource]:
    """Seven images of different sizes, each half dark and half bright."""
    root = tmp_path_factory.mktemp("images")
    found = []
    for index in range(7):
        pixels = np.zeros((30 + 3 * index, 50 - 4 * index, 3), np.uint8)
        pixels[:, (index + 1) * pixels.shape[1] // 9 :] = 255
        path = root / f"cells {index}.{('png', 'tif')[index % 2]}"
        Image.fromarray(pixels).save(path)
        found.append(ImageSource(path=str(path), name=path.stem))
    return found


def job_of(chosen: Settings, contract: Preprocess = CONTRACT) -> Job:
    return Job(preprocess=contract, interface=Interface.TENSOR, settings=chosen)


MASKS = job_of(Settings())


def flow_of(runtime: Any, output: Path, *, workers: int = 2, job: Job = MASKS) -> Flow:
    return Flow(runtime, job=job, output=output, workers=workers)


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


CHOICES = {
    Fit.RESIZE: Settings(writes=tuple(Write)),
    Fit.PAD: Settings(fit=Fit.PAD, writes=tuple(Write)),
    Fit.TILE: Settings(fit=Fit.TILE, overlap=5, scale=0.8, writes=tuple(Write)),
}


class TestTheSameFunction:
    @pytest.mark.parametrize(
        ("fit", "batch", "streams", "workers"),
        [
            (Fit.RESIZE, 1, 1, 1),
            (Fit.RESIZE, 3, 2, 4),
            (Fit.PAD, 1, 1, 1),
            (Fit.PAD, 1, 3, 4),
            (Fit.TILE, 1, 3, 2),
            (Fit.TILE, 3, 2, 4),
        ],
    )
    def test_overlapped_or_one_by_one_the_bytes_are_the_same(
        self,
        brightness: Fake,
        sources: list[ImageSource],
        tmp_path: Path,
        fit: Fit,
        batch: int,
        streams: int,
        workers: int,
    ) -> None:
        sides = ANY_SIZE if fit is Fit.PAD else (SIDE, SIDE)
        job = job_of(CHOICES[fit])
        runtime = brightness(sides=sides, batch=batch, streams=streams)
        flow = flow_of(runtime, tmp_path, workers=workers, job=job)
        rows = [outcome.row for outcome in flow.outcomes(sources)]
        alone = [predict_image(source, job, brightness(sides=sides)) for source in sources]
        assert rows == [outcome.row for outcome in alone]
        expected = {file: content for outcome in alone for file, content in outcome.files.items()}
        assert len(expected) == 7 * len(Write)
        assert files_of(tmp_path) == expected, "nothing else, nothing half written"


class TestMasks:
    def test_every_image_gets_its_mask_at_its_size(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path
    ) -> None:
        runtime = brightness(sides=(SIDE, SIDE), streams=2)
        for outcome in flow_of(runtime, tmp_path).outcomes(sources):
            image = read_image(Path(outcome.row.image), "RGB")
            with Image.open(tmp_path / f"{outcome.row.name}.png") as opened:
                assert (opened.format, opened.mode) == ("PNG", "L")
                found = np.asarray(opened)
            bright = image[..., 0] > 0
            assert found.shape == bright.shape == (outcome.row.height, outcome.row.width)
            assert ((found == 255) == bright).mean() > 0.9
            assert outcome.row.foreground_share == pytest.approx((found == 255).mean(), abs=1e-6)
            assert outcome.row.instances == 1

    @pytest.mark.parametrize("fit", [Fit.PAD, Fit.TILE])
    def test_at_native_resolution_a_brightness_is_found_exactly(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path, fit: Fit
    ) -> None:
        job = job_of(Settings(fit=fit, overlap=4 if fit is Fit.TILE else 0))
        sides = ANY_SIZE if fit is Fit.PAD else (SIDE, SIDE)
        for outcome in flow_of(brightness(sides=sides), tmp_path, job=job).outcomes(sources):
            found = read_image(tmp_path / f"{outcome.row.name}.png", "L")
            assert np.array_equal(found, read_image(Path(outcome.row.image), "RGB")[..., 0])

    def test_a_field_of_a_microscope_gives_a_mask_of_its_size(
        self, brightness: Fake, tmp_path: Path
    ) -> None:
        """A real sample image repeated to 1388x1040, the size of many microscopes."""
        pixels = read_image(sorted((bundled.sample() / "images").glob("*.png"))[0], "RGB")
        times = (-(-1040 // pixels.shape[0]), -(-1388 // pixels.shape[1]), 1)
        Image.fromarray(np.tile(pixels, times)[:1040, :1388]).save(tmp_path / "field.tif")
        source = ImageSource(path=str(tmp_path / "field.tif"), name="field")
        (outcome,) = flow_of(brightness(sides=(SIDE, SIDE)), tmp_path).outcomes([source])
        with Image.open(tmp_path / "field.png") as mask:
            assert mask.size == (1388, 1040)
        assert (outcome.row.width, outcome.row.height) == (1388, 1040)


class TestOverlap:
    @settings(max_examples=10, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
    def test_images_at_once_do_not_grow_with_their_number(
        self,
        brightness: Fake,
        tmp_path_factory: pytest.TempPathFactory,
        count: int,
        batch: int,
        streams: int,
        workers: int,
    ) -> None:
        root = tmp_path_factory.mktemp("many")
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(root / "image.tif")
        source = ImageSource(path=str(root / "image.tif"), name="image")
        runtime = brightness(sides=(SIDE, SIDE), batch=batch, streams=streams)
        flow = flow_of(runtime, root, workers=workers)
        taken = 0

        def lazily() -> Iterator[ImageSource]:
            nonlocal taken
            for _ in range(count):
                taken += 1
                yield source

        for done, _ in enumerate(flow.outcomes(lazily())):
            assert taken - done <= flow.bound
        assert (taken, len(flow.written_at)) == (count, count)
        assert 1 <= flow.most_at_once <= flow.bound
        assert flow.bound == 4 * max(workers, batch) + (2 * streams + 1) * batch

    def test_later_images_are_decoded_while_the_model_works(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path
    ) -> None:
        decoded = threading.Semaphore(0)

        class Slow(brightness):  # type: ignore[misc, valid-type]  # a fixture gives the class
            def infer(self, feeds: Feeds) -> Results:
                for _ in range(3):  # the image asked about, and two later ones
                    assert decoded.acquire(timeout=20), "nothing is decoded during inference"
                    decoded.release()
                found: Results = super().infer(feeds)
                return found

        class Noted(Preprocess):
            def normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
                decoded.release()
                return super().normalise(image)

        job = job_of(Settings(), Noted(size=(SIDE, SIDE)))
        flow = flow_of(Slow(sides=(SIDE, SIDE)), tmp_path, job=job)
        assert len(list(flow.outcomes(sources))) == 7

    def test_masks_are_written_while_the_model_works(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path
    ) -> None:
        class Slow(brightness):  # type: ignore[misc, valid-type]  # a fixture gives the class
            asked = 0

            def infer(self, feeds: Feeds) -> Results:
                self.asked += 1
                if self.asked == 7:  # the last image waits for a mask of an earlier one
                    waiting = threading.Event()
                    while not any(tmp_path.glob("*.png")):
                        assert not waiting.wait(0.01)
                found: Results = super().infer(feeds)
                return found

        assert len(list(flow_of(Slow(sides=(SIDE, SIDE)), tmp_path).outcomes(sources))) == 7


class TestBadImages:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_one_that_cannot_be_read_is_an_outcome_and_the_rest_is_done(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path, batch: int
    ) -> None:
        (tmp_path / "broken.png").write_bytes(Path(sources[0].path).read_bytes()[:60])
        deep = np.zeros((4, 4), np.uint16)
        Image.fromarray(deep).save(tmp_path / "deep.png")
        bad = [
            ImageSource(path=str(tmp_path / name), name=f"bad {name}")
            for name in ("broken.png", "absent.png", "deep.png")
        ]
        output = tmp_path / "masks"
        output.mkdir()
        runtime = brightness(sides=(SIDE, SIDE), batch=batch, streams=2)
        mixed = [bad[0], *sources[:4], *bad[1:], *sources[4:]]
        rows = [outcome.row for outcome in flow_of(runtime, output).outcomes(mixed)]
        assert [row.image for row in rows] == [source.path for source in mixed]
        lost = {row.name: row.error for row in rows if row.status is Status.UNREADABLE}
        assert set(lost) == {source.name for source in bad}
        assert "broken.png cannot be read" in str(lost["bad broken.png"])
        assert "absent.png does not exist" in str(lost["bad absent.png"])
        assert "16 bits a channel" in str(lost["bad deep.png"])
        assert set(files_of(output)) == {f"{source.name}.png" for source in sources}

    @pytest.mark.parametrize(("batch", "streams"), [(1, 1), (1, 3), (3, 2)])
    def test_the_runtime_s_failures_cost_the_images_it_fails_on(
        self, brightness: Fake, sources: list[ImageSource], tmp_path: Path, batch: int, streams: int
    ) -> None:
        lost = {sources[2].name, sources[6].name}
        glaring = np.full((3, SIDE, SIDE), 3, np.float32)

        class Failing(brightness):  # type: ignore[misc, valid-type]  # a fixture gives the class
            def infer(self, feeds: Feeds) -> Results:
                if (feeds["image"] > 2).any():
                    raise RunError("out of memory")
                found: Results = super().infer(feeds)
                return found

        class Noted(Job):
            def read(self, source: ImageSource) -> Prepared | Outcome:
                item = super().read(source)
                if isinstance(item, Prepared) and source.name in lost:
                    return replace(item, pieces=(glaring,))
                return item

        job = Noted(preprocess=CONTRACT, interface=Interface.TENSOR, settings=Settings())
        runtime = Failing(sides=(SIDE, SIDE), batch=batch, streams=streams)
        rows = [outcome.row for outcome in flow_of(runtime, tmp_path, job=job).outcomes(sources)]
        assert [row.name for row in rows] == [source.name for source in sources]
        assert {row.name for row in rows if row.status is Status.FAILED} == lost
        assert {row.error for row in rows if row.status is Status.FAILED} == {"out of memory"}
        assert set(files_of(tmp_path)) == {f"{s.name}.png" for s in sources if s.name not in lost}

    def test_more_objects_than_16_bits_can_number_are_that_image_s_failure(
        self, brightness: Fake, tmp_path: Path
    ) -> None:
        dots = np.zeros((1024, 512, 3), np.uint8)
        dots[::2, ::2] = 255
        Image.fromarray(dots).save(tmp_path / "dots.tif")
        job = job_of(Settings(fit=Fit.PAD, writes=(Write.MASK, Write.LABELS)))
        source = ImageSource(path=str(tmp_path / "dots.tif"), name="dots")
        found = predict_image(source, job, brightness(sides=ANY_SIZE))
        assert found.row.status is Status.FAILED
        assert "131072 objects" in str(found.row.error)
        assert not found.files
