"""Bad images: refused in one line that names the file, and none of them stops the others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_images import (
    FILES,
    FOLDER,
    HALF,
    PATHS,
    READABLE,
    BadImage,
    header_of,
    picture,
    stored,
)
from bad_input import MEMORY_LIMIT, TIME_LIMIT_S, Outcome, assert_refused, run_command
from numpy.typing import NDArray
from PIL import Image

from segdeploy.deploy.data.image_files import read_image
from segdeploy.deploy.data.image_levels import decode, image_size
from segdeploy.deploy.data.image_opening import MOST_PIXELS
from segdeploy.deploy.system.errors import InputError

ENCODINGS: dict[str, bytes] = {
    "PNG": stored(picture(), "PNG"),
    "palette PNG": stored(picture("P"), "PNG"),
    "JPEG": stored(picture(), "JPEG"),
    "progressive JPEG": stored(picture(), "JPEG", progressive=True),
    "TIFF": stored(picture(), "TIFF"),
    "LZW TIFF": stored(picture(), "TIFF", compression="tiff_lzw"),
    "BMP": stored(picture(), "BMP"),
    "GIF": stored(picture("P"), "GIF"),
}
WHERE = Path("folder/x.png")

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # the command line keeps them quiet


def named(cases: tuple[BadImage, ...]) -> list[object]:
    return [pytest.param(case, id=f"{case.what} as {case.name}") for case in cases]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, small_onnx: Callable[..., Path]) -> Path:
    return small_onnx(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[..., Outcome]:
    """Function (images, flags) -> outcome of ``predict`` into ``out``."""
    monkeypatch.chdir(tmp_path)

    def predict(*arguments: object) -> Outcome:
        argv = ("predict", model, *arguments, "-o", "out", "--threads", "1")
        return run_command(argv, tmp_path)

    return predict


def rows_of(output: Path) -> dict[str, dict[str, object]]:
    """The index, by name of the image."""
    lines = (output / "index.jsonl").read_bytes().splitlines()
    return {row["name"]: row for row in map(json.loads, lines)}


# --- one file ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", named((*FILES, *PATHS, FOLDER)))
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, case: BadImage, mode: str) -> None:
    path = tmp_path / case.name
    case.make(path)
    with pytest.raises(InputError, match=case.message) as caught:
        read_image(path, mode)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("what", "name", "content"), READABLE, ids=[kind[0] for kind in READABLE])
def test_the_content_decides_and_not_the_suffix(
    tmp_path: Path, what: str, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = read_image(path, "RGB")
    assert found.shape == (*image_size(path), 3)
    assert np.array_equal(found, decode(path, content=content).pixels)
    with Image.open(path) as image:
        assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_the_first_of_a_camera_s_previews_is_the_image(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    picture(seed=1).save(path, format="MPO", save_all=True, append_images=[picture(seed=2)])
    with Image.open(path) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]  # of MPO alone
        assert np.array_equal(read_image(path, "RGB"), np.asarray(image))


def decoded(content: bytes) -> NDArray[np.uint8] | str:
    """The pixels of an image, or the words of its refusal; anything else is raised."""
    try:
        return decode(WHERE, content=content).pixels
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_file_that_ends_early_is_refused_or_loses_no_pixel(kind: str) -> None:
    content = ENCODINGS[kind]
    whole = decoded(content)
    found = [decoded(content[:length]) for length in range(len(content))]
    refused = [words for words in found if isinstance(words, str)]
    assert len(refused) > len(content) - 40, "only the last bytes, which hold no pixel, may miss"
    assert all(re.match(rf"image {WHERE} {HALF}", words) for words in refused)
    for length, pixels in enumerate(found):
        same = isinstance(pixels, str) or np.array_equal(pixels, whole)
        assert same, f"{length} of {len(content)} bytes bend the image"


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_damaged_byte_gives_an_image_or_a_refusal(kind: str) -> None:
    content = ENCODINGS[kind]
    for place in range(len(content)):
        for flipped in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= flipped
            found = decoded(bytes(damaged))
            if isinstance(found, str):
                assert re.fullmatch(rf"image {WHERE} .+", found), "one line that names the file"
            else:
                assert (found.dtype, found.ndim) == (np.uint8, 3)


def test_the_largest_image_is_read_and_the_next_is_not() -> None:
    side = 9459
    assert side * side <= MOST_PIXELS < (side + 1) * (side + 1)
    stream = stored(Image.new("1", (side, side)), "PNG")
    assert len(stream) < 100_000, "a small file"
    assert decode(WHERE, content=stream).pixels.shape == (side, side, 3)
    with pytest.raises(InputError, match=f"at most {MOST_PIXELS} pixels"):
        decode(WHERE, content=header_of("BMP", side + 1, side + 1))


# --- predict -----------------------------------------------------------------------------------


def test_bad_images_stop_no_other_and_each_says_why(
    tmp_path: Path, predict: Callable[..., Outcome]
) -> None:
    images = tmp_path / "images"
    expected = {}
    for number, case in enumerate((*FILES, *PATHS)):
        folder = images / f"{number:02}"
        folder.mkdir(parents=True)
        case.make(folder / case.name)
        expected[f"{number:02}/{Path(case.name).stem}"] = case
    good = images / "x.png"
    good.mkdir()  # a folder with the name of an image is a folder
    for seed in range(3):
        (good / f"{seed}.png").write_bytes(stored(picture(seed=seed), "PNG"))
    outcome = predict("images")
    assert outcome.code == 3
    assert not [line for line in outcome.lines if re.search("error:|Warning|Traceback", line)]
    bad = len(expected)
    assert f"{bad} of {bad + 3} images are not done ({bad} unreadable, 0 failed)" in "".join(
        outcome.lines
    )
    assert outcome.added_bytes < MEMORY_LIMIT
    assert outcome.seconds < TIME_LIMIT_S
    rows = rows_of(tmp_path / "out")
    assert rows.keys() == expected.keys() | {f"x.png/{seed}" for seed in range(3)}
    for name, case in expected.items():
        assert rows[name]["status"] == "unreadable"
        assert re.search(case.message, str(rows[name]["error"])), case.what
    written = {name for name in outcome.changed if name.endswith(".png")}
    assert written == {"out/x.png", *(f"out/x.png/{seed}.png" for seed in range(3))}
    again = predict("images")
    assert again.code == 3
    assert not again.changed, "the same index, byte for byte"


@pytest.mark.parametrize("case", named((FILES[0], FILES[2], *PATHS)))
@pytest.mark.parametrize("form", ["alone", "list"])
def test_a_bad_image_by_its_name(
    tmp_path: Path, predict: Callable[..., Outcome], case: BadImage, form: str
) -> None:
    case.make(tmp_path / case.name)
    (tmp_path / "list.txt").write_text(case.name)
    outcome = predict(case.name if form == "alone" else "@list.txt")
    if form == "alone" and not (tmp_path / case.name).exists():
        assert_refused(outcome, code=3, message="x.png does not exist; expected an image, a folder")
        return
    assert outcome.code == 3
    assert re.search(case.message, str(rows_of(tmp_path / "out")["x"]["error"]))
    assert not [name for name in outcome.changed if name.endswith(".png")]


def test_an_image_that_would_grow_beyond_measure_is_refused(
    tmp_path: Path, predict: Callable[..., Outcome]
) -> None:
    """A line of a million pixels, filled up to tiles of 32 rows, and a picture scaled a lot."""
    (tmp_path / "line.png").write_bytes(stored(Image.new("L", (4_000_000, 1)), "PNG"))
    (tmp_path / "x.png").write_bytes(stored(picture(), "PNG"))
    for image, flags in (("line.png", ()), ("x.png", ("--scale", 1000))):
        outcome = predict(image, "--fit", "tile", *flags, "--overwrite")
        assert outcome.code == 3
        assert outcome.added_bytes < MEMORY_LIMIT
        row = rows_of(tmp_path / "out")[Path(image).stem]
        assert re.search("is too large: scaled and filled up.*smaller --scale", str(row["error"]))


NAMES: tuple[bytes, ...] = (
    b"a name with  spaces .png",
    b"two\nlines.png",
    b"\xff\xfe not UTF-8.png",
    b"-o.png",
    b"@list.png",
    b"[a]*?.png",
    "größe 細胞 \u2028.png".encode(),
    b"'quotes\" and, commas;.png",
    b"$(touch pwned).png",
    b"x" * 251 + b".png",
    b"..png.png",
    b"A.png",
    b"a.png",
)


def test_images_of_any_name_are_done_once(
    tmp_path: Path, predict: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in NAMES:
        (images / os.fsdecode(name)).write_bytes(stored(picture(), "PNG"))
    shown = len([name for name in NAMES if not name.startswith(b".")])
    first = predict("images", "--write", "mask", "labels", "--format", "json")
    assert first.code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == shown
    assert len(rows_of(tmp_path / "out")) == shown
    capsys.readouterr()
    again = predict("images", "--write", "mask", "labels")
    assert again.code == 0
    assert f"{shown} were done before" in capsys.readouterr().out
    assert not again.changed
    assert not list(tmp_path.rglob("pwned"))


def test_a_list_reaches_images_anywhere_and_writes_nowhere_else(
    tmp_path: Path, predict: Callable[..., Outcome]
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "x.png").write_bytes(stored(picture(), "PNG"))
    (tmp_path / "a" / "y.png").write_bytes(stored(picture(), "PNG"))
    (tmp_path / "list.txt").write_text(f"a/../x.png\n{tmp_path}/a/y.png\n..\n/\n/etc/passwd\n")
    outcome = predict("@list.txt")
    assert outcome.code == 3
    assert [name for name in outcome.changed if not name.startswith("out")] == []
    assert {name for name in outcome.changed if name.endswith(".png")} == {
        "out/x.png",
        "out/y.png",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x\0y.png\n", "list .*list.txt:1 is no path .it holds a NUL byte"),
        (b"\xff\xfe.png\n", "list list.txt cannot be read .*expected a path a line"),
        (b"", "no images"),
        (b"# nothing\n\n", "no images"),
    ],
)
def test_a_bad_list_is_refused(
    tmp_path: Path, predict: Callable[..., Outcome], content: bytes, message: str
) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    assert_refused(predict("@list.txt"), code=3, message=message)


def test_a_list_in_a_circle_of_links_is_an_image_that_is_not_done(
    tmp_path: Path, predict: Callable[..., Outcome]
) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "list.txt").write_text("a/x.png\n")
    assert predict("@list.txt").code == 3
    assert "cannot be reached" in str(rows_of(tmp_path / "out")["x"]["error"])
    outcome = predict("list.txt/x.png")
    assert_refused(outcome, code=3, message="does not exist")


def test_an_image_that_became_a_pipe_is_not_waited_for(
    tmp_path: Path, predict: Callable[..., Outcome]
) -> None:
    image = tmp_path / "x.png"
    image.write_bytes(stored(picture(), "PNG"))
    assert predict("x.png").code == 0
    image.unlink()
    os.mkfifo(image)
    outcome = predict("x.png")
    assert outcome.code == 3
    assert "is a pipe" in str(rows_of(tmp_path / "out")["x"]["error"])
    assert not (tmp_path / "out" / "x.png").exists(), "the mask of another image is gone"


@pytest.mark.skipif(os.geteuid() == 0, reason="the system refuses nothing to root")
def test_what_may_not_be_read_is_said(tmp_path: Path, predict: Callable[..., Outcome]) -> None:
    (tmp_path / "images" / "locked").mkdir(parents=True)
    image = tmp_path / "images" / "x.png"
    image.write_bytes(stored(picture(), "PNG"))
    image.chmod(0)
    assert predict("images").code == 3
    assert "may not be read" in str(rows_of(tmp_path / "out")["x"]["error"])
    (tmp_path / "images" / "locked").chmod(0)
    outcome = predict("images", "--overwrite")
    (tmp_path / "images" / "locked").chmod(0o700)
    assert_refused(outcome, code=3, message="locked cannot be read")
