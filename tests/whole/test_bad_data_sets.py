"""Bad data sets: whatever is wrong with a folder of images, one line says so and where."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from bad_images import FILES, FOLDER, PATHS, BadImage
from bad_input import Outcome, assert_refused, run_command
from PIL import Image

from segdeploy.deploy.data.image_set import open_set, read_splits
from segdeploy.deploy.system.errors import InputError

SIDE = 40
MASK = np.zeros((SIDE, SIDE), np.uint8)
MASK[8:20, 10:30] = 255
GREYS = MASK // 255 * 100
GREYS[8:12] *= 2


Change = Callable[[Path], object]


def save(path: Path, pixels: np.ndarray | None = None, *, seed: int = 0) -> None:
    """An image, or these pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def merged(root: Path) -> tuple[Path, Path]:
    for seed in range(4):
        save(root / "images" / f"{seed}.png", seed=seed)
        save(root / "masks" / f"{seed}.png", MASK)
    return root / "images" / "1.png", root / "masks" / "1.png"


def kaggle(root: Path) -> tuple[Path, Path]:
    for seed in range(4):
        save(root / f"{seed}" / "images" / f"{seed}.png", seed=seed)
        save(root / f"{seed}" / "masks" / "a.png", MASK)
        save(root / f"{seed}" / "masks" / "b.png", MASK)
    return root / "1" / "images" / "1.png", root / "1" / "masks" / "b.png"


def isic(root: Path) -> tuple[Path, Path]:
    images = root / "ISIC2018_Task1-2_Training_Input"
    masks = root / "ISIC2018_Task1_Training_GroundTruth"
    for seed in range(4):
        save(images / f"ISIC_{seed}.jpg", seed=seed)
        save(masks / f"ISIC_{seed}_segmentation.png", MASK)
    return images / "ISIC_1.jpg", masks / "ISIC_1_segmentation.png"


def split_folders(root: Path) -> tuple[Path, Path]:
    for seed, folder in enumerate(("train", "valid", "test")):
        save(root / folder / f"{seed}.jpg", seed=seed)
        save(root / f"{folder}_GT" / f"{seed}.png", MASK)
    return root / "valid" / "1.jpg", root / "valid_GT" / "1.png"


def drive(root: Path) -> tuple[Path, Path]:
    for seed, (part, kind) in enumerate((("training", "training"), ("test", "test"))):
        save(root / part / "images" / f"0{seed}_{kind}.tif", seed=seed)
        save(root / part / "1st_manual" / f"0{seed}_manual1.gif", MASK)
        save(root / part / "mask" / f"0{seed}_{kind}_mask.gif", MASK)
    return root / "test" / "images" / "01_test.tif", root / "test" / "1st_manual" / "01_manual1.gif"


LAYOUTS = {
    "merged": merged,
    "kaggle": kaggle,
    "isic": isic,
    "split folders": split_folders,
    "drive": drive,
}
SOME = tuple(
    case
    for case in (*FILES, *PATHS, FOLDER)
    if case.what in ("half a PNG", "pipe", "link to nothing", "16-bit grey PNG", "folder")
    or case.message.startswith("is too large")
)
EACH = [("merged", case) for case in (*FILES, *PATHS, FOLDER)]
EACH += [(layout, case) for layout in LAYOUTS if layout != "merged" for case in SOME[:6]]


OF_MASKS = {
    "16-bit grey PNG": "is 4x4 but its image",
    "16-bit RGB PNG": "has 16 bits a channel and several channels",
    "16-bit grey TIFF": "is 24x24 but its image",
    "16-bit RGB TIFF": "has 16 bits a channel and several channels",
    "32-bit TIFF": "is 24x24 but its image",
    "float TIFF": "is 24x24 but its image|expected whole numbers",
}
"""Masks may be deep: they number objects."""


def prepare(folder: Path, *flags: object) -> Outcome:
    argv = ("data", "prepare", folder / "raw", "-o", folder / "out", *flags)
    return run_command(argv, folder)


@pytest.mark.parametrize(
    ("layout", "case"), [pytest.param(*one, id=f"{one[0]}, {one[1].what}") for one in EACH]
)
@pytest.mark.parametrize("part", ["image", "mask"])
def test_a_bad_file_ends_the_preparation(
    tmp_path: Path, layout: str, case: BadImage, part: str
) -> None:
    image, mask = LAYOUTS[layout](tmp_path / "raw")
    bad = image if part == "image" else mask
    bad.unlink()
    case.make(bad)
    outcome = prepare(tmp_path)
    message = case.message if part == "image" else OF_MASKS.get(case.what, case.message)
    assert_only(outcome, code=3, message=f"{re.escape(str(bad))} .*{message}")
    assert not (tmp_path / "out" / "splits.csv").exists(), "never taken for a prepared set"


def assert_only(
    outcome: Outcome, *, code: int, message: str, left: str = r"out(/(images|masks|fov)(/.+)?)?"
) -> None:
    """A refusal that may leave what is finished, and nothing else."""
    assert all(re.fullmatch(left, name) for name in outcome.changed), outcome.changed
    assert not [name for name in outcome.changed if "partial" in name]
    assert_refused(replace(outcome, changed=()), code=code, message=message)


# --- the folder as a whole ---------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One change to a good folder, and what is then said."""

    what: str
    change: Change
    message: str
    code: int = 3


def pixels(name: str, values: np.ndarray) -> Change:
    return lambda root: save(root / name, values)


def text(name: str, content: str | bytes) -> Change:
    content = content.encode() if isinstance(content, str) else content
    return lambda root: (root / name).write_bytes(content)


def both(name: str) -> Change:
    """One more image and mask."""

    def change(root: Path) -> None:
        save(root / "images" / f"{name}.png", seed=9)
        save(root / "masks" / f"{name}.png", MASK)

    return change


def gone(name: str) -> Change:
    return lambda root: (root / name).unlink()


def emptied(root: Path) -> None:
    for path in (*(root / "images").iterdir(), *(root / "masks").iterdir()):
        path.unlink()


def linked_folder(root: Path) -> None:
    """The output's images are the raw ones."""
    (root.parent / "out").mkdir()
    (root.parent / "out" / "images").symlink_to(root / "images")


def circle(root: Path) -> None:
    (root.parent / "out").symlink_to(root.parent / "out")


TABLE = "image_id,split\n0,train\n1,val\n2,test\n3,train\n"
RAW = (
    Case("mask of another size", pixels("masks/1.png", MASK[:9]), "masks/1.png is 40x9 but its"),
    Case("mask of 0 and 1", pixels("masks/1.png", MASK // 255), "", code=0),
    Case("mask of 0 and 124", pixels("masks/1.png", MASK // 255 * 124), "", code=0),
    Case("mask of 1 and 2", pixels("masks/1.png", MASK // 255 + 1), "values 1 and 2; expected"),
    Case("mask of two greys", pixels("masks/1.png", GREYS), "values 0, 100 and 200.*--foreground"),
    Case("no mask", gone("masks/1.png"), "image .*1.png has no mask in .*masks"),
    Case("no image", gone("images/1.png"), "mask .*1.png belongs to no image"),
    Case("nothing", emptied, "holds no images"),
    Case("other suffix", both("x.y"), "", code=0),
    Case("line break", both("a\nb"), r"the image name 'a\\nb' holds a line break.*rename"),
    Case("not UTF-8", both(os.fsdecode(b"a\xff")), r"name 'a\\udcff' holds .*not UTF-8; rename"),
    Case("line separator", both("a\u2028b"), "holds a line break"),
    Case("a long name", both("n" * 251), "", code=0),
    Case("spaces and commas", both(' a, "b" '), "", code=0),
    Case("a dash", both("-x"), "", code=0),
    Case("two by case", both("A"), "", code=0),
    Case("the raw images as output", linked_folder, "out/images is a folder of .*raw", code=2),
    Case("output in a circle", circle, "the system refused .*out.*choose another path", code=4),
    Case("a table", text("splits.csv", TABLE), "", code=0),
    Case("a file as table", text("splits.csv", b"\x89PNG\r\n\0\xff"), "not a UTF-8 CSV file"),
    Case("empty table", text("splits.csv", ""), "has columns .*expected image_id and split"),
    Case("other columns", text("splits.csv", "a,b\n"), "expected image_id and split"),
    Case("unknown split", text("splits.csv", TABLE + "9,dev\n"), ":6: split 'dev' is not one of"),
    Case("two splits", text("splits.csv", TABLE + "1,test\n"), ":6: '1' is listed twice"),
    Case("no split", text("splits.csv", TABLE + "9\n"), ":6: split None is not one of"),
    Case("no name", text("splits.csv", "split,image_id\ntrain\n"), ":2: no image_id"),
    Case("missing image", text("splits.csv", TABLE + "9,val\n"), "lists '9', but there is no such"),
    Case("unlisted image", text("splits.csv", TABLE[:-8]), "images/3.png is in no split of"),
    Case("outside", text("splits.csv", TABLE + "../masks/1,val\n"), "lists '../masks/1', but"),
    Case("absolute", text("splits.csv", TABLE + "/etc/passwd,val\n"), "lists '/etc/passwd', but"),
)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.what) for case in RAW])
def test_a_folder_that_is_prepared(tmp_path: Path, case: Case) -> None:
    merged(tmp_path / "raw")
    case.change(tmp_path / "raw")
    outcome = prepare(tmp_path)
    if case.code == 0:
        assert outcome.code == 0, outcome.lines
        again = prepare(tmp_path)
        assert not again.changed, "the same bytes again"
        for split in set(read_splits(tmp_path / "out" / "splits.csv").values()):
            for sample in open_set(tmp_path / "out", split):
                assert sample.mask().shape == sample.image().shape[:2]
        return
    assert_only(outcome, code=case.code, message=case.message)


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_one_value_are_masks(tmp_path: Path, value: int) -> None:
    merged(tmp_path / "raw")
    save(tmp_path / "raw" / "masks" / "1.png", np.full((SIDE, SIDE), value, np.uint8))
    assert prepare(tmp_path).code == 0
    assert (open_set(tmp_path / "out", None).samples[1].mask() == value).all()


def test_names_that_differ_in_case_alone_are_refused(tmp_path: Path) -> None:
    merged(tmp_path / "raw")
    both("a")(tmp_path / "raw")
    both("A")(tmp_path / "raw")
    message = "A.png and .*a.png share the name '[aA]' but for upper and lower case.*rename one"
    assert_refused(prepare(tmp_path), code=3, message=message)


def test_one_image_is_a_set_whose_other_splits_are_empty(tmp_path: Path) -> None:
    save(tmp_path / "raw" / "images" / "x.png")
    save(tmp_path / "raw" / "masks" / "x.png", MASK)
    assert prepare(tmp_path).code == 0
    assert len(open_set(tmp_path / "out", "train")) == 1
    with pytest.raises(InputError, match="out: split 'test' holds no images"):
        open_set(tmp_path / "out", "test")


def test_the_parts_of_a_kaggle_mask_must_fit(tmp_path: Path) -> None:
    _, mask = kaggle(tmp_path / "raw")
    save(mask, MASK[:5])
    assert_only(prepare(tmp_path), code=3, message=r"masks/b.png is 40x5 but its image 1.png is 40")


def test_a_raw_folder_that_is_none(tmp_path: Path) -> None:
    for make in (Path.touch, os.mkfifo):
        make(tmp_path / "raw")
        assert_refused(prepare(tmp_path), code=3, message="holds no .* It is no folder")
        (tmp_path / "raw").unlink()


# --- prepared folders, through the verbs that read them ----------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path_factory.mktemp("model") / "net.onnx")


@dataclass(frozen=True)
class Verb:
    """A verb that reads a prepared folder, and what of it."""

    argv: tuple[str, ...]
    split: str
    masks: bool


RUNTIME = ("--runtime", "onnxruntime", "--warmup", "1", "--duration", "0.01")
VERBS = {
    "calibrate": Verb(("-m", "MODEL", "--calib-data", "set", "-o", "x.json"), "train", False),
    "parity": Verb(("-m", "MODEL", "--reference", "MODEL", "--data", "set"), "test", True),
    "benchmark": Verb(("-m", "MODEL", "--data", "set", *RUNTIME), "test", False),
    "train": Verb(("--data", "set", "-o", "out", "--epochs", "1", "--width", "2"), "val", True),
    "run": Verb(("--data", "set", "-o", "out", *RUNTIME), "test", False),
}
READ = tuple(case for case in (*FILES, *PATHS, FOLDER) if case.name == "x.png")[1::7] + PATHS


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[..., Outcome]:
    """Function (name) -> outcome, on the prepared folder ``set`` of one image a split."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "segdeploy.deploy.quantize.calibrate.return_freed_memory", lambda: None
    )  # takes a second
    for seed, split in enumerate(("train", "val", "test")):
        save(tmp_path / "set" / "images" / f"{split}.png", seed=seed)
        save(tmp_path / "set" / "masks" / f"{split}.png", MASK)
    (tmp_path / "set" / "splits.csv").write_text(
        "image_id,split\ntrain,train\nval,val\ntest,test\n"
    )

    def verb(name: str) -> Outcome:
        words = [str(model) if word == "MODEL" else word for word in VERBS[name].argv]
        return run_command([name, *words, "--threads", "1"], tmp_path)

    return verb


CLAIMED = r"out(/state\.pt)?"
"""A training says whose the folder is before it reads an image."""

EACH_VERB = [
    pytest.param(name, part, case, id=f"{name}, {part}, {case.what}")
    for name, verb in VERBS.items()
    for part in ("images", "masks")[: 1 + verb.masks]
    for case in (READ if name != "run" else PATHS)
]


@pytest.mark.parametrize(("name", "part", "case"), EACH_VERB)
def test_a_bad_file_of_a_set_that_is_read(
    tmp_path: Path, verb: Callable[[str], Outcome], name: str, part: str, case: BadImage
) -> None:
    bad = Path("set", part, f"{VERBS[name].split}.png")
    bad.unlink()
    case.make(bad)
    found = case.message if part == "images" else OF_MASKS.get(case.what, case.message)
    message = f"{bad} .*{found}"
    if part == "images" and VERBS[name].masks:  # whichever of the two is read first
        message += f"|its image {bad.name} is 24x24"
    assert_only(verb(name), code=3, message=message, left=CLAIMED if name == "train" else "")


SETS = (
    Case("no folder", lambda root: root.rename("other"), "set holds no images/ folder; expected"),
    Case(
        "no table",
        gone("splits.csv"),
        "set/splits.csv does not exist; it is laid out as dsb2018, .*data prepare set -o DIR",
    ),
    Case("a pipe as table", lambda root: piped(root), "splits.csv does not exist"),
    Case("missing image", gone("images/val.png"), "lists 'val', but set/images has no such image"),
    Case("missing mask", gone("masks/val.png"), "val.png has no mask set/masks/val.png"),
    Case("outside", text("splits.csv", "image_id,split\n../masks/val,train\n"), "no such image"),
    Case("absolute", text("splits.csv", "image_id,split\n/etc/passwd,train\n"), "no such image"),
    Case("no image of a split", text("splits.csv", "image_id,split\n"), "split 'train' holds no"),
    Case("two suffixes", lambda root: save(root / "images" / "val.jpg"), "share a name; keep one"),
    Case("an empty field of view", pixels("fov/val.png", MASK), "has no field of view"),
    Case("mask of another size", pixels("masks/val.png", MASK[:9]), "val.png is 40x9 but its"),
    Case("mask of two greys", pixels("masks/val.png", GREYS), "values 0, 100 and 200; expected"),
)


def piped(root: Path) -> None:
    """A pipe in place of the table."""
    (root / "splits.csv").unlink()
    os.mkfifo(root / "splits.csv")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.what) for case in SETS])
def test_a_set_that_is_trained_on(verb: Callable[[str], Outcome], case: Case) -> None:
    case.change(Path("set"))
    assert_only(verb("train"), code=case.code, message=case.message, left=CLAIMED)


def test_the_digest_of_a_set_waits_for_no_pipe(verb: Callable[[str], Outcome]) -> None:
    """``calibrate`` and ``run`` read every image's bytes before the first is decoded."""
    images = open_set(Path("set"), None)
    before = images.sha256()
    images.samples[0].image_path.unlink()
    os.mkfifo(images.samples[0].image_path)
    with pytest.raises(InputError, match=r"test\.png is a pipe"):
        images.sha256()
    assert len(before) == 64


def test_a_run_says_at_once_that_one_image_is_too_few(verb: Callable[[str], Outcome]) -> None:
    message = "set: split 'test' holds 1 image; parity needs at least 2"
    assert_refused(verb("run"), code=3, message=message)
