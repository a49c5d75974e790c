"""Image files in, mask files out: the right masks, overlapped, and few images at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmarks.end_to_end import Pipeline, mask_of
from benchmarks.end_to_end_run import image_files, require_apart
from benchmarks.end_to_end_worker import MIN_IMAGES, EndToEnd, measure, rates_alone
from deploy import bundled
from deploy.artifact import Precision, TensorSpec
from deploy.data import read_image
from deploy.errors import InputError, RunError, UsageError
from deploy.preprocess import Preprocess
from deploy.runtimes.base import Executed, Execution, Feeds, Results, infer_threaded

SIDE = 16
CONTRACT = Preprocess(size=(SIDE, SIDE))
WritePng = Callable[[Path, NDArray[np.generic]], Path]


class Brightness:
    """A model whose probability is the brightness of the input: masks can be checked by hand."""

    name = "brightness"
    executed = Executed(layers=(), requested=Precision.FP32)
    inputs: tuple[TensorSpec, ...] = (
        TensorSpec(name="image", shape=("batch", 3, SIDE, SIDE), dtype="float32"),
    )
    outputs: tuple[TensorSpec, ...] = (
        TensorSpec(name="probability", shape=("batch", 1, SIDE, SIDE), dtype="float32"),
    )

    def __init__(self, *, batch: int = 1, streams: int = 1) -> None:
        self.execution = Execution(threads=streams, batch=batch, streams=streams)

    def infer(self, feeds: Feeds) -> Results:
        assert feeds["image"].shape == (self.execution.batch, 3, SIDE, SIDE)
        return {"probability": feeds["image"].mean(axis=1, keepdims=True) / 2 + 0.5}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        return infer_threaded(self.infer, batches, streams=self.execution.streams)

    def __enter__(self) -> Brightness:
        return self

    def __exit__(self, *error: object) -> None: ...


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


def pipeline(
    runtime: Brightness, output: Path, *, workers: int = 2, contract: Preprocess = CONTRACT
) -> Pipeline:
    return Pipeline(runtime, preprocess=contract, output=output, workers=workers)


class TestMask:
    @settings(max_examples=40)
    @given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
    def test_an_output_of_the_image_s_size_is_only_cut(self, h: int, w: int, seed: int) -> None:
        probability = np.random.default_rng(seed).random((h, w), np.float32)
        assert np.array_equal(mask_of(probability, (h, w)) == 255, probability >= 0.5)

    @settings(max_examples=40)
    @given(st.integers(9, 40), st.integers(9, 40), st.integers(0, 99))
    def test_enlarging_is_bilinear_with_half_pixel_centres(
        self, height: int, width: int, seed: int
    ) -> None:
        probability = np.random.default_rng(seed).random((9, 8), np.float32)
        rows = (np.arange(height) + 0.5) * 9 / height - 0.5
        columns = (np.arange(width) + 0.5) * 8 / width - 0.5
        across = np.stack([np.interp(columns, np.arange(8), row) for row in probability])
        expected = np.stack([np.interp(rows, np.arange(9), column) for column in across.T]).T
        mask = mask_of(probability, (height, width))
        assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
        certain = np.abs(expected - 0.5) > 1e-4
        assert np.array_equal((mask == 255)[certain], (expected >= 0.5)[certain])

    @pytest.mark.parametrize(("value", "shown"), [(0.5, 255), (0.499, 0)])
    @pytest.mark.parametrize("size", [(3, 2), (40, 50)])
    def test_a_constant_stays_constant(
        self, value: float, shown: int, size: tuple[int, int]
    ) -> None:
        assert (mask_of(np.full((8, 8), value, np.float32), size) == shown).all()


class TestPipeline:
    @pytest.mark.parametrize(("batch", "streams", "workers"), [(1, 1, 1), (1, 3, 2), (3, 2, 4)])
    def test_every_image_gets_its_mask_in_order_and_at_its_size(
        self, folder: Path, tmp_path: Path, batch: int, streams: int, workers: int
    ) -> None:
        runtime = Brightness(batch=batch, streams=streams)
        paths = image_files(folder)
        made = list(pipeline(runtime, tmp_path, workers=workers).masks(paths))
        assert made == [tmp_path / f"{path.stem}.png" for path in paths]
        assert sorted(tmp_path.iterdir()) == sorted(made), "nothing half written stays"
        one = Brightness()
        for path, mask in zip(paths, made, strict=True):
            image = read_image(path, "RGB")
            probability = one.infer({"image": CONTRACT.apply(image)[None]})["probability"][0, 0]
            with Image.open(mask) as opened:
                assert (opened.format, opened.mode) == ("PNG", "L")
                found = np.asarray(opened)
            assert np.array_equal(found, mask_of(probability, image.shape[:2]))
            bright = image[..., 0] > 0
            assert ((found == 255) == bright).mean() > 0.9

    @settings(max_examples=10, deadline=None)
    @given(st.integers(1, 60), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
    def test_images_at_once_do_not_grow_with_their_number(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        count: int,
        batch: int,
        streams: int,
        workers: int,
    ) -> None:
        root = tmp_path_factory.mktemp("many")
        image = root / "image.png"
        Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(image)
        flow = pipeline(Brightness(batch=batch, streams=streams), root, workers=workers)
        taken = 0

        def lazily() -> Iterator[Path]:
            nonlocal taken
            for _ in range(count):
                taken += 1
                yield image

        for done, _ in enumerate(flow.masks(lazily())):
            assert taken - done <= flow.bound
        assert (taken, len(flow.written_at)) == (count, count)
        assert 1 <= flow.most_at_once <= flow.bound
        assert flow.bound == 4 * max(workers, batch) + (2 * streams + 1) * batch

    def test_later_images_are_decoded_while_the_model_works(
        self, folder: Path, tmp_path: Path
    ) -> None:
        decoded = threading.Semaphore(0)

        class Slow(Brightness):
            def infer(self, feeds: Feeds) -> Results:
                for _ in range(3):  # the image asked about, and two later ones
                    assert decoded.acquire(timeout=20), "nothing is decoded during inference"
                    decoded.release()
                return super().infer(feeds)

        class Noted(Preprocess):
            def apply(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
                decoded.release()
                return super().apply(image)

        flow = pipeline(Slow(), tmp_path, contract=Noted(size=(SIDE, SIDE)))
        assert len(list(flow.masks(image_files(folder)))) == 7

    def test_masks_are_written_while_the_model_works(self, folder: Path, tmp_path: Path) -> None:
        class Slow(Brightness):
            asked = 0

            def infer(self, feeds: Feeds) -> Results:
                self.asked += 1
                if self.asked == 7:  # the last image waits for a mask of an earlier one
                    waiting = threading.Event()
                    while not any(tmp_path.glob("*.png")):
                        assert not waiting.wait(0.01)
                return super().infer(feeds)

        assert len(list(pipeline(Slow(), tmp_path).masks(image_files(folder)))) == 7

    def test_a_broken_image_is_named_and_leaves_nothing_half_written(
        self, folder: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken.png"
        broken.write_bytes((folder / "cells 0.png").read_bytes()[:60])
        paths = [*image_files(folder), broken]
        output = tmp_path / "masks"
        output.mkdir()
        with pytest.raises(InputError, match=r"broken\.png cannot be read"):
            list(pipeline(Brightness(), output).masks(paths))
        assert not list(output.glob("*.partial"))

    def test_a_model_with_other_outputs_is_refused(self, tmp_path: Path) -> None:
        runtime = Brightness()
        runtime.outputs = (runtime.outputs[0], runtime.outputs[0])
        with pytest.raises(InputError, match="expected one image and one probability"):
            pipeline(runtime, tmp_path)


class TestMeasure:
    def test_images_are_taken_again_until_there_are_enough(
        self, folder: Path, tmp_path: Path
    ) -> None:
        shares: list[float] = []
        flow = pipeline(Brightness(batch=2, streams=2), tmp_path)
        measured = measure(
            flow, image_files(folder), warmup=4, duration_s=0.05, progress=shares.append
        )
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

    def test_a_large_folder_is_taken_once(self, folder: Path, tmp_path: Path) -> None:
        paths = image_files(folder) * 5
        measured = measure(
            pipeline(Brightness(), tmp_path),
            paths,
            warmup=1,
            duration_s=0.0,
            progress=lambda share: None,
        )
        assert len(measured.written_s) == len(paths)

    def test_what_was_measured_alone_is_not_counted(self, folder: Path, tmp_path: Path) -> None:
        flow = pipeline(Brightness(), tmp_path)
        assert all(rate > 0 for rate in rates_alone(flow, image_files(folder), seconds=0).values())
        assert flow.written_at
        flow.start_over()
        assert (flow.written_at, flow.most_at_once, flow.encode_processor_s) == ([], 0, 0.0)

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


def tiled(root: Path, count: int) -> Path:
    """Real sample images repeated to 1388x1040 (width x height), the size of many microscopes."""
    sources = sorted((bundled.sample() / "images").glob("*.png"))
    for index in range(count):
        pixels = read_image(sources[index % len(sources)], "RGB")
        times = (-(-1040 // pixels.shape[0]), -(-1388 // pixels.shape[1]), 1)
        Image.fromarray(np.tile(pixels, times)[:1040, :1388]).save(root / f"field_{index:03d}.png")
    return root


def test_a_field_of_a_microscope_gives_a_mask_of_its_size(tmp_path: Path) -> None:
    fields = tmp_path / "fields"
    fields.mkdir()
    output = tmp_path / "masks"
    output.mkdir()
    flow = pipeline(Brightness(streams=2), output)
    made = list(flow.masks(image_files(tiled(fields, 3))))
    assert [Image.open(path).size for path in made] == [(1388, 1040)] * 3
