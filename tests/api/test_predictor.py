"""segdeploy.Predictor: the same pixels as `segdeploy predict` writes, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tiny import nuclei, write_small_onnx

import segdeploy as sd
from segdeploy.deploy.runtimes.registry import RuntimeName

Pixels = NDArray[np.uint8]
KINDS = ("fp32", "fp16", "int8 ort-x86")


@pytest.fixture
def image() -> Pixels:
    """RGB, neither square nor of the model's size."""
    return nuclei(np.random.default_rng(23), height=57, width=90)[0]


@pytest.fixture
def files(tiny_models: dict[str, Path], tiny_unet_checkpoint: Path) -> dict[str, Path]:
    """Model files and a checkpoint."""
    return tiny_models | {"checkpoint": tiny_unet_checkpoint}


@pytest.mark.parametrize("kind", [*KINDS, "checkpoint"])
@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_a_mask_is_the_file_that_predict_writes(
    files: dict[str, Path], kind: str, fit: str, image: Pixels, tmp_path: Path
):
    Image.fromarray(image).save(tmp_path / "cells.png")
    writes = ("mask", "probability-npy")
    done = sd.predict(
        files[kind], tmp_path / "cells.png", tmp_path / "out", fit=fit, write=writes, threads=1
    )
    assert done.images == done.done_now == 1
    with sd.Predictor(files[kind], fit=fit, threads=1) as predictor:
        mask, probability = predictor(image), predictor.probability(image)
    assert mask.dtype == np.uint8
    assert mask.shape == image.shape[:2]
    assert np.array_equal(mask, np.asarray(Image.open(tmp_path / "out" / "cells.png")))
    assert np.array_equal(probability, np.load(tmp_path / "out" / "probability" / "cells.npy"))
    assert np.array_equal(mask, np.where(probability >= 0.5, 255, 0))


def test_a_model_is_given_by_path_value_or_recommendation(files: dict[str, Path], image: Pixels):
    loaded = sd.load(files["fp32"])
    recommended = sd.Recommended(
        artifact=loaded, runtime=RuntimeName.ONNXRUNTIME, reason="the fastest"
    )
    given = (files["fp32"], str(files["fp32"]), loaded, recommended)
    masks = [sd.Predictor(each, threads=1)(image) for each in given]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


def test_a_loaded_checkpoint_is_used_as_it_is(tiny_unet_checkpoint: Path, image: Pixels):
    net = sd.load(tiny_unet_checkpoint, head=1)
    mask = sd.Predictor(net, threads=1)(image)
    tiny_unet_checkpoint.unlink()  # not read again
    assert np.array_equal(mask, sd.Predictor(net, threads=1)(image))


def test_it_says_what_it_is(files: dict[str, Path]):
    with sd.Predictor(files["fp32"], threads=1) as predictor:
        assert repr(predictor) == "<Predictor net.fp32.onnx on onnxruntime, resize to 32x32>"


def test_after_the_end_it_refuses(files: dict[str, Path], image: Pixels):
    with sd.Predictor(files["fp32"], threads=1) as predictor:
        predictor(image)
    predictor.close()
    with pytest.raises(sd.UsageError, match="was closed"):
        predictor(image)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda image: image.astype(np.float32) / 255, r"is float32 .* uint8 RGB \(H, W, 3\)"),
        (lambda image: image[..., 0], "repeat the grey values"),
        (lambda image: np.dstack([image, image[..., :1]]), "no alpha"),
        (lambda image: image[None], "one image"),
        (lambda image: image[:0], "at least one pixel"),
        (lambda image: image.tolist(), "is a list; expected a NumPy array"),
    ],
)
def test_what_is_no_image_is_refused(
    files: dict[str, Path], image: Pixels, change: Callable[[Pixels], Pixels], said: str
):
    predictor = sd.Predictor(files["fp32"], threads=1)
    with pytest.raises(sd.InputError, match=said) as refused:
        predictor(change(image))
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    ("kind", "options", "error", "said"),
    [
        ("fp32", {"runtime": "pytorch"}, sd.UsageError, "runs checkpoints"),
        ("fp32", {"runtime": "onnxruntme"}, sd.UsageError, "did you mean 'onnxruntime'"),
        ("fp32", {"fit": "pad"}, sd.InputError, "takes 32x32 pixels only"),
        ("fp32", {"fit": "crop"}, sd.UsageError, "choose from resize, pad, tile"),
        ("checkpoint", {"runtime": "onnxruntime"}, sd.UsageError, "runs ONNX files"),
        ("fp32", {"precision": "fp16"}, sd.UsageError, "fp32 or bf16"),
    ],
)
def test_what_a_model_cannot_do_is_refused_at_once(
    files: dict[str, Path],
    kind: str,
    options: dict[str, str],
    error: type[sd.SegdeployError],
    said: str,
):
    with pytest.raises(error, match=said):
        sd.Predictor(files[kind], **options)


def test_a_model_of_masks_gives_no_probability(
    files: dict[str, Path], image: Pixels, tmp_path: Path
):
    whole = sd.rewrite(files["fp32"], rewrites=["image-interface"], out=tmp_path / "net.mask.onnx")
    predictor, image = sd.Predictor(whole, threads=1), image[:32, :32]
    assert np.array_equal(predictor(image), sd.Predictor(files["fp32"], threads=1)(image))
    with pytest.raises(sd.InputError, match="gives masks, no probability"):
        predictor.probability(image)


def test_images_are_as_the_models_input_contract_says(tmp_path: Path):
    contract = sd.Preprocess(
        size=(32, 32), channel_order="GREY", mean=(0.5,), std=(0.5,), source_bits=16
    )
    model = write_small_onnx(tmp_path / "grey.onnx", contract)
    grey = np.random.default_rng(3).integers(0, 65536, (40, 30, 1)).astype(np.uint16)
    with sd.Predictor(model, threads=1) as predictor:
        assert predictor(grey).shape == (40, 30)
        with pytest.raises(sd.InputError, match=r"expected uint16 GREY \(H, W, 1\): scale it to 0"):
            predictor(np.zeros((4, 4, 1), np.uint8))
    Image.fromarray(grey[..., 0]).save(tmp_path / "cells.png")
    sd.predict(model, tmp_path / "cells.png", tmp_path / "out", write=("mask", "overlay"))
    with sd.Predictor(model, threads=1) as predictor:
        written = np.asarray(Image.open(tmp_path / "out" / "cells.png"))
        assert np.array_equal(predictor(grey), written)


def test_what_a_contract_crops_away_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    contract = sd.Preprocess(size=(32, 32), aspect="shorter")
    model = write_small_onnx(tmp_path / "cropping.onnx", contract)
    Image.fromarray(np.full((40, 90, 3), 90, np.uint8)).save(tmp_path / "cells.png")
    sd.predict(model, tmp_path / "cells.png", tmp_path / "out")
    assert "crops images (32x32 BGR, bilinear, shorter side, cropped, centre" in caplog.text
    caplog.clear()
    sd.predict(model, tmp_path / "cells.png", tmp_path / "tiled", fit="tile")
    assert "crops images" not in caplog.text


def test_levels_and_pages_of_microscopes_files(files: dict[str, Path], tmp_path: Path):
    pages = np.random.default_rng(3).integers(0, 4096, (2, 40, 30)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", pages, photometric="minisblack")
    summary = sd.predict(files["fp32"], tmp_path / "cells.tif", tmp_path / "none")
    assert summary.unreadable == 1
    done = sd.predict(
        files["fp32"], tmp_path / "cells.tif", tmp_path / "out", levels=(0, 4095), page=1
    )
    assert done.done_now == 1
    eight = np.rint(pages[1] * (255 / 4095)).astype(np.uint8)[..., None].repeat(3, axis=2)
    with sd.Predictor(files["fp32"], threads=1) as predictor:
        expected = predictor(eight)
    found = np.asarray(Image.open(tmp_path / "out" / "cells.png"))
    assert (found != expected).mean() < 0.01  # of levels that are not rounded first
