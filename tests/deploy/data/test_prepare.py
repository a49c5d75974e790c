from __future__ import annotations

import csv
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_set import SPLITS, open_set, read_splits
from segdeploy.deploy.data.layouts.base import RawSample
from segdeploy.deploy.data.layouts.division import Ratios
from segdeploy.deploy.data.layouts.dsb2018 import modality_of
from segdeploy.deploy.data.prepare import prepare_raw
from segdeploy.deploy.system.errors import InputError, UsageError

WritePng = Callable[[Path, NDArray[np.generic]], Path]


# --- the folder --------------------------------------------------------------------------------


def test_raw_folder_becomes_a_set_that_opens(raw_set: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "set"
    rows = prepare_raw(raw_set, output, seed=1, ratios=(0.5, 0.25, 0.25))
    assert [row.image_id for row in rows] == [f"case{i}" for i in range(8)]
    assert Counter((row.modality, row.split) for row in rows) == {
        ("fluorescence", "train"): 3,
        ("fluorescence", "val"): 1,  # up to round(6 * 0.75) = 4, ties to even
        ("fluorescence", "test"): 2,
        ("colour", "train"): 1,
        ("colour", "val"): 1,  # up to round(2 * 0.75) = 2
    }
    assert read_splits(output / "splits.csv") == {row.image_id: row.split for row in rows}
    for split in SPLITS:
        names = [row.image_id for row in rows if row.split == split]
        assert [sample.name for sample in open_set(output, split)] == names
    assert sorted(p.name for p in output.iterdir()) == ["images", "masks", "splits.csv"]


def test_images_lose_their_alpha_and_masks_are_merged_by_or(raw_set: Path, tmp_path: Path) -> None:
    rows = prepare_raw(raw_set, tmp_path / "set")
    samples = {sample.name: sample for sample in open_set(tmp_path / "set", None)}
    for row in rows:
        folder = raw_set / "stage1_train" / row.image_id
        rgba = np.asarray(Image.open(folder / "images" / f"{row.image_id}.png"))
        nuclei = [np.asarray(Image.open(path)) for path in (folder / "masks").iterdir()]
        with Image.open(samples[row.image_id].image_path) as written:
            assert written.mode == "RGB"
        assert np.array_equal(samples[row.image_id].image(), rgba[..., :3])
        union = np.any(nuclei, axis=0)
        assert np.array_equal(samples[row.image_id].mask(), np.where(union, 255, 0))
        assert (row.height, row.width) == union.shape
        assert row.nuclei == len(nuclei)


def test_a_transparent_pixel_keeps_its_colour_and_any_mask_value_counts(
    tmp_path: Path, write_png: WritePng
) -> None:
    rgba = np.full((4, 6, 4), (90, 100, 110, 0), np.uint8)
    write_png(tmp_path / "raw" / "a" / "images" / "a.png", rgba)
    first, second = np.zeros((2, 4, 6), np.uint8)
    first[0], second[:, 0] = 255, 1
    write_png(tmp_path / "raw" / "a" / "masks" / "1.png", first)
    write_png(tmp_path / "raw" / "a" / "masks" / "2.png", second)
    prepare_raw(tmp_path / "raw", tmp_path / "set")
    (sample,) = open_set(tmp_path / "set", None)
    assert (sample.image() == (90, 100, 110)).all()
    expected = np.zeros((4, 6), np.uint8)
    expected[0], expected[:, 0] = 255, 255
    assert np.array_equal(sample.mask(), expected)


def test_the_folder_itself_or_its_parent_and_the_same_bytes_each_time(
    raw_set: Path, tmp_path: Path
) -> None:
    sources = {"a": raw_set, "b": raw_set / "stage1_train", "c": raw_set}
    contents = []
    for name, raw in sources.items():
        prepare_raw(raw, tmp_path / name, seed=4)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        contents.append([(p.relative_to(tmp_path / name), p.read_bytes()) for p in files])
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == 17


def test_splits_file_has_a_row_for_each_image(raw_set: Path, tmp_path: Path) -> None:
    rows = prepare_raw(raw_set, tmp_path / "set")
    with (tmp_path / "set" / "splits.csv").open(newline="", encoding="utf-8") as stream:
        listed = list(csv.DictReader(stream))
    assert list(listed[0]) == ["image_id", "split", "width", "height", "nuclei", "modality"]
    assert listed == [{key: str(value) for key, value in vars(row).items()} for row in rows]


def test_progress_sees_every_image_and_each_is_written_before_the_next_is_read(
    raw_set: Path, tmp_path: Path
) -> None:
    seen: list[str] = []

    def note(sources: Iterable[RawSample]) -> Iterator[RawSample]:
        for source in sources:
            for folder in ("images", "masks"):
                written = sorted(path.name for path in (tmp_path / "set" / folder).iterdir())
                assert written == [f"{name}.png" for name in seen]
            assert not (tmp_path / "set" / "splits.csv").exists()
            seen.append(source.name)
            yield source

    prepare_raw(raw_set, tmp_path / "set", progress=note)
    assert seen == [f"case{i}" for i in range(8)]


@pytest.mark.parametrize(
    ("pixel", "modality"),
    [
        ((20, 20, 20), "fluorescence"),
        ((200, 200, 200), "bright"),
        ((200, 120, 180), "colour"),
        ((30, 25, 35), "fluorescence"),  # spread 10 / 255 = 0.039
        ((30, 24, 35), "colour"),  # spread 11 / 255 = 0.043
    ],
)
def test_modality_of_flat_images(pixel: tuple[int, int, int], modality: str) -> None:
    assert modality_of(np.full((5, 5, 3), pixel, np.uint8)) == modality


# --- errors ------------------------------------------------------------------------------------


def refused(raw: Path, output: Path, *named: object, touched: bool = True) -> str:
    """The message; the file is named, and an earlier splits.csv does not outlive new images."""
    output.mkdir()
    (output / "splits.csv").write_text("image_id,split\nold,train\n")
    with pytest.raises(InputError) as caught:
        prepare_raw(raw, output)
    assert caught.value.exit_code == 3
    assert (output / "splits.csv").exists() is not touched
    assert touched or [path.name for path in output.iterdir()] == ["splits.csv"]
    assert not list(output.rglob("*.partial"))
    for name in named:
        assert str(name) in str(caught.value)
    return str(caught.value)


def case(raw_set: Path, index: int) -> Path:
    return raw_set / "stage1_train" / f"case{index}"


def test_a_mask_of_another_size(raw_set: Path, tmp_path: Path, write_png: WritePng) -> None:
    path = write_png(case(raw_set, 5) / "masks" / "odd.png", np.zeros((40, 47), np.uint8))
    message = refused(raw_set, tmp_path / "set", path)
    assert "47x40" in message
    assert "48x40" in message


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_an_unreadable_file(raw_set: Path, tmp_path: Path, kind: str) -> None:
    path = sorted((case(raw_set, 7) / kind).iterdir())[-1]
    path.write_bytes(path.read_bytes()[:60])
    assert "cannot be read" in refused(raw_set, tmp_path / "set", path)


def emptied(folder: Path) -> Path:
    for path in folder.iterdir():
        path.unlink()
    return folder


def test_an_image_whose_folder_of_masks_is_missing(raw_set: Path, tmp_path: Path) -> None:
    folder = emptied(case(raw_set, 3) / "masks")
    folder.rmdir()
    image = case(raw_set, 3) / "images" / "case3.png"
    message = refused(raw_set, tmp_path / "set", image, folder, touched=False)
    assert "has no masks" in message
    assert "ImageId,EncodedPixels" in message


def test_an_empty_folder_of_masks_is_an_image_without_objects(
    raw_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    emptied(case(raw_set, 3) / "masks")
    with caplog.at_level(logging.INFO):
        rows = prepare_raw(raw_set, tmp_path / "set")
    assert [row.nuclei for row in rows if row.image_id == "case3"] == [0]
    samples = {sample.name: sample for sample in open_set(tmp_path / "set", None)}
    assert not samples["case3"].mask().any()
    assert "1 images hold no object: their masks are empty" in caplog.text


@pytest.mark.parametrize("remove_folder", [False, True])
def test_masks_without_an_image(raw_set: Path, tmp_path: Path, remove_folder: bool) -> None:
    folder = case(raw_set, 3) / "images"
    (folder / "case3.png").unlink()
    if remove_folder:
        folder.rmdir()
    assert "holds 0 images" in refused(raw_set, tmp_path / "set", folder, touched=False)


def test_two_images_in_one_folder(raw_set: Path, tmp_path: Path, write_png: WritePng) -> None:
    folder = case(raw_set, 0) / "images"
    write_png(folder / "second.png", np.zeros((4, 4, 3), np.uint8))
    message = refused(raw_set, tmp_path / "set", folder, touched=False)
    assert "holds 2 images; expected one" in message


@pytest.mark.parametrize("exists", [False, True])
def test_not_the_raw_layout_leaves_the_output_alone(tmp_path: Path, exists: bool) -> None:
    raw, output = tmp_path / "raw", tmp_path / "set"
    if exists:
        (raw / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="stage-1") as caught:
        prepare_raw(raw, output)
    assert str(raw) in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize(
    "ratios", [(0.5, 0.5, 0.5), (-0.1, 0.6, 0.5), (math.nan, 0.5, 0.5), (0.0, 0.0, 0.0), (0.5, 0.5)]
)
def test_ratios_that_are_no_shares(raw_set: Path, tmp_path: Path, ratios: Ratios) -> None:
    with pytest.raises(UsageError, match="sum to 1") as caught:
        prepare_raw(raw_set, tmp_path / "set", ratios=ratios)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "set").exists()


# --- the output folder -------------------------------------------------------------------------


def test_prepared_again_into_the_same_folder(raw_set: Path, tmp_path: Path) -> None:
    first = prepare_raw(raw_set, tmp_path / "set", seed=1)
    (tmp_path / "set" / "images" / ".DS_Store").write_bytes(b"\0")
    assert prepare_raw(raw_set, tmp_path / "set", seed=1) == first


@pytest.mark.parametrize("other", ["images/old.png", "images/case0.jpg", "fov/case0.png"])
def test_an_output_with_other_images_is_left_alone(
    raw_set: Path, tmp_path: Path, write_png: WritePng, other: str
) -> None:
    path = write_png(tmp_path / "set" / other, np.zeros((4, 4), np.uint8))
    (tmp_path / "set" / "splits.csv").write_text("image_id,split\nold,train\n")
    with pytest.raises(UsageError, match="choose another") as caught:
        prepare_raw(raw_set, tmp_path / "set")
    assert str(path) in str(caught.value)
    assert sorted(p for p in (tmp_path / "set").rglob("*") if p.is_file()) == [
        path,
        tmp_path / "set" / "splits.csv",
    ]


def test_the_raw_folder_is_no_output(raw_set: Path, image_set: Path) -> None:
    for folder in (raw_set, image_set, image_set / "images" / ".."):
        files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with pytest.raises(UsageError, match="is the raw folder itself"):
            prepare_raw(folder, folder.resolve())
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


# --- equal images ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_equal_images_share_a_split_and_the_counts_stay(
    raw_set: Path, tmp_path: Path, write_png: WritePng, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    rgba = np.asarray(Image.open(case(raw_set, 1) / "images" / "case1.png")).copy()
    rgba[..., 3] = 128  # another file, the same colours
    write_png(case(raw_set, 4) / "images" / "case4.png", rgba)
    with caplog.at_level(logging.INFO):
        rows = prepare_raw(raw_set, tmp_path / "set", seed=seed, ratios=(0.5, 0.25, 0.25))
    splits = {row.image_id: row.split for row in rows}
    assert splits["case1"] == splits["case4"]
    grey = Counter(row.split for row in rows if row.modality == "fluorescence")
    assert grey == {"train": 3, "val": 1, "test": 2}
    assert "2 images have the pixels of another" in caplog.text


def test_equal_images_in_two_given_splits(image_set: Path, tmp_path: Path) -> None:
    first, last = (image_set / "images" / f"cells_{index}.png" for index in ("02", "09"))
    last.write_bytes(first.read_bytes())
    mask = image_set / "masks" / "cells_02.png"
    mask.with_name("cells_09.png").write_bytes(mask.read_bytes())
    message = refused(image_set, tmp_path / "set", f"{first} (train)", f"{last} (test)")
    assert "the very same pixels" in message


# --- which layout ------------------------------------------------------------------------------


def test_an_unknown_layout(raw_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'coco' is not one of auto, dsb2018, isic2018, split-"):
        prepare_raw(raw_set, tmp_path / "set", layout="coco")


@pytest.mark.parametrize("layout", ["drive", "isic2018", "split-folders"])
def test_a_folder_of_another_layout_than_asked(raw_set: Path, tmp_path: Path, layout: str) -> None:
    with pytest.raises(InputError, match="it looks like dsb2018"):
        prepare_raw(raw_set, tmp_path / "set", layout=layout)
    assert not (tmp_path / "set").exists()


def test_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    for name in "hgfedcba":
        (tmp_path / "raw" / name).mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        prepare_raw(tmp_path / "raw", tmp_path / "set")
    for text in (
        "holds no <id>/images/<id>.png folders",
        "(dsb2018)",
        "no ISIC2018_Task1-2_Training_Input/ with ISIC2018_Task1_Training_GroundTruth/ (isic2018)",
        "no train/, train_GT/, valid/, valid_GT/, test/ and test_GT/ (split-folders)",
        "no training/images/ with training/1st_manual/ (drive)",
        "It holds a, b, c, d, e, f and 2 more",
    ):
        assert text in str(caught.value)


def test_two_layouts_in_one_folder(raw_set: Path, tmp_path: Path) -> None:
    for name in ("train", "train_GT"):
        (raw_set / name).mkdir()
    with pytest.raises(InputError, match=r"\(dsb2018, split-folders\); say which with --layout"):
        prepare_raw(raw_set, tmp_path / "set")
    assert len(prepare_raw(raw_set, tmp_path / "set", layout="dsb2018")) == 8
