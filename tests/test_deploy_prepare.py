from __future__ import annotations

import csv
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from deploy.data import SPLITS, open_set, read_splits
from deploy.errors import InputError, UsageError
from deploy.prepare import DEFAULT_RATIOS, modality_of, prepare_raw, stratified_split

Ratios = tuple[float, float, float]
WritePng = Callable[[Path, NDArray[np.generic]], Path]

STRATA = st.dictionaries(st.text(max_size=6), st.sampled_from("xyz"), max_size=60)
RATIOS = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20)).map(
    lambda parts: (
        parts[0] / sum(parts),
        parts[1] / sum(parts),
        parts[2] / sum(parts),
    )
)


# --- the split ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(STRATA, st.integers(0, 2**32), RATIOS)
def test_each_name_has_one_split_and_each_stratum_the_ratios(
    strata: dict[str, str], seed: int, ratios: Ratios
) -> None:
    splits = stratified_split(strata, seed=seed, ratios=ratios)
    assert splits.keys() == strata.keys()
    assert set(splits.values()) <= set(SPLITS)
    for stratum in set(strata.values()):
        names = [name for name in strata if strata[name] == stratum]
        counts = Counter(splits[name] for name in names)
        for split, ratio in zip(SPLITS, ratios, strict=True):
            assert abs(counts[split] - ratio * len(names)) <= 1 + 1e-6
            if ratio == 0:
                assert counts[split] == 0


@settings(max_examples=40, deadline=None)
@given(STRATA, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_the_order(
    strata: dict[str, str], seed: int, generator: random.Random
) -> None:
    items = list(strata.items())
    generator.shuffle(items)
    assert stratified_split(dict(items), seed=seed) == stratified_split(strata, seed=seed)


def test_counts_of_a_worked_example() -> None:
    strata = {f"f{i}": "fluorescence" for i in range(20)} | {f"c{i}": "colour" for i in range(10)}
    splits = stratified_split(strata, seed=0)
    assert Counter((name[0], split) for name, split in splits.items()) == {
        ("f", "train"): 14,
        ("f", "val"): 2,
        ("f", "test"): 4,
        ("c", "train"): 7,
        ("c", "val"): 1,
        ("c", "test"): 2,
    }
    others = [stratified_split(strata, seed=seed) for seed in range(1, 5)]
    assert any(other != splits for other in others), "the seed must matter"


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


def test_progress_sees_every_folder(raw_set: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def note(folders: Iterable[Path]) -> Iterator[Path]:
        for folder in folders:
            seen.append(folder.name)
            yield folder

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


def refused(raw: Path, output: Path, *named: object) -> str:
    """The message; the file is named, and an earlier splits.csv does not outlive the failure."""
    output.mkdir()
    (output / "splits.csv").write_text("image_id,split\nold,train\n")
    with pytest.raises(InputError) as caught:
        prepare_raw(raw, output)
    assert caught.value.exit_code == 3
    assert not (output / "splits.csv").exists()
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


@pytest.mark.parametrize("remove_folder", [False, True])
def test_an_image_without_masks(raw_set: Path, tmp_path: Path, remove_folder: bool) -> None:
    folder = case(raw_set, 3) / "masks"
    for path in folder.iterdir():
        path.unlink()
    if remove_folder:
        folder.rmdir()
    message = refused(raw_set, tmp_path / "set", case(raw_set, 3) / "images" / "case3.png", folder)
    assert "has no masks" in message


@pytest.mark.parametrize("remove_folder", [False, True])
def test_masks_without_an_image(raw_set: Path, tmp_path: Path, remove_folder: bool) -> None:
    folder = case(raw_set, 3) / "images"
    (folder / "case3.png").unlink()
    if remove_folder:
        folder.rmdir()
    assert "holds 0 PNG files" in refused(raw_set, tmp_path / "set", folder)


def test_two_images_in_one_folder(raw_set: Path, tmp_path: Path, write_png: WritePng) -> None:
    folder = case(raw_set, 0) / "images"
    write_png(folder / "second.png", np.zeros((4, 4, 3), np.uint8))
    assert "holds 2 PNG files; expected one" in refused(raw_set, tmp_path / "set", folder)


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


def test_default_ratios_are_shares() -> None:
    assert sum(DEFAULT_RATIOS) == pytest.approx(1)
