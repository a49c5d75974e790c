from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tiny import TINY

from segdeploy.deploy.data.image_set import (
    IMAGE_SUFFIXES,
    Sample,
    SegmentationSet,
    open_set,
    read_image,
    read_splits,
    require_disjoint,
)
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.system.errors import InputError

WritePng = Callable[[Path, NDArray[np.generic]], Path]
MakeImageSet = Callable[[Path, list[str]], Path]


def refused(action: Callable[[], object], *named: object) -> str:
    """The message of the input error; it must name each of ``named``."""
    with pytest.raises(InputError) as caught:
        action()
    assert caught.value.exit_code == 3
    for name in named:
        assert str(name) in str(caught.value)
    return str(caught.value)


def unread(count: int) -> SegmentationSet:
    """A set whose files are never opened."""
    samples = tuple(
        Sample(name=f"{i:03}", image_path=Path(f"{i}.png"), mask_path=Path(f"{i}.png"))
        for i in range(count)
    )
    return SegmentationSet(root=Path("somewhere"), split="train", samples=samples)


# --- a prepared folder -------------------------------------------------------------------------


def test_splits_partition_the_folder(image_set: Path) -> None:
    sizes = {split: len(open_set(image_set, split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 6, "val": 2, "test": 4}
    every = [sample.name for sample in open_set(image_set, None)]
    parts = [s.name for split in sizes for s in open_set(image_set, split)]
    assert every == sorted(parts)
    assert len(set(every)) == 12


def test_inputs_and_truths_are_the_contract_of_each_sample(image_set: Path) -> None:
    images = open_set(image_set, "test")
    inputs, truths = images.inputs(TINY), images.truths(TINY)
    assert inputs.shape == (4, 3, 32, 32)
    assert inputs.dtype == np.float32
    assert truths.shape == (4, 32, 32)
    assert truths.dtype == np.bool_
    for index, sample in enumerate(images):
        assert np.array_equal(inputs[index], TINY.apply(sample.image()))
        assert np.array_equal(truths[index], TINY.apply_mask(sample.mask()))
        bright = inputs[index].mean(axis=0)
        assert bright[truths[index]].mean() > bright[~truths[index]].mean() + 0.5


def test_pairs_are_made_by_name_not_by_position(tmp_path: Path, write_png: WritePng) -> None:
    values = {"a": 210, "b": 220, "c": 230}
    for name, value in values.items():
        write_png(tmp_path / "images" / f"{name}.png", np.full((4, 5, 3), value, np.uint8))
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, suffix in (("c", ".bmp"), ("b", ".TIF"), ("a", ".png")):
        Image.fromarray(np.full((4, 5), values[name] + 1, np.uint8)).save(folder / (name + suffix))
    write_png(folder / "aa.png", np.zeros((4, 5), np.uint8))  # the mask of no image
    (folder / "notes.txt").write_text("not an image")
    samples = list(open_set(tmp_path, None))
    assert [sample.name for sample in samples] == ["a", "b", "c"]
    for sample in samples:
        assert (sample.image() == values[sample.name]).all()
        assert (sample.mask() == values[sample.name] + 1).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_images_of_every_8_bit_mode_are_rgb(mode: str, tmp_path: Path) -> None:
    grey = np.kron([[0, 255], [255, 0]], np.ones((3, 4))).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", "RGB")
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(read_image(tmp_path / "x.png", "L"), grey)


# --- fields of view ----------------------------------------------------------------------------


def with_fields(image_set: Path, write_png: WritePng) -> Path:
    """A field of view for each image: all but the left part, grey levels below 125 outside."""
    for index, path in enumerate(sorted((image_set / "images").iterdir())):
        field = np.full(read_image(path, "L").shape, 255, np.uint8)
        field[:, : 8 + index] = 124 if index % 2 else 0
        write_png(image_set / "fov" / path.name, field)
    return image_set


def test_without_a_field_of_view_every_pixel_counts(image_set: Path) -> None:
    images = open_set(image_set, "test")
    assert images.fields(TINY) is None
    for sample in images:
        assert sample.field_path is None
        assert sample.field().dtype == np.bool_
        assert sample.field().shape == sample.mask().shape
        assert sample.field().all()


def test_fields_are_resized_as_masks_are(image_set: Path, write_png: WritePng) -> None:
    images = open_set(with_fields(image_set, write_png), "test")
    fields = images.fields(TINY)
    assert fields is not None
    assert fields.shape == (4, 32, 32)
    assert fields.dtype == np.bool_
    for index, sample in enumerate(images, start=8):
        assert sample.field_path == image_set / "fov" / f"{sample.name}.png"
        inside = sample.field()
        assert not inside[:, : 8 + index].any()
        assert inside[:, 8 + index :].all()
        assert np.array_equal(fields[index - 8], TINY.apply_mask(inside * np.uint8(255)))
        assert not fields[index - 8].all()


def test_in_a_mixed_set_a_sample_without_a_field_counts_whole(
    image_set: Path, write_png: WritePng
) -> None:
    bare = open_set(image_set, "test").samples
    fitted = open_set(with_fields(image_set, write_png), "test").samples
    fields = SegmentationSet(root=image_set, split="x", samples=(bare[0], fitted[1])).fields(TINY)
    assert fields is not None
    assert [field.all() for field in fields] == [True, False]


def test_padded_pixels_do_not_count(image_set: Path, write_png: WritePng) -> None:
    kept = replace(TINY, aspect="longer")
    images = open_set(with_label_maps(image_set, write_png), "test")
    fields = images.fields(kept)
    assert fields is not None
    for field, sample in zip(fields, images, strict=True):
        shown = kept.apply_mask(np.full(sample.image().shape[:2], 255, np.uint8))
        assert np.array_equal(field, shown)
        assert 0 < field.mean() < 1
        labels = sample.truth(kept, replace(SOFTMAX, ignored_index=9))
        assert (labels[~field] == 9).all()
        assert not (labels[field] == 9).any()


def test_the_field_does_not_change_the_digest(image_set: Path, write_png: WritePng) -> None:
    digest = open_set(image_set, "test").sha256()
    assert open_set(with_fields(image_set, write_png), "test").sha256() == digest


def test_a_missing_field_of_view(image_set: Path, write_png: WritePng) -> None:
    path = with_fields(image_set, write_png) / "fov" / "cells_11.png"
    path.unlink()
    message = refused(lambda: open_set(image_set, "test"), path, path.parents[1] / "images")
    assert "no field of view" in message
    assert len(open_set(image_set, "train")) == 6, "only the split that holds it is concerned"


def test_an_empty_folder_of_fields_is_one_that_lacks_them(image_set: Path) -> None:
    (image_set / "fov").mkdir()
    refused(lambda: open_set(image_set, "val"), image_set / "fov" / "cells_06.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda field: field[:-1], "masks must have their image's size"),
        (lambda field: field // 255, "holds values up to 1 only"),
        (lambda field: field * 0, "is empty; no pixel would count"),
        (lambda field: field.astype(np.uint16), "expected 0 outside and 255 inside"),
    ],
)
def test_bad_fields_of_view(
    image_set: Path,
    write_png: WritePng,
    change: Callable[[NDArray[np.uint8]], NDArray[np.generic]],
    message: str,
) -> None:
    sample = open_set(with_fields(image_set, write_png), "test").samples[0]
    assert sample.field_path is not None
    write_png(sample.field_path, change(read_image(sample.field_path, "L")))
    assert message in refused(sample.field, sample.field_path)


def test_a_field_that_is_cut_off(image_set: Path, write_png: WritePng) -> None:
    sample = open_set(with_fields(image_set, write_png), "test").samples[0]
    assert sample.field_path is not None
    sample.field_path.write_bytes(sample.field_path.read_bytes()[:50])
    assert "cannot be read" in refused(sample.field, sample.field_path)


# --- classes -----------------------------------------------------------------------------------

SOFTMAX = OutputContract(activation=Activation.SOFTMAX, classes=("ground", "a", "b"))
OVERLAP = OutputContract(classes=("cell", "nucleus"))


def with_label_maps(image_set: Path, write_png: WritePng) -> Path:
    for sample in open_set(image_set, None):
        mask = sample.mask() >= 125
        labels = mask.astype(np.uint8)
        labels[: len(labels) // 2] *= 2
        write_png(sample.mask_path, labels)
    return image_set


def with_class_folders(image_set: Path, write_png: WritePng, *names: str) -> Path:
    """The masks in a folder for each class; those of the second have the upper half alone."""
    for index, name in enumerate(names):
        for path in sorted((image_set / "masks").glob("*.png")):
            mask = read_image(path, "L").copy()
            if index == 1:
                mask[len(mask) // 2 :] = 0
            write_png(image_set / "masks" / name / path.name, mask)
    for path in (image_set / "masks").glob("*.png"):
        path.unlink()
    return image_set


def test_label_maps_take_the_nearest_pixel(image_set: Path, write_png: WritePng) -> None:
    images = open_set(with_label_maps(image_set, write_png), "test")
    images.require_fits(SOFTMAX)
    truths = images.truths(TINY, SOFTMAX)
    assert truths.shape == (4, 32, 32)
    assert truths.dtype == np.uint8
    for truth, sample in zip(truths, images, strict=True):
        stored = read_image(sample.mask_path, "L")
        expected = Image.fromarray(stored).resize((32, 32), Image.Resampling.NEAREST)
        assert np.array_equal(truth, np.asarray(expected))
    assert set(np.unique(truths)) == {0, 1, 2}


@pytest.mark.parametrize("names", [("cell", "nucleus"), ("0", "1")])
def test_labels_that_overlap_have_a_folder_each(
    image_set: Path, write_png: WritePng, names: tuple[str, str]
) -> None:
    binary = open_set(image_set, "test").truths(TINY)
    images = open_set(with_class_folders(image_set, write_png, *names), "test")
    images.require_fits(OVERLAP)
    truths = images.truths(TINY, OVERLAP)
    assert truths.shape == (4, 2, 32, 32)
    assert truths.dtype == np.bool_
    assert np.array_equal(truths[:, 0], binary)
    assert np.array_equal(truths[:, 1, :15], binary[:, :15])
    assert not truths[:, 1, 17:].any()
    order = OutputContract(classes=("nucleus", "cell"))
    if names == ("cell", "nucleus"):  # by name: the contract's order, not the folders'
        assert np.array_equal(images.truths(TINY, order), truths[:, ::-1])


def test_the_one_folder_of_4uiiurz1_is_one_label(image_set: Path, write_png: WritePng) -> None:
    binary = open_set(image_set, "test").truths(TINY)
    images = open_set(with_class_folders(image_set, write_png, "0"), "test")
    images.require_fits(OutputContract())
    assert np.array_equal(images.truths(TINY), binary)
    assert images.samples[0].mask_path.parent.name == "0"


def test_masks_that_lie_otherwise_than_the_contract_needs(
    image_set: Path, write_png: WritePng
) -> None:
    flat = open_set(image_set, "test")
    message = refused(lambda: flat.require_fits(OVERLAP), image_set / "masks", "holds no folders")
    assert "cell, nucleus, or 0 to 1" in message
    folders = open_set(with_class_folders(image_set, write_png, "0", "1", "2"), "test")
    for output, words in (
        (OutputContract(), "the network has one"),
        (SOFTMAX, "expected label maps"),
        (OVERLAP, "holds the folders 0, 1, 2; the network's 2 labels"),
    ):
        assert words in refused(lambda: folders.require_fits(output), image_set / "masks")  # noqa: B023
        assert words in refused(lambda: folders.truths(TINY, output))  # noqa: B023


def test_a_mask_that_one_class_lacks(image_set: Path, write_png: WritePng) -> None:
    with_class_folders(image_set, write_png, "0", "1")
    (image_set / "masks" / "1" / "cells_11.png").unlink()
    refused(lambda: open_set(image_set, "test"), image_set / "masks" / "1" / "cells_11.png")


def test_what_masks_are_taken_for_is_said(image_set: Path, write_png: WritePng) -> None:
    images = open_set(image_set, "test")
    assert images.masks_in_words(OutputContract()) == ""
    sample = images.samples[1]
    write_png(sample.mask_path, (sample.mask() >= 125).astype(np.uint8))
    said = images.masks_in_words(OutputContract())
    assert said == (f"masks of {image_set} hold one value beside 0: what that marks is foreground")
    assert images.masks_in_words(SOFTMAX) == ""


# --- images that EXIF turns --------------------------------------------------------------------


def turned(image_set: Path, orientation: int) -> Sample:
    """The first image of the test split with an orientation."""
    sample = open_set(image_set, "test").samples[0]
    exif = Image.Exif()
    exif[274] = orientation
    with Image.open(sample.image_path) as image:
        image.save(sample.image_path, exif=exif)
    return sample


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_image_that_is_shown_turned_may_have_a_mask_that_is(
    image_set: Path, orientation: int
) -> None:
    sample = turned(image_set, orientation)
    message = refused(sample.mask, sample.image_path, sample.mask_path.name)
    assert f"EXIF orientation {orientation}" in message
    assert "auto-orient" in message
    assert "-Orientation=" in message
    refused(lambda: sample.truth(TINY, SOFTMAX), "EXIF orientation")


def test_a_mask_that_is_turned_as_its_image_is_lies_on_it(image_set: Path) -> None:
    sample = turned(image_set, 3)
    expected = read_image(sample.mask_path, "L")
    exif = Image.Exif()
    for orientation in (3, 8):
        exif[274] = orientation
        Image.fromarray(expected).save(sample.mask_path, exif=exif)
        if orientation == 3:
            assert np.array_equal(sample.mask(), expected)
    assert "its image cells_08.png is not turned so (3)" in refused(sample.mask, sample.mask_path)


def test_a_quarter_turn_is_told_by_the_sizes(image_set: Path, write_png: WritePng) -> None:
    sample = turned(image_set, 6)
    height, width = sample.image().shape[:2]
    assert height != width
    assert sample.mask().shape == (height, width)  # it can only lie on the pixels as stored
    write_png(sample.mask_path, np.zeros((width, height), np.uint8))
    assert "shown turned (EXIF orientation 6)" in refused(sample.mask, sample.image_path.name)


def test_names_pair_however_their_accents_are_stored(tmp_path: Path, write_png: WritePng) -> None:
    write_png(tmp_path / "images" / "Ze\u0301ro.png", np.zeros((4, 4, 3), np.uint8))
    write_png(tmp_path / "masks" / "Z\u00e9ro.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "splits.csv").write_text("image_id,split\nZe\u0301ro,test\n", encoding="utf-8")
    assert [sample.name for sample in open_set(tmp_path, "test")] == ["Z\u00e9ro"]


# --- subsets and digests -----------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 2**32), st.data())
def test_take_is_a_seeded_subset_in_name_order(size: int, seed: int, data: st.DataObject) -> None:
    whole = unread(size)
    count = data.draw(st.integers(1, size))
    names = [sample.name for sample in whole.take(count, seed=seed)]
    assert len(set(names)) == count
    assert names == sorted(names)
    assert set(names) <= {sample.name for sample in whole}
    assert whole.take(count, seed=seed) == whole.take(count, seed=seed)


def test_take_all_and_take_with_another_seed() -> None:
    whole = unread(40)
    assert whole.take(None, seed=1) == whole.take(40, seed=2) == whole
    assert len({whole.take(10, seed=seed).samples for seed in range(8)}) > 1


@pytest.mark.parametrize("count", [-1, 0, 6])
def test_take_more_or_fewer_than_there_are(count: int) -> None:
    message = refused(lambda: unread(5).take(count, seed=0), "somewhere", "'train'")
    assert f"{count} images asked" in message
    assert "choose 1 to 5" in message


def test_digest_depends_on_names_and_bytes_not_on_order(
    image_set: Path, write_png: WritePng
) -> None:
    images = open_set(image_set, "test")
    digest = images.sha256()
    turned = SegmentationSet(root=images.root, split="x", samples=images.samples[::-1])
    assert turned.sha256() == open_set(image_set, "test").sha256() == digest
    assert images.take(3, seed=0).sha256() != digest
    first = images.samples[0]
    renamed = Sample(name="other", image_path=first.image_path, mask_path=first.mask_path)
    other = SegmentationSet(root=images.root, split="x", samples=(renamed, *images.samples[1:]))
    assert other.sha256() != digest
    pixels = first.image().copy()
    pixels[0, 0, 0] ^= 1
    write_png(first.image_path, pixels)
    assert images.sha256() != digest


# --- calibration and evaluation must not overlap -----------------------------------------------


def test_disjoint_splits_pass(image_set: Path) -> None:
    require_disjoint(open_set(image_set, "train"), open_set(image_set, "test"))


def test_the_same_bytes_under_another_name_are_refused(image_set: Path) -> None:
    calibration, evaluation = open_set(image_set, "train"), open_set(image_set, "test")
    twin, original = calibration.samples[3].image_path, evaluation.samples[2].image_path
    twin.write_bytes(original.read_bytes())
    message = refused(lambda: require_disjoint(calibration, evaluation), twin, original)
    assert f"calibration image {twin} is also evaluation image {original}" in message


def test_the_same_name_with_other_bytes_passes(
    image_set: Path, tmp_path: Path, make_image_set: MakeImageSet
) -> None:
    other = make_image_set(tmp_path / "other", ["train"])
    path = other / "images" / "cells_00.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    require_disjoint(open_set(other, "train"), open_set(image_set, "train"))


# --- bad folders -------------------------------------------------------------------------------


def test_a_missing_mask(image_set: Path) -> None:
    image = image_set / "images" / "cells_11.png"
    (image_set / "masks" / "cells_11.png").unlink()
    refused(lambda: open_set(image_set, "test"), image, image_set / "masks" / "cells_11.png")
    assert len(open_set(image_set, "train")) == 6, "only the split that holds it is concerned"


def test_no_masks_folder(image_set: Path) -> None:
    (image_set / "masks").rename(image_set / "labels")
    refused(lambda: open_set(image_set, None), image_set / "images" / "cells_00.png", "no mask")


def test_a_mask_of_zeros_and_ones_is_not_read_as_all_background(
    image_set: Path, write_png: WritePng
) -> None:
    sample = next(iter(open_set(image_set, "test")))
    ones = np.zeros(sample.image().shape[:2], np.uint8)
    write_png(sample.mask_path, ones)
    assert not sample.mask().any()  # truly empty is fine
    ones[:2] = 1
    write_png(sample.mask_path, ones)
    assert np.array_equal(sample.mask(), ones * 255)


def test_a_mask_of_another_size(image_set: Path, write_png: WritePng) -> None:
    sample = open_set(image_set, "val").samples[1]
    height, width = sample.mask().shape
    write_png(sample.mask_path, np.zeros((width, height), np.uint8))
    message = refused(
        lambda: open_set(image_set, "val").truths(TINY), sample.mask_path, sample.image_path.name
    )
    assert f"is {height}x{width} but" in message
    assert f"is {width}x{height} (width x height)" in message


@pytest.mark.parametrize("kind", ["images", "masks"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.8])
def test_a_truncated_file(image_set: Path, kind: str, share: float) -> None:
    sample = open_set(image_set, "val").samples[0]
    path = image_set / kind / sample.image_path.name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    read = sample.image if kind == "images" else sample.mask
    assert "cannot be read" in refused(read, path)


@pytest.mark.parametrize("damage", ["gone", "text"])
def test_a_mask_whose_image_cannot_be_opened_names_the_image(image_set: Path, damage: str) -> None:
    sample = open_set(image_set, "val").samples[0]
    sample.image_path.unlink()
    if damage == "text":
        sample.image_path.write_text("not an image")
    refused(sample.mask, sample.image_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP"]),
    share=st.floats(0, 1),
    damage=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=3),
)
def test_a_damaged_image_is_read_or_refused_by_name(
    kind: str,
    share: float,
    damage: list[tuple[int, int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    content = bytearray(buffer.getvalue())
    for position, value in damage:
        content[position] = value
    path = tmp_path_factory.mktemp("damaged") / "x.png"
    path.write_bytes(bytes(content[: int(share * len(content))]))
    try:
        assert read_image(path, "RGB").shape[2] == 3
    except InputError as error:
        message = str(error)
        assert str(path) in message


def test_an_image_that_claims_to_be_enormous(tmp_path: Path) -> None:
    path = tmp_path / "bomb.bmp"
    header = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    path.write_bytes(
        header + struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    assert "is too large" in refused(lambda: read_image(path, "RGB"), path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_16_bit_images_are_refused_not_clipped(suffix: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(np.arange(0, 60000, 500, dtype=np.uint16).reshape(10, 12)).save(path)
    assert "16 bits" in refused(lambda: read_image(path, mode), path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    message = refused(lambda: open_set(tmp_path, "train"), tmp_path)
    assert "no images/ folder" in message
    assert "segdeploy data prepare" in message


def test_a_set_as_it_is_downloaded_names_the_command_that_mends_it(
    raw_set: Path, image_set: Path, tmp_path: Path, write_png: WritePng
) -> None:
    command = "which `segdeploy data prepare {} -o DIR` makes a set of"
    message = refused(lambda: open_set(raw_set, "test"), command.format(raw_set))
    assert "laid out as dsb2018" in message
    (image_set / "splits.csv").unlink()
    refused(lambda: open_set(image_set, "test"), "splits.csv", command.format(image_set))
    for name in ("a.png", "a_mask.png"):
        write_png(tmp_path / "my set" / name, np.zeros((4, 4), np.uint8))
    quoted = f"'{tmp_path / 'my set'}'"
    assert "as paired" in refused(lambda: open_set(tmp_path / "my set", None), quoted)


@pytest.mark.parametrize("split", [None, "test"])
def test_an_empty_set(tmp_path: Path, split: str | None) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "splits.csv").write_text("image_id,split\n")
    assert "holds no images" in refused(lambda: open_set(tmp_path, split), tmp_path, split or "all")


def test_an_empty_split(image_set: Path) -> None:
    path = image_set / "splits.csv"
    path.write_text(path.read_text().replace("val", "train"))
    refused(lambda: open_set(image_set, "val"), image_set, "'val' holds no images")


def test_a_split_that_is_asked_for_but_does_not_exist(image_set: Path) -> None:
    refused(lambda: open_set(image_set, "holdout"), image_set, "'holdout'")


def test_no_splits_file(image_set: Path) -> None:
    (image_set / "splits.csv").unlink()
    refused(lambda: open_set(image_set, "train"), image_set / "splits.csv", "does not exist")
    assert len(open_set(image_set, None)) == 12


def test_an_image_that_is_listed_but_missing(image_set: Path) -> None:
    (image_set / "images" / "cells_00.png").unlink()
    refused(
        lambda: open_set(image_set, "train"),
        image_set / "splits.csv",
        "'cells_00'",
        image_set / "images",
    )


def test_two_files_of_one_name(image_set: Path) -> None:
    path = image_set / "images" / "cells_00.png"
    twin = path.with_suffix(".jpg")
    assert twin.suffix in IMAGE_SUFFIXES
    twin.write_bytes(path.read_bytes())
    refused(lambda: open_set(image_set, None), path, twin)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,split\na,train\nb,holdout\n", ":3: split 'holdout' is not one of train, val"),
        ("image_id,split\na,train\nb\n", ":3: split None is not one of"),
        ("image_id,split\na,train\nb,val\na,val\n", ":4: 'a' is listed twice"),
        ("image_id,split\na,train\na,train\n", ":3: 'a' is listed twice"),
        ("name,split\na,train\n", "has columns ['name', 'split']; expected image_id and split"),
        ("image_id;split\na;train\n", "has columns ['image_id;split']"),
        ("", "has columns []"),
    ],
)
def test_bad_splits_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "splits.csv"
    path.write_text(text)
    assert message in refused(lambda: read_splits(path), path)


def test_a_splits_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_bytes(b"image_id,split\n\xff\xfe\x80,train\n")
    assert "not a UTF-8 CSV file" in refused(lambda: read_splits(path), path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_splits_files_as_spreadsheets_write_them(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "splits.csv"
    rows = ["split,image_id,note", "train,zürich,", 'test,"a,b",x']
    path.write_bytes((end.join(rows) + end).encode(encoding))
    assert read_splits(path) == {"zürich": "train", "a,b": "test"}


def test_a_set_says_what_it_leaves_out_once(
    image_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(image_set, tmp_path / "set")
    (tmp_path / "set" / "images" / "plate").mkdir()
    (tmp_path / "set" / "images" / "notes.txt").write_text("x")
    for split in ("train", "test"):
        open_set(tmp_path / "set", split)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith("2 left out, not images: notes.txt, plate/ (0 images)")
