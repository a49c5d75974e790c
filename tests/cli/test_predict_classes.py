"""segdeploy predict on networks of several classes: files, palettes, chosen classes, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import segdeploy as sd
from segdeploy.cli.main import main
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import output_entries, set_metadata

WritePng = Callable[[Path, NDArray[np.generic]], Path]

SIDE = 16
BANDS = (10, 80, 150, 220)
"""Grey values of four bands, each of its own class."""

FOUR = OutputContract(
    activation=Activation.SOFTMAX,
    classes=("ground", "wall", "road", "tree"),
    colours=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)),
)
OVERLAP = OutputContract(classes=("lit", "bright"))


def network(path: Path, output: OutputContract, *, logits: bool = False) -> Path:
    """Brightness into classes: softmax of four bands, or two labels that begin at 60 and 180."""
    if output.exclusive:  # -(x - band)^2 without the square of x, which all classes share
        bands = np.array(BANDS, np.float32) / 255
        slope, start = 2 * bands, -(bands**2)
        slope, start = 400 * slope, 400 * start
    else:
        slope = np.full(2, 100, np.float32)
        start = -slope * np.array([60, 180], np.float32) / 255
    weights = np.repeat(slope[:, None, None, None] / 3, 3, axis=1).astype(np.float32)
    last = "probability" if logits else "scores"
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], [last], name="conv", kernel_shape=[1, 1])
    ]
    if not logits:
        kind, axis = ("Softmax", {"axis": 1}) if output.exclusive else ("Sigmoid", {})
        nodes.append(helper.make_node(kind, ["scores"], ["probability"], name="end", **axis))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, SIDE, SIDE])
        for name, channels in (("image", 3), ("probability", output.channels))
    ]
    constants = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(start.astype(np.float32), "b"),
    ]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    zero_one = Preprocess(size=(SIDE, SIDE), channel_order="RGB", mean=(0.0,) * 3, std=(1.0,) * 3)
    set_metadata(model, {"preprocess": zero_one.to_json(), **output_entries(output)})
    onnx.save(model, path)
    return path


@pytest.fixture
def photos(tmp_path: Path, write_png: WritePng) -> Path:
    """Two images of four bands each, the second upside down; larger than the network's input."""
    rows = np.repeat(np.array(BANDS, np.uint8), 8)
    grey = np.repeat(rows[:, None], 24, axis=1)
    for name, pixels in (("a", grey), ("b", grey[::-1])):
        write_png(tmp_path / "photos" / f"{name}.png", np.repeat(pixels[..., None], 3, axis=2))
    return tmp_path / "photos"


def predict(model: Path, photos: Path, *words: object) -> int:
    out = photos.parent / "out"
    given = ["predict", model, photos, "-o", out, "--threads", 1, "--overwrite", *words]
    return main([str(word) for word in given])


def opened(photos: Path, file: str) -> Image.Image:
    with Image.open(photos.parent / "out" / file) as image:
        image.load()
        return image


EXPECTED = np.repeat(np.repeat(np.arange(4, dtype=np.uint8), 8)[:, None], 24, axis=1)


@pytest.mark.parametrize("fit", [(), ("--fit", "tile", "--overlap", 4)], ids=["resized", "tiled"])
def test_classes_that_exclude_each_other(
    tmp_path: Path, photos: Path, fit: tuple[object, ...]
) -> None:
    model = network(tmp_path / "net.onnx", FOUR)
    words = ("--write", "mask", "probability", "probability-npy", "overlay", "labels")
    assert predict(model, photos, *words, "--write-classes", "road", 3, *fit) == 0
    index = opened(photos, "a.png")
    assert index.mode == "P"
    assert np.array_equal(np.asarray(index), EXPECTED)
    assert np.array_equal(np.asarray(opened(photos, "b.png")), EXPECTED[::-1])
    assert np.array_equal(np.asarray(index.convert("RGB")), np.array(FOUR.colours)[EXPECTED])
    stored = np.load(photos.parent / "out" / "probability" / "a.npy")
    assert stored.shape == (2, 32, 24)
    assert np.array_equal(stored[0] > 0.5, EXPECTED == 2)
    made = {path.parent.name for path in (photos.parent / "out" / "probability").glob("*/a.png")}
    assert made == {"2", "3"}
    for name in made:
        found = np.asarray(opened(photos, f"probability/{name}/a.png"))
        assert np.array_equal(found >= 32768, int(name) == EXPECTED)
    assert np.array_equal(np.asarray(opened(photos, "labels/a.png")), EXPECTED)
    shown = np.asarray(opened(photos, "overlay/a.png"))
    assert (shown[:7] == 10).all(), "the background stays as it is"
    assert (shown[16, 5] == FOUR.palette[2]).all()


def test_labels_that_overlap(tmp_path: Path, photos: Path) -> None:
    model = network(tmp_path / "net.onnx", OVERLAP)
    assert predict(model, photos, "--write", "mask", "probability") == 0
    for index, least in enumerate((1, 3)):
        expected = np.where(least <= EXPECTED, 255, 0)
        assert np.array_equal(np.asarray(opened(photos, f"{index}/a.png")), expected)
        stored = np.asarray(opened(photos, f"probability/{index}/a.png"))
        assert np.array_equal(stored >= 32768, expected > 0)


def test_the_predictor_gives_what_the_command_writes(tmp_path: Path, photos: Path) -> None:
    image = np.asarray(opened_photo(photos))
    with sd.Predictor(network(tmp_path / "four.onnx", FOUR)) as predictor:
        assert predictor.output == FOUR
        assert np.array_equal(predictor(image), EXPECTED)
        planes = predictor.probability(image)
        assert planes.shape == (4, 32, 24)
        assert np.allclose(planes.sum(axis=0), 1, atol=1e-5)
    with sd.Predictor(network(tmp_path / "two.onnx", OVERLAP)) as predictor:
        masks = predictor(image)
        assert np.array_equal(masks, np.stack([EXPECTED >= 1, EXPECTED >= 3]) * 255)


def opened_photo(photos: Path) -> Image.Image:
    with Image.open(photos / "a.png") as image:
        image.load()
        return image


def test_what_is_done_stays_done(tmp_path: Path, photos: Path) -> None:
    model = network(tmp_path / "net.onnx", FOUR)
    summaries = [
        sd.predict(model, photos, tmp_path / "out", write="probability", classes=[name])
        for name in ("road", "road", "tree")
    ]
    assert [summary.reused for summary in summaries] == [0, 2, 0]
    made = sorted(path.parent.name for path in (tmp_path / "out" / "probability").glob("*/*.png"))
    assert made == ["3", "3"], "those of the earlier class are gone"


@pytest.mark.parametrize(
    ("output", "words", "code", "message"),
    [
        (
            FOUR,
            ("--write", "probability", "--write-classes", "sky"),
            2,
            "no class 'sky'; it has gr",
        ),
        (FOUR, ("--write", "probability", "--write-classes", "4"), 2, "no class '4'"),
        (FOUR, ("--write-classes", "road"), 2, "it writes none"),
        (OVERLAP, ("--write", "labels"), 3, "may overlap, so a pixel has no one object"),
    ],
)
def test_what_classes_cannot_do(
    tmp_path: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    output: OutputContract,
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    assert predict(network(tmp_path / "net.onnx", output), photos, *words) == code
    assert message in capsys.readouterr().err


def test_values_that_are_no_probabilities_are_never_encoded(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(network(tmp_path / "net.onnx", FOUR, logits=True), photos) == 3
    assert not list((photos.parent / "out").glob("*.png"))
    assert "segdeploy: error: " in capsys.readouterr().err


def test_swapped_arguments_are_told_in_their_order(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(tmp_path / "my net.onnx", FOUR)
    for first in (photos, photos / "a.png"):
        with pytest.raises(SystemExit) as caught:
            main(["predict", str(first), str(model), "-o", str(tmp_path / "out")])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert f"the model comes first, as in `segdeploy predict '{model}' {first}`" in said
        assert said.count("\n") == 1


def test_the_first_reason_is_said_of_many_images(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(10):
        (photos / f"bad{index}.png").write_bytes(b"no image")
    assert predict(network(tmp_path / "net.onnx", FOUR), photos) == 3
    said = capsys.readouterr().err
    assert "10 of 12 images are not done (10 unreadable, 0 failed); the first: image " in said
    assert "bad0.png cannot be read" in said
    assert "the index says why of each" in said
