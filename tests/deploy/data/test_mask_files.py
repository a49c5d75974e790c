"""What the values of masks mean: understood where they leave no doubt, refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_levels import image_size
from segdeploy.deploy.data.mask_files import (
    Foreground,
    Reading,
    read_binary,
    read_label_map,
    read_mask,
)
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.system.errors import InputError

WritePng = Callable[[Path, NDArray[np.generic]], Path]
Labels = NDArray[np.int64]

FOUR = OutputContract(
    activation=Activation.SOFTMAX,
    classes=("background", "wall", "road", "tree"),
    colours=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
    ignored_index=255,
)
TWO = OutputContract(activation=Activation.SOFTMAX, classes=("background", "nucleus"))


def cells(count: int, *, side: int = 4, columns: int = 6) -> Labels:
    """Square objects in rows, each with its number from 1 on, on a ground of 0."""
    rows = -(-count // columns)
    labels = np.zeros((rows * (side + 2), columns * (side + 2)), np.int64)
    for index in range(count):
        top, left = (place * (side + 2) + 1 for place in divmod(index, columns))
        labels[top : top + side, left : left + side] = index + 1
    return labels


def saved(path: Path, pixels: NDArray[np.generic], **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]  # Pillow's own types
    return path


def binary(
    path: Path, size: tuple[int, ...], **options: object
) -> tuple[NDArray[np.bool_], Reading, int | None]:
    found = read_binary(path, image_path=path, size=size[:2], **options)  # type: ignore[arg-type]
    return found.grey >= 125, found.reading, found.objects


# --- one label ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_reads_the_same_however_it_is_stored(
    tmp_path: Path, suffix: str, mode: str, turned: bool
) -> None:
    mask = np.zeros((6, 7), np.uint8)
    mask[1:4, 2:6] = 255
    image = Image.fromarray(mask).convert(mode)
    if mode == "P" and turned:  # index 0 is white: the indices say the opposite of the colours
        image = Image.fromarray((mask == 0).astype(np.uint8))
        image.putpalette([255, 255, 255, 0, 0, 0])
    path = tmp_path / f"mask{suffix}"
    image.save(path)
    found = read_mask(path, image_path=tmp_path / "image.png", size=(6, 7))
    assert np.array_equal(found, mask)


def test_transparency_neither_hides_nor_shows(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3] = 255
    clear = Image.merge("LA", [Image.fromarray(mask), Image.new("L", (4, 4), 0)])
    clear.save(tmp_path / "clear.png")
    Image.fromarray(mask).save(tmp_path / "keyed.png", transparency=255)
    Image.fromarray(mask).convert("P").save(tmp_path / "keyed.gif", transparency=0)
    for name in ("clear.png", "keyed.png", "keyed.gif"):
        found = read_mask(tmp_path / name, image_path=tmp_path / "image.png", size=(4, 4))
        assert np.array_equal(found, mask)


def test_a_mask_of_another_size_names_both_files_and_sizes(
    tmp_path: Path, write_png: WritePng
) -> None:
    path = write_png(tmp_path / "mask.png", np.zeros((3, 5), np.uint8))
    image = write_png(tmp_path / "image.png", np.zeros((5, 3, 3), np.uint8))
    assert image_size(image) == (5, 3)
    with pytest.raises(InputError, match=r"mask .*mask.png is 5x3 .* image.png is 3x5 \(width x"):
        read_mask(path, image_path=image, size=image_size(image))


@pytest.mark.parametrize("count", [8, 12, 126, 200])
@pytest.mark.parametrize(
    "kind", ["8.png", "16.png", "16.tif", "32.tif", "float.tif", "colours.png"]
)
def test_numbers_of_objects_are_foreground_from_1_on(tmp_path: Path, count: int, kind: str) -> None:
    labels = cells(count)
    pixels: dict[str, NDArray[np.generic]] = {
        "8": labels.astype(np.uint8),
        "16": labels.astype(np.uint16),
        "32": labels.astype(np.int32),
        "float": labels.astype(np.float32),
        "colours": np.stack([labels * 37 % 256, labels, (labels * 91) % 256], -1).astype(np.uint8),
    }
    depth, suffix = kind.split(".")
    path = saved(tmp_path / f"mask.{suffix}", pixels[depth])
    found, reading, objects = binary(path, labels.shape)
    assert reading is Reading.OBJECTS
    assert objects == count
    assert np.array_equal(found, labels > 0)


@pytest.mark.parametrize("depth", [np.uint16, np.int32])
def test_a_few_numbers_of_a_deep_file_are_objects(tmp_path: Path, depth: type[np.generic]) -> None:
    labels = cells(3)
    path = saved(tmp_path / "mask.tif", labels.astype(depth))
    assert binary(path, labels.shape)[1:] == (Reading.OBJECTS, 3)


def test_indices_of_a_palette_are_objects_though_its_colours_repeat(tmp_path: Path) -> None:
    labels = cells(30)
    image = Image.fromarray(labels.astype(np.uint8))
    colours = np.random.default_rng(1).integers(60, 255, (256, 3), np.uint8)
    colours[11:] = colours[1:11][np.arange(245) % 10]
    colours[0] = 0
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "mask.png")
    found, reading, objects = binary(tmp_path / "mask.png", labels.shape)
    assert (reading, objects) == (Reading.OBJECTS, 30)
    assert np.array_equal(found, labels > 0)


@pytest.mark.parametrize("quality", [60, 75, 95])
def test_jpeg_does_not_hide_a_second_grey(tmp_path: Path, quality: int) -> None:
    labels = cells(12, side=12)
    greys = np.where(labels > 0, np.where(labels % 2 == 0, 200, 100), 0)
    path = saved(tmp_path / "mask.jpg", greys.astype(np.uint8), quality=quality)
    with pytest.raises(InputError, match="JPEG changes values; save masks as PNG"):
        binary(path, labels.shape)


def test_numbers_of_single_pixels_are_objects(tmp_path: Path) -> None:
    labels = cells(200, side=1)
    path = saved(tmp_path / "mask.png", labels.astype(np.uint8))
    assert binary(path, labels.shape)[1:] == (Reading.OBJECTS, 200)


def test_numbers_beyond_8_bits_are_objects_however_few(tmp_path: Path) -> None:
    labels = cells(3)
    labels[labels == 2] = 70_000
    path = saved(tmp_path / "mask.tif", labels.astype(np.int32))
    assert binary(path, labels.shape)[1:] == (Reading.OBJECTS, 3)


def test_objects_that_an_edge_or_another_one_cuts_in_two_are_objects(tmp_path: Path) -> None:
    labels = cells(20)
    labels[2, 1:5] = 0  # the first one, in two parts
    path = saved(tmp_path / "mask.png", labels.astype(np.uint8))
    assert binary(path, labels.shape)[1:] == (Reading.OBJECTS, 20)


@pytest.mark.parametrize("value", [1, 7, 100, 200])
def test_one_value_beside_0_is_foreground(tmp_path: Path, value: int) -> None:
    labels = (cells(12) > 0) * value
    for name, dtype in (("a.png", np.uint8), ("b.png", np.uint16), ("c.tif", np.int32)):
        found, _, objects = binary(saved(tmp_path / name, labels.astype(dtype)), labels.shape)
        assert objects is None
        assert np.array_equal(found, labels > 0)


def test_a_mask_of_ones_alone_is_all_foreground(tmp_path: Path, write_png: WritePng) -> None:
    path = write_png(tmp_path / "mask.png", np.ones((4, 5), np.uint8))
    assert binary(path, (4, 5))[0].all()


@pytest.mark.parametrize("colour", [0, 255, 90])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_not_transparent_is_foreground_of_one_colour(
    tmp_path: Path, colour: int, mode: str
) -> None:
    opaque = (cells(12) > 0).astype(np.uint8) * np.uint8(255)
    bands = [np.full(opaque.shape, colour, np.uint8)] * (len(mode) - 1)
    path = saved(tmp_path / "mask.png", np.dstack([*bands, opaque]))
    found, reading, _ = binary(path, opaque.shape)
    assert reading is Reading.ALPHA
    assert np.array_equal(found, opaque > 0)


def test_transparency_that_says_the_same_as_the_colours(tmp_path: Path) -> None:
    opaque = (cells(12) > 0).astype(np.uint8) * np.uint8(255)
    zeros = np.zeros_like(opaque)
    path = saved(tmp_path / "mask.png", np.dstack([opaque, zeros, zeros, opaque]))
    found, reading, _ = binary(path, opaque.shape)
    assert reading is Reading.VALUE
    assert np.array_equal(found, opaque > 0)


def test_soft_edges_stay_as_they_are(tmp_path: Path) -> None:
    sharp = Image.fromarray((cells(12, side=20) > 0).astype(np.uint8) * np.uint8(255))
    for scale in (0.05, 0.09, 0.4, 0.7, 1.6, 4.0):
        side = [round(edge * scale) for edge in sharp.size]
        for how in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC):
            soft = np.asarray(sharp.resize((side[0], side[1]), how))
            found = read_binary(
                saved(tmp_path / "mask.png", soft), image_path=tmp_path, size=soft.shape
            )
            assert found.reading is Reading.GREY
            assert np.array_equal(found.grey, soft)
    for quality in (20, 60, 95):
        path = tmp_path / "mask.jpg"
        sharp.save(path, quality=quality)
        found = read_binary(path, image_path=path, size=sharp.size[::-1])
        assert np.array_equal(found.grey >= 125, np.asarray(sharp) > 0)


def ambiguous() -> dict[str, tuple[NDArray[np.generic], str]]:
    """Masks that may mean several things, and the values that the refusal names."""
    labels = cells(12)
    lit = labels > 0
    odd = labels % 2 == 1
    red, white = np.array((255, 0, 0)), np.array((255, 255, 255))
    return {
        "two greys": ((lit * 100 + odd * 100).astype(np.uint8), "0, 100 and 200"),
        "grey and white": ((lit * 128 + odd * 127).astype(np.uint8), "0, 128 and 255"),
        "classes": ((lit * 1 + odd * 1).astype(np.uint8), "0, 1 and 2"),
        "classes of 16 bits": ((lit * 1 + odd * 1).astype(np.uint16), "0, 1 and 2"),
        "no background": ((lit * 1 + 1).astype(np.uint8), "1 and 2"),
        "two colours": (
            (lit[..., None] * red + odd[..., None] * np.array((0, 255, 0))).astype(np.uint8),
            "#000000, #ff0000 and #ffff00",
        ),
        "red on white": (
            np.where(lit[..., None], red, white).astype(np.uint8),
            "#ff0000 and #ffffff",
        ),
        "a few numbers": (np.minimum(cells(3), 3).astype(np.uint8), "0, 1, 2 and 3"),
        "the mark of what counts nowhere": (
            np.where(cells(12) == 12, 255, cells(12)).astype(np.uint8),
            "0, 1, 2, 3, 4, 5 and 7 more",
        ),
        "a photograph": (
            np.random.default_rng(0).integers(0, 120, (30, 30)).astype(np.uint8),
            "values 0, 1, 2, 3",
        ),
        "colour and transparency": (
            np.dstack([lit * 255, lit * 255, lit * 255, odd * 255]).astype(np.uint8),
            "an alpha channel",
        ),
    }


@pytest.mark.parametrize("kind", ambiguous())
def test_what_may_mean_several_things_is_refused_with_its_values(tmp_path: Path, kind: str) -> None:
    pixels, values = ambiguous()[kind]
    path = saved(tmp_path / "mask.png", pixels)
    with pytest.raises(InputError) as caught:
        binary(path, pixels.shape)
    message = str(caught.value)
    assert message.isprintable()
    for words in (str(path), values, "data prepare", "--foreground"):
        assert words in message


def test_a_few_numbers_are_objects_where_another_mask_of_the_folder_shows_it(
    tmp_path: Path,
) -> None:
    few = cells(3)
    path = saved(tmp_path / "a.png", few.astype(np.uint8))
    with pytest.raises(InputError, match="0, 1, 2 and 3"):
        binary(path, few.shape)
    saved(tmp_path / "b.png", cells(20).astype(np.uint8))
    assert binary(path, few.shape)[1:] == (Reading.OBJECTS, 3)
    saved(tmp_path / "c.png", (cells(9) % 3).astype(np.uint8))  # and another one denies it
    with pytest.raises(InputError, match="0, 1, 2 and 3"):
        binary(path, few.shape)


def test_what_is_foreground_can_be_said(tmp_path: Path) -> None:
    labels = cells(12) % 3 * 100
    path = saved(tmp_path / "mask.png", labels.astype(np.uint8))
    for words, expected in (
        (["any"], labels > 0),
        (["100"], labels == 100),
        (["150-255"], labels == 200),
    ):
        found, reading, _ = binary(path, labels.shape, foreground=Foreground.parse(words))
        assert reading is Reading.STATED
        assert np.array_equal(found, expected)
    pixels = np.zeros((*labels.shape, 3), np.uint8)
    pixels[labels == 100] = (255, 0, 0)
    pixels[labels == 200] = (255, 255, 0)
    path = saved(tmp_path / "colours.png", pixels)
    found, _, _ = binary(path, labels.shape, foreground=Foreground.parse(["#ffff00"]))
    assert np.array_equal(found, labels == 200)
    photo = np.random.default_rng(0).integers(0, 255, (*labels.shape, 3), np.uint8)
    cut = np.dstack([photo, (labels > 0) * 255]).astype(np.uint8)
    path = saved(tmp_path / "cut.png", cut)
    with pytest.raises(InputError, match="an alpha channel"):
        binary(path, labels.shape)
    found, _, _ = binary(path, labels.shape, foreground=Foreground.parse(["alpha"]))
    assert np.array_equal(found, labels > 0)


@pytest.mark.parametrize("words", [["0"], ["red"], ["any", "1"], ["-3"], ["9-3"], ["12345678901"]])
def test_words_that_say_no_foreground(words: list[str]) -> None:
    with pytest.raises(ValueError, match="neither any, alpha, a number above 0, a range"):
        Foreground.parse(words)


def test_numbers_that_are_not_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "mask.tif", np.array([[0, 0.5], [1, 2]], np.float32))
    with pytest.raises(InputError, match=r"holds float32 values from 0 to 2; expected whole"):
        binary(path, (2, 2))


# --- label maps --------------------------------------------------------------------------------


def label_map(path: Path, size: tuple[int, ...], output: OutputContract) -> NDArray[np.uint8]:
    return read_label_map(path, image_path=path, size=size[:2], output=output)


def classes_of_four() -> NDArray[np.uint8]:
    labels = np.random.default_rng(3).integers(0, 4, (9, 7)).astype(np.uint8)
    labels[0, :3] = 255
    return labels


def test_a_label_map_reads_the_same_however_it_is_stored(tmp_path: Path) -> None:
    labels = classes_of_four()
    colours = np.zeros((256, 3), np.uint8)
    colours[:4] = FOUR.colours
    colours[255] = 224
    palette = Image.fromarray(labels)
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "palette.png")
    saved(tmp_path / "grey.png", labels)
    saved(tmp_path / "grey.tif", labels)
    saved(tmp_path / "deep.png", labels.astype(np.uint16))
    saved(tmp_path / "three.png", np.repeat(labels[..., None], 3, axis=2))
    for name in ("palette.png", "grey.png", "grey.tif", "deep.png", "three.png"):
        found = label_map(tmp_path / name, labels.shape, FOUR)
        assert found.dtype == np.uint8
        assert np.array_equal(found, labels)


def test_colours_are_looked_up_in_the_contract(tmp_path: Path) -> None:
    labels = classes_of_four() % 4
    pixels = np.array(FOUR.colours, np.uint8)[labels]
    saved(tmp_path / "rgb.png", pixels)
    Image.fromarray(pixels).quantize(16, dither=Image.Dither.NONE).save(tmp_path / "turned.png")
    for name in ("rgb.png", "turned.png"):
        assert np.array_equal(label_map(tmp_path / name, labels.shape, FOUR), labels)


def test_a_colour_that_is_no_class_is_named(tmp_path: Path) -> None:
    pixels = np.array(FOUR.colours, np.uint8)[classes_of_four() % 4]
    pixels[4, 4] = (1, 200, 30)
    path = saved(tmp_path / "rgb.png", pixels)
    with pytest.raises(InputError, match=r"#01c81e.* contract's colours are #000000, #ff0000"):
        label_map(path, pixels.shape, FOUR)
    with pytest.raises(InputError, match="the output contract has no colours"):
        label_map(path, pixels.shape, TWO)


@pytest.mark.parametrize("value", [4, 17, 254])
def test_a_value_that_is_no_class_is_named(tmp_path: Path, value: int) -> None:
    labels = classes_of_four()
    labels[5, 5] = value
    path = saved(tmp_path / "mask.png", labels)
    with pytest.raises(
        InputError,
        match=rf"holds {value}; expected the index of a class, 0 to 3 "
        r"\(background, wall, road and tree\) and 255 \(ignored\)",
    ):
        label_map(path, labels.shape, FOUR)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indices_of_few_bits_are_not_stretched(tmp_path: Path, bits: int) -> None:
    labels = (classes_of_four() % 4 % (1 << bits)).astype(np.uint8)
    image = Image.fromarray(labels)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "palette.png", bits=bits)
    assert np.array_equal(label_map(tmp_path / "palette.png", labels.shape, FOUR), labels)


def test_of_two_classes_a_binary_mask_will_do(tmp_path: Path, write_png: WritePng) -> None:
    lit = cells(12) > 0
    for name, pixels in (
        ("white", lit * 255),
        ("one", lit * 1),
        ("none", lit * 0),
        ("objects", cells(12)),
    ):
        path = write_png(tmp_path / f"{name}.png", pixels.astype(np.uint8))
        expected = lit if name != "none" else lit & False
        assert np.array_equal(label_map(path, lit.shape, TWO), expected)
