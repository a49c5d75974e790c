"""Every dataset layout, in the folder and file names in which it is published."""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_set import SPLITS, open_set, read_image, read_splits
from segdeploy.deploy.data.layouts.division import Ratios
from segdeploy.deploy.data.layouts.pattern import pattern_layout
from segdeploy.deploy.data.layouts.registry import LAYOUTS, layout_of
from segdeploy.deploy.data.mask_files import Foreground
from segdeploy.deploy.data.prepare import Prepared, prepare_raw
from segdeploy.deploy.system.errors import InputError, UsageError

Pixels = NDArray[np.uint8]

ISIC_IMAGES = "ISIC2018_Task1-2_Training_Input"
ISIC_MASKS = "ISIC2018_Task1_Training_GroundTruth"


# --- small sets --------------------------------------------------------------------------------


def item(seed: int) -> tuple[Pixels, Pixels, Pixels]:
    """A noisy image (13, 15, 3), a mask of 0 and 255 and a round field of view."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:13, :15]
    mask = np.where((y - 6) ** 2 + (x - 4 - seed % 7) ** 2 < 12, np.uint8(255), np.uint8(0))
    field = np.where((y - 6) ** 2 + (x - 7) ** 2 < 40, np.uint8(255), np.uint8(0))
    return generator.integers(0, 256, (13, 15, 3), np.uint8), mask, field


def save(path: Path, pixels: Pixels, mode: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def write_dsb2018(root: Path) -> None:
    for index in range(10):
        image, mask, _ = item(index)
        folder = root / "stage1_train" / f"{index:064x}"
        alpha = np.full((13, 15, 1), 255, np.uint8)
        save(folder / "images" / f"{folder.name}.png", np.concatenate([image, alpha], axis=2))
        for part in range(3):
            nucleus = np.zeros_like(mask)
            nucleus[:, part::3] = mask[:, part::3]
            save(folder / "masks" / f"{part:064x}.png", nucleus)


def write_merged(root: Path, masks: str = "masks") -> None:
    for index in range(10):
        image, mask, _ = item(index)
        save(root / "images" / f"{index:064x}.png", image)
        save(root / masks / f"{index:064x}.png", mask)


def write_merged_class(root: Path) -> None:
    write_merged(root, "masks/0")


def write_isic2018(root: Path) -> None:
    for index in range(10):
        image, mask, _ = item(index)
        save(root / ISIC_IMAGES / f"ISIC_{index:07}.jpg", image)
        save(root / ISIC_MASKS / f"ISIC_{index:07}_segmentation.png", mask)
    for folder in (ISIC_IMAGES, ISIC_MASKS):
        for name in ("ATTRIBUTION.txt", "LICENSE.txt", "._ISIC_0000000.jpg"):
            (root / folder / name).write_bytes(b"CC-0")


def write_split_folders(root: Path) -> None:
    for index, folder in enumerate(["train"] * 6 + ["valid"] + ["test"] * 3):
        image, mask, _ = item(index)
        save(root / folder / f"ISIC_{index:07}.jpg", image)
        save(root / f"{folder}_GT" / f"ISIC_{index:07}_segmentation.png", mask)


def write_drive(root: Path) -> None:
    for index in range(40):
        image, mask, field = item(index)
        kind, part = ("test", "test") if index < 20 else ("training", "training")
        number = f"{index + 1:02}"
        save(root / part / "images" / f"{number}_{kind}.tif", image)
        save(root / part / "1st_manual" / f"{number}_manual1.gif", mask, "P" if index % 2 else "L")
        save(root / part / "mask" / f"{number}_{kind}_mask.gif", field, "1")
        if kind == "test":
            save(root / part / "2nd_manual" / f"{number}_manual2.gif", field)


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "raw Kaggle": ("dsb2018", write_dsb2018),
    "merged Kaggle": ("dsb2018", write_merged),
    "merged Kaggle with a class": ("dsb2018", write_merged_class),
    "ISIC": ("isic2018", write_isic2018),
    "folders": ("split-folders", write_split_folders),
    "DRIVE": ("drive", write_drive),
}
SPLIT_COUNTS = {
    "raw Kaggle": (7, 1, 2),
    "merged Kaggle": (7, 1, 2),
    "merged Kaggle with a class": (7, 1, 2),
    "ISIC": (7, 1, 2),
    "folders": (6, 1, 3),
    "DRIVE": (16, 4, 20),
}


@pytest.fixture(scope="module", params=WRITERS)
def form(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def raw(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set in this form, only to be read."""
    root = tmp_path_factory.mktemp("published") / "raw"
    WRITERS[form][1](root)
    return root


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def counts_of(rows: tuple[Prepared, ...]) -> tuple[int, ...]:
    counts = Counter(row.split for row in rows)
    return tuple(counts[split] for split in SPLITS)


# --- the contract of every layout --------------------------------------------------------------


def test_it_is_recognised_and_no_other_is(form: str, raw: Path) -> None:
    name = WRITERS[form][0]
    assert layout_of(raw).name == name
    strict = [layout for layout in LAYOUTS.values() if not layout.fallback]
    assert [layout.name for layout in strict if layout.recognises(raw)] == [name]


def test_pixels_are_those_of_the_source(form: str, raw: Path, tmp_path: Path) -> None:
    prepare_raw(raw, tmp_path / "set")
    layout = LAYOUTS[WRITERS[form][0]]
    sources = {source.name: source for source in layout.sources(raw, None)}
    samples = {sample.name: sample for sample in open_set(tmp_path / "set", None)}
    assert samples.keys() == sources.keys()
    for index, (name, sample) in enumerate(sorted(samples.items())):
        image, mask, field = item(index)
        source = sources[name].image
        lossless = source.suffix != ".jpg"
        assert np.array_equal(sample.image(), image if lossless else read_image(source, "RGB"))
        assert np.array_equal(sample.mask(), mask)
        if sources[name].field is not None:
            assert np.array_equal(sample.field(), field > 0)
        if not lossless:
            assert sample.image_path.read_bytes() == source.read_bytes()


def test_every_image_has_one_split_and_the_files_agree(
    form: str, raw: Path, tmp_path: Path
) -> None:
    output = tmp_path / "set"
    rows = prepare_raw(raw, output)
    assert counts_of(rows) == SPLIT_COUNTS[form]
    assert read_splits(output / "splits.csv") == {row.image_id: row.split for row in rows}
    names = [sample.name for split in SPLITS for sample in open_set(output, split)]
    assert sorted(names) == [row.image_id for row in rows]
    folders = ["fov"] * (form == "DRIVE") + ["images", "masks", "splits.csv"]
    assert sorted(path.name for path in output.iterdir()) == folders


def test_the_bytes_depend_on_the_seed_alone(form: str, raw: Path, tmp_path: Path) -> None:
    prepare_raw(raw, tmp_path / "first", seed=3)
    turned = tmp_path / "turned"
    for path in sorted(raw.rglob("*"), reverse=True):  # made anew, in the other order
        if path.is_file():
            target = turned / path.relative_to(raw)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    prepare_raw(turned, tmp_path / "second", seed=3)
    assert files_of(tmp_path / "first") == files_of(tmp_path / "second")
    tables = set()
    for seed in range(3):
        prepare_raw(raw, tmp_path / "first", seed=seed)
        tables.add((tmp_path / "first" / "splits.csv").read_bytes())
    assert (len(tables) == 1) is (form == "folders"), "only given splits are free of the seed"


def test_a_prepared_set_prepared_again_is_the_same(form: str, raw: Path, tmp_path: Path) -> None:
    rows = prepare_raw(raw, tmp_path / "set")
    again = prepare_raw(tmp_path / "set", tmp_path / "again", seed=9)
    assert [(r.image_id, r.split) for r in again] == [(r.image_id, r.split) for r in rows]
    first, second = files_of(tmp_path / "set"), files_of(tmp_path / "again")
    assert first.keys() == second.keys()
    for name, sample in ((s.name, s) for s in open_set(tmp_path / "again", None)):
        original = next(s for s in open_set(tmp_path / "set", None) if s.name == name)
        assert np.array_equal(sample.image(), original.image())
        assert np.array_equal(sample.mask(), original.mask())
        assert np.array_equal(sample.field(), original.field())


# --- what is wrong with a folder ---------------------------------------------------------------


def refused(raw: Path, *named: object, ratios: Ratios | None = None) -> str:
    """The message of the input error; nothing is left that would pass for a set."""
    output = raw.parent / "set"
    with pytest.raises(InputError) as caught:
        prepare_raw(raw, output, ratios=ratios)
    assert not (output / "splits.csv").exists()
    for name in named:
        assert str(name) in str(caught.value)
    return str(caught.value)


def one(raw: Path, pattern: str) -> Path:
    return next(p for p in sorted(raw.rglob(pattern)) if not p.name.startswith("."))


MASKS = {
    "merged Kaggle": "masks/*.png",
    "merged Kaggle with a class": "masks/0/*.png",
    "ISIC": "ISIC_*_segmentation.png",
    "folders": "valid_GT/*.png",
    "DRIVE": "training/1st_manual/*.gif",
}
IMAGES = {
    "merged Kaggle": "images/*.png",
    "merged Kaggle with a class": "images/*.png",
    "ISIC": f"{ISIC_IMAGES}/ISIC_*.jpg",
    "folders": "valid/*.jpg",
    "DRIVE": "training/images/*.tif",
}


@pytest.fixture(params=MASKS)
def paired(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path, Path]:
    """A set of one mask an image: its folder, an image and its mask."""
    root = tmp_path / "raw"
    WRITERS[request.param][1](root)
    return root, one(root, IMAGES[request.param]), one(root, MASKS[request.param])


def test_an_image_without_a_mask(paired: tuple[Path, Path, Path]) -> None:
    raw, image, mask = paired
    mask.unlink()
    assert "mask in" in refused(raw, f"image {image} has no", mask.parent)


def test_a_mask_without_an_image(paired: tuple[Path, Path, Path]) -> None:
    raw, image, mask = paired
    image.unlink()
    assert "mask" in refused(raw, f"{mask} belongs to no image")


def test_several_alone_are_counted(tmp_path: Path) -> None:
    write_isic2018(tmp_path / "raw")
    for path in sorted((tmp_path / "raw" / ISIC_MASKS).glob("ISIC_*"))[2:5]:
        path.unlink()
    refused(tmp_path / "raw", "ISIC_0000002.jpg has no mask", "(and 2 more)")


def test_a_mask_that_is_there_twice(paired: tuple[Path, Path, Path]) -> None:
    raw, _, mask = paired
    twin = mask.with_suffix(".bmp")
    save(twin, item(0)[1])
    assert "same item" in refused(raw, mask, twin)


@pytest.mark.parametrize("which", [1, 2])
def test_a_file_that_cannot_be_decoded(paired: tuple[Path, Path, Path], which: int) -> None:
    path = paired[which]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read" in refused(paired[0], path)


def test_a_mask_of_another_size(paired: tuple[Path, Path, Path]) -> None:
    raw, image, mask = paired
    save(mask, np.zeros((13, 14), np.uint8))
    refused(raw, mask, image.name, "14x13", "15x13")


def test_a_mask_of_zeros_and_ones(paired: tuple[Path, Path, Path]) -> None:
    raw, image, mask = paired
    ones = np.zeros((13, 15), np.uint8)
    ones[3] = 1
    save(mask, ones)
    rows = prepare_raw(raw, raw.parent / "set")
    name = next(row.image_id for row in rows if row.image_id in image.stem)
    assert np.array_equal(read_image(raw.parent / "set" / "masks" / f"{name}.png", "L"), ones * 255)


def test_a_mask_of_two_greys(paired: tuple[Path, Path, Path]) -> None:
    raw, _, mask = paired
    greys = np.zeros((13, 15), np.uint8)
    greys[3], greys[5] = 100, 200
    save(mask, greys)
    assert "0, 100 and 200" in refused(raw, mask)


def test_an_image_of_16_bits(tmp_path: Path) -> None:
    write_drive(tmp_path / "raw")
    path = tmp_path / "raw" / "training" / "images" / "30_training.tif"
    Image.fromarray(np.zeros((13, 15), np.uint16)).save(path)
    assert "16 bits" in refused(tmp_path / "raw", path)


def test_empty_folders(tmp_path: Path) -> None:
    for folder in (ISIC_IMAGES, ISIC_MASKS):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    assert "holds no images" in refused(tmp_path / "raw")


# --- DSB2018, merged ---------------------------------------------------------------------------


def test_the_folders_of_several_classes_stay_apart(tmp_path: Path) -> None:
    write_merged_class(tmp_path / "raw")
    shutil.copytree(tmp_path / "raw" / "masks" / "0", tmp_path / "raw" / "masks" / "1")
    prepare_raw(tmp_path / "raw", tmp_path / "set")
    first = open_set(tmp_path / "set", None).samples[0]
    assert [name for name, _ in first.class_paths] == ["0", "1"]
    for name, path in first.class_paths:
        source = one(tmp_path / "raw", f"masks/{name}/{first.name}.png")
        assert np.array_equal(read_image(path, "L"), read_image(source, "L"))


def test_a_splits_file_is_kept_and_must_fit(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_merged(raw)
    names = sorted(path.stem for path in (raw / "images").iterdir())
    splits = dict(zip(names, ["test"] * 5 + ["val"] * 4 + ["train"], strict=True))
    rows = [f"{name},{split}\n" for name, split in splits.items()]
    (raw / "splits.csv").write_text("image_id,split\n" + "".join(rows))
    prepared = prepare_raw(raw, tmp_path / "kept")
    assert {row.image_id: row.split for row in prepared} == splits
    with pytest.raises(UsageError, match="nothing to divide"):
        prepare_raw(raw, tmp_path / "set", ratios=(0.5, 0.0, 0.5))
    (raw / "splits.csv").write_text("image_id,split\n" + "".join(rows[1:]))
    assert "is in no split of" in refused(raw, raw / "images" / names[0], raw / "splits.csv")
    (raw / "splits.csv").write_text("image_id,split\n" + "".join(rows) + "other,val\n")
    refused(raw, raw / "splits.csv", "lists 'other', but there is no such image")


# --- masks beside images, in sibling folders, or anywhere --------------------------------------

PLACES = {
    "beside": ("{}.jpg", "{}_mask.png"),
    "beside, of another name": ("{}.png", "{}-Segmentation.PNG"),
    "imgs and labels": ("imgs/{}.JPG", "labels/{}.png"),
    "Images and SegmentationClass": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "a sibling of its name": ("scans/{}.png", "scans_masks/{}_mask.gif"),
    "images and masks, with a suffix": ("images/{}.TIF", "masks/{}_label.tif"),
}


def write_places(root: Path, image: str, mask: str, names: list[str]) -> None:
    for index, name in enumerate(names):
        pixels, drawn, _ = item(index)
        save(root / image.format(name), pixels)
        save(root / mask.format(name), drawn)


@pytest.mark.parametrize("place", PLACES)
def test_masks_are_found_by_suffix_and_sibling(place: str, tmp_path: Path) -> None:
    names = ["a", "b_2", "c.d"]
    write_places(tmp_path / "raw", *PLACES[place], names)
    prepare_raw(tmp_path / "raw", tmp_path / "set")
    samples = open_set(tmp_path / "set", None)
    assert [sample.name for sample in samples] == names
    for index, sample in enumerate(samples):
        assert np.array_equal(sample.mask(), item(index)[1])


def test_folders_that_pair_in_several_ways(tmp_path: Path) -> None:
    write_places(tmp_path / "raw", "imgs/{}.png", "labels/{}.png", ["a"])
    write_places(tmp_path / "raw", "imgs/{}.png", "gt/{}.png", ["a"])
    message = refused(tmp_path / "raw", "several pairs of folders", "imgs/ with labels/")
    assert "--images 'imgs/*' --masks 'gt/*'" in message


@pytest.mark.parametrize(
    ("images", "masks", "files", "names"),
    [
        ("*/t1.png", "*/seg.tif", ("{}/t1.png", "{}/seg.tif"), ["p1", "p2"]),
        ("x/*_im.PNG", "y/*.png", ("x/{}_im.png", "y/{}.png"), ["p1", "p2"]),
        ("**/*.jpg", "**/*_gt.png", ("deep/er/{}.jpg", "deep/er/{}_gt.png"), ["deep_er_p1"]),
    ],
)
def test_patterns_pair_whatever_their_wildcards_match(
    tmp_path: Path, images: str, masks: str, files: tuple[str, str], names: list[str]
) -> None:
    raw = tmp_path / "raw"
    stems = [name.rpartition("_")[2] for name in names]
    write_places(raw, *files, stems)
    save(raw / "elsewhere.png", item(9)[0])
    rows = prepare_raw(raw, tmp_path / "set", layout=pattern_layout(images, masks))
    assert [row.image_id for row in rows] == names
    for index, sample in enumerate(open_set(tmp_path / "set", None)):
        assert np.array_equal(sample.mask(), item(index)[1])


def test_folders_called_after_splits_keep_them(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for split in ("train", "Test"):
        write_places(raw, f"{split}/images/{{}}.png", f"{split}/masks/{{}}.png", ["a", "b"])
    for path in (raw / "Test" / "images").iterdir():
        save(path, 255 - read_image(path, "RGB"))
    layout = pattern_layout("*/images/*.png", "*/masks/*.png")
    rows = prepare_raw(raw, tmp_path / "set", layout=layout)
    splits = ["test", "test", "train", "train"]
    assert [(row.image_id, row.split) for row in rows] == list(
        zip(["Test_a", "Test_b", "train_a", "train_b"], splits, strict=True)
    )


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("a.png", "b.png", "0 wildcards and --masks b.png 0"),
        ("*/*.png", "*.png", "2 wildcards and --masks"),
        ("../*.png", "*.png", "leaves the folder"),
        ("/x/*.png", "*.png", "leaves the folder"),
        ("*.png", "*.png", "an image is not its own mask"),
    ],
)
def test_patterns_that_do_not_go_together(images: str, masks: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        pattern_layout(images, masks)


@pytest.mark.parametrize(
    ("images", "masks", "words"),
    [
        ("no/*.png", "m/*.png", "--images no/*.png matches no image"),
        ("i/*.png", "m/*x.png", "--masks m/*x.png matches no image"),
        ("?/*.png", "?/*b.png", "image"),
    ],
)
def test_patterns_that_find_no_pairs(tmp_path: Path, images: str, masks: str, words: str) -> None:
    write_places(tmp_path / "raw", "i/{}.png", "m/{}.png", ["a", "b"])
    with pytest.raises(InputError, match=re.escape(words)):
        prepare_raw(tmp_path / "raw", tmp_path / "set", layout=pattern_layout(images, masks))


def test_a_folder_with_images_is_never_called_empty(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for folder in ("images", "masks"):
        save(raw / folder / "deeper" / "a.png", item(0)[0])
    message = refused(raw)
    assert "its folders are empty" not in message
    assert "images/deeper/a.png" in message
    for path in raw.rglob("*.png"):
        path.rename(path.with_suffix(".webp"))
    message = refused(raw)
    assert "its folders are empty" not in message
    assert "images/deeper/a.webp" in message


def test_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = tmp_path / "raw"
    write_places(raw, "images/{}.png", "masks/{}.png", list("abc"))
    for index in range(8):
        save(raw / "images" / "more" / f"{index}.png", item(index)[0])
    prepare_raw(raw, tmp_path / "set")
    assert f"8 files of {raw} are left out: images/more/0.png, images/more/1.png" in caplog.text
    assert "and 2 more" in caplog.text


def test_names_pair_and_are_written_with_their_accents_composed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    save(raw / "images" / "Ze\u0301ro.png", item(0)[0])
    save(raw / "masks" / "Z\u00e9ro.png", item(0)[1])
    rows = prepare_raw(raw, tmp_path / "set")
    assert [row.image_id for row in rows] == ["Z\u00e9ro"]


# --- masks of other values, and images that EXIF turns -----------------------------------------


def test_object_numbers_are_merged_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = tmp_path / "raw"
    numbers = np.zeros((13, 15), np.uint16)
    numbers[::2, ::2] = np.arange(1, 57).reshape(7, 8)
    save(raw / "images" / "a.png", item(0)[0])
    save(raw / "masks" / "a.tif", numbers)
    with caplog.at_level(logging.INFO):
        rows = prepare_raw(raw, tmp_path / "set")
    assert rows[0].nuclei == 56
    mask = read_image(tmp_path / "set" / "masks" / "a.png", "L")
    assert np.array_equal(mask, np.where(numbers > 0, 255, 0))


def test_what_is_foreground_can_be_said_to_prepare(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    values = np.zeros((13, 15), np.uint8)
    values[2:6, 2:9], values[8:12, 4:12] = 100, 200
    save(raw / "images" / "a.png", item(0)[0])
    save(raw / "masks" / "a.png", values)
    assert "--foreground" in refused(raw)
    prepare_raw(raw, tmp_path / "set", foreground=Foreground.parse(["200"]))
    mask = read_image(tmp_path / "set" / "masks" / "a.png", "L")
    assert np.array_equal(mask, np.where(values == 200, 255, 0))
    with pytest.raises(InputError, match="not one of 1 masks holds what --foreground states"):
        prepare_raw(raw, tmp_path / "none", foreground=Foreground.parse(["201-255"]))
    assert not (tmp_path / "none" / "splits.csv").exists()


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_label_maps_stay_what_they_are(tmp_path: Path, suffix: str) -> None:
    raw = tmp_path / "raw"
    values = np.arange(13 * 15, dtype=np.uint8).reshape(13, 15) % 4
    save(raw / "images" / "a.png", item(0)[0])
    image = Image.fromarray(values)
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    (raw / "masks").mkdir()
    image.save(raw / "masks" / f"a{suffix}")
    prepare_raw(raw, tmp_path / "set", label_maps=True)
    with Image.open(tmp_path / "set" / "masks" / "a.png") as written:
        assert written.mode == "P"
        assert np.array_equal(np.asarray(written), values)
        assert written.getpalette() is not None
    with pytest.raises(UsageError, match="nothing of them is made foreground"):
        prepare_raw(raw, tmp_path / "b", label_maps=True, foreground=Foreground())


@pytest.mark.parametrize("orientation", [1, 3])
def test_an_image_that_exif_turns_is_refused_with_both_remedies(
    tmp_path: Path, orientation: int
) -> None:
    raw = tmp_path / "raw"
    exif = Image.Exif()
    exif[274] = orientation
    (raw / "images").mkdir(parents=True)
    Image.fromarray(item(0)[0]).save(raw / "images" / "a.jpg", exif=exif)
    save(raw / "masks" / "a.png", item(0)[1])
    if orientation == 1:
        prepare_raw(raw, tmp_path / "set")
        return
    message = refused(raw, raw / "images" / "a.jpg", "EXIF orientation 3")
    assert "auto-orient" in message
    assert "-Orientation=" in message


# --- ISIC 2018 ---------------------------------------------------------------------------------


def test_isic_counts_on_names_only(tmp_path: Path) -> None:
    for folder in (ISIC_IMAGES, ISIC_MASKS):
        (tmp_path / folder).mkdir()
    for index in range(2594):
        (tmp_path / ISIC_IMAGES / f"ISIC_{index:07}.jpg").touch()
        (tmp_path / ISIC_MASKS / f"ISIC_{index:07}_segmentation.png").touch()
    layout = layout_of(tmp_path)
    sources = layout.sources(tmp_path, None)
    assert len({source.name for source in sources}) == 2594
    assert layout.sizes(len(sources), layout.ratios) == (1815, 259, 520)


def test_an_isic_file_of_another_name(tmp_path: Path) -> None:
    write_isic2018(tmp_path / "raw")
    path = tmp_path / "raw" / ISIC_IMAGES / "ISIC_0000003_superpixels.png"
    save(path, item(0)[0])
    assert "not named like ISIC_0000000.jpg" in refused(tmp_path / "raw", path)


def test_isic_columns_are_those_that_are_known(tmp_path: Path) -> None:
    write_isic2018(tmp_path / "raw")
    prepare_raw(tmp_path / "raw", tmp_path / "set")
    lines = (tmp_path / "set" / "splits.csv").read_text().splitlines()
    assert lines[0] == "image_id,split,width,height"
    assert lines[1].startswith("ISIC_0000000,")
    assert lines[1].endswith(",15,13")


# --- split folders -----------------------------------------------------------------------------


def test_a_mask_may_have_its_images_name(tmp_path: Path) -> None:
    write_split_folders(tmp_path / "raw")
    for path in (tmp_path / "raw").rglob("*_segmentation.png"):
        path.rename(path.with_name(path.name.replace("_segmentation", "")))
    assert counts_of(prepare_raw(tmp_path / "raw", tmp_path / "set")) == (6, 1, 3)


@pytest.mark.parametrize("missing", ["valid", "valid_GT", "test", "test_GT"])
def test_a_missing_folder(tmp_path: Path, missing: str) -> None:
    write_split_folders(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / missing)
    assert "is not a folder" in refused(tmp_path / "raw", tmp_path / "raw" / missing)


def test_one_image_in_two_folders(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_split_folders(raw)
    first, second = raw / "train" / "ISIC_0000002.jpg", raw / "test" / "ISIC_0000002.jpg"
    mask = "ISIC_0000002_segmentation.png"
    shutil.copy(first, second)
    shutil.copy(raw / "train_GT" / mask, raw / "test_GT" / mask)
    assert "share the name" in refused(raw, first, second)
    renamed = second.with_name("ISIC_0000099.jpg")
    second.rename(renamed)
    (raw / "test_GT" / mask).rename(raw / "test_GT" / "ISIC_0000099_segmentation.png")
    message = refused(raw, f"{first} (train)", f"{renamed} (test)")
    assert "the very same pixels" in message


def test_given_splits_leave_nothing_to_divide(tmp_path: Path) -> None:
    write_split_folders(tmp_path / "raw")
    with pytest.raises(UsageError, match="nothing to divide"):
        prepare_raw(tmp_path / "raw", tmp_path / "set", ratios=(0.7, 0.1, 0.2))
    assert not (tmp_path / "set").exists()


# --- DRIVE -------------------------------------------------------------------------------------


def test_the_official_test_folder_is_the_test_split(tmp_path: Path) -> None:
    write_drive(tmp_path / "raw")
    rows = prepare_raw(tmp_path / "raw", tmp_path / "set", ratios=(0.5, 0.5, 0))
    assert counts_of(rows) == (10, 10, 20)
    for row in rows:
        number, kind = row.image_id.split("_")
        assert (row.split == "test") is (kind == "test") is (int(number) <= 20)


def test_a_share_for_test_beside_the_official_one(tmp_path: Path) -> None:
    write_drive(tmp_path / "raw")
    with pytest.raises(UsageError, match="is the official test split; give a share of 0 for test"):
        prepare_raw(tmp_path / "raw", tmp_path / "set", ratios=(0.7, 0.1, 0.2))


@pytest.mark.parametrize("keep_folder", [False, True])
def test_a_download_without_the_truth_of_the_test_images(tmp_path: Path, keep_folder: bool) -> None:
    raw = tmp_path / "raw"
    write_drive(raw)
    shutil.rmtree(raw / "test" / "1st_manual")
    if keep_folder:
        (raw / "test" / "1st_manual").mkdir()
    message = refused(raw, raw / "test" / "1st_manual")
    assert "comes without the truth of its test images" in message
    assert "--ratios 0.6 0.2 0.2" in message
    rows = prepare_raw(raw, tmp_path / "three", ratios=(0.6, 0.2, 0.2))
    assert counts_of(rows) == (12, 4, 4)
    assert {row.image_id.split("_")[1] for row in rows} == {"training"}
    assert open_set(tmp_path / "three", "test").samples[0].field_path is not None


def test_a_training_image_that_is_a_test_image(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_drive(raw)
    first, second = raw / "training/images/28_training.tif", raw / "test/images/05_test.tif"
    shutil.copy(first, second)
    refused(raw, f"{first} (to be divided)", f"{second} (test)")


@pytest.mark.parametrize("change", ["missing", "alone", "size", "cut", "ones"])
def test_bad_fields_of_view(tmp_path: Path, change: str) -> None:
    raw = tmp_path / "raw"
    write_drive(raw)
    path = raw / "test" / "mask" / "07_test_mask.gif"
    if change == "missing":
        path.unlink()
        refused(raw, raw / "test" / "images" / "07_test.tif", "has no field of view", path.parent)
    elif change == "alone":
        path = path.with_name("77_test_mask.gif")
        save(path, item(0)[2])
        refused(raw, f"field of view {path} belongs to no image")
    elif change == "size":
        save(path, np.full((12, 15), 255, np.uint8))
        refused(raw, f"field of view {path}", "15x12", "15x13")
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:40])
        refused(raw, path, "cannot be read")
    else:
        save(path, np.ones((13, 15), np.uint8))
        refused(raw, f"field of view {path}", "values up to 1 only")
