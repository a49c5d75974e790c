"""segdeploy parity on masks as people have them: the truth is understood, or refused by name.

The classifier is right on every pixel of every image, so whatever is scored must score 100.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from segdeploy.cli.main import main
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.file import set_metadata

SIDE = 32
ALL_OBJECTS = 12
Labels = NDArray[np.int64]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Foreground where the mean of the channels is above 0.37: right on ``scene``."""
    weights = np.full((1, 3, 1, 1), 2, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w", "b"], ["e"], name="c", kernel_shape=[1, 1]),
            helper.make_node("Sigmoid", ["e"], ["probability"], name="s"),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([1.5], np.float32), "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    contract = Preprocess(size=(SIDE, SIDE), channel_order="RGB")
    set_metadata(model, {"preprocess": contract.to_json()})
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    onnx.save(model, path)
    return path


def scene(seed: int, objects: int) -> tuple[NDArray[np.uint8], Labels]:
    """Bright squares on a dark ground, and the number of each; none touches another."""
    across = int(np.ceil(np.sqrt(objects)))
    step = 96 // across
    side = max(step - 3, 2)
    labels = np.zeros((96, 96), np.int64)
    for index in range(objects):
        top, left = (place * step for place in divmod(index, across))
        labels[top : top + side, left : left + side] = index + 1
    grey = np.where(labels > 0, 220, 20) + np.random.default_rng(seed).integers(0, 10, (96, 96))
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), labels


def alpha(colour: int) -> Callable[[Labels], NDArray[np.generic]]:
    def drawn(labels: Labels) -> NDArray[np.generic]:
        flat = np.full((*labels.shape, 3), colour)
        return np.dstack([flat, (labels > 0) * 255]).astype(np.uint8)

    return drawn


def two_colours(labels: Labels) -> NDArray[np.generic]:
    lit, even = labels > 0, labels % 2 == 0
    return np.dstack([lit * 255, (lit & even) * 255, lit * 0]).astype(np.uint8)


def one_colour(labels: Labels) -> NDArray[np.generic]:
    lit = labels > 0
    return np.dstack([lit * 128, lit * 0, lit * 0]).astype(np.uint8)


DRAWN: dict[str, tuple[int, Callable[[Labels], NDArray[np.generic]], str, str]] = {
    "right": (12, lambda labels: ((labels > 0) * 255).astype(np.uint8), ".png", ""),
    "ones": (12, lambda labels: (labels > 0).astype(np.uint8), ".png", ""),
    "object numbers 12": (12, lambda labels: labels.astype(np.uint8), ".png", ""),
    "object numbers 200": (200, lambda labels: labels.astype(np.uint8), ".png", ""),
    "object numbers of 16 bits": (12, lambda labels: labels.astype(np.uint16), ".tif", ""),
    "object numbers of 32 bits": (300, lambda labels: labels.astype(np.int32), ".tif", ""),
    "transparent white": (12, alpha(255), ".png", ""),
    "transparent black": (12, alpha(0), ".png", ""),
    "dark red": (12, one_colour, ".png", ""),
    "red and yellow": (12, two_colours, ".png", "#000000, #ff0000 and #ffff00"),
    "two greys": (
        12,
        lambda labels: ((labels > 0) * 100 + (labels > 0) * (labels % 2) * 100).astype(np.uint8),
        ".png",
        "0, 100 and 200",
    ),
}


def set_of(root: Path, objects: int, draw: Callable[[Path, Labels], None]) -> Path:
    rows = ["image_id,split"]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(3):
        image, labels = scene(index, objects)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        draw(root / "masks" / str(index), labels)
        rows.append(f"{index},test")
    (root / "splits.csv").write_text("\n".join(rows) + "\n")
    return root


def parity(network: Path, data: Path) -> int:
    words = ["-m", network, "--reference", network, "--data", data, "--runtime", "onnxruntime"]
    return main(["parity", *map(str, words), "--threads", "1"])


@pytest.mark.parametrize("kind", DRAWN)
def test_masks_score_100_or_are_refused_by_name(
    kind: str, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objects, drawn, suffix, refused = DRAWN[kind]

    def draw(path: Path, labels: Labels) -> None:
        Image.fromarray(drawn(labels)).save(path.with_suffix(suffix))

    data = set_of(tmp_path / "set", objects, draw)
    code = parity(network, data)
    shown, said = capsys.readouterr()
    if refused:
        assert code == 3
        assert said.count("\n") == 1
        assert refused in said
        assert "masks/0" in said
        assert "segdeploy data prepare" in said
    else:
        assert code == 0
        assert "IoU 100.000" in shown.splitlines()[0]
        plain = kind == "right"
        assert ("what that marks is foreground" in shown) is not plain
    raw, made = data, tmp_path / "made"
    assert main(["data", "prepare", str(raw), "-o", str(made)]) == code
    if refused:
        words = ["data", "prepare", str(raw), "-o", str(made), "--foreground", "any"]
        assert main(words) == 0
    for index in range(3):
        with Image.open(made / "masks" / f"{index}.png") as mask:
            assert np.array_equal(np.asarray(mask) >= 125, scene(index, objects)[1] > 0)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda labels: labels),
        (2, np.fliplr),
        (3, lambda labels: labels[::-1, ::-1]),
        (6, lambda labels: np.rot90(labels, -1)),
    ],
)
def test_a_turned_photograph_is_not_scored_against_a_mask_drawn_upright(
    orientation: int,
    turn: Callable[[Labels], Labels],
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def draw(path: Path, labels: Labels) -> None:
        drawn = ((turn(labels) > 0) * 255).astype(np.uint8)
        Image.fromarray(drawn).save(path.with_suffix(".png"))

    data = set_of(tmp_path / "set", 5, draw)
    exif = Image.Exif()
    exif[274] = orientation
    for path in sorted((data / "images").iterdir()):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=98, exif=exif)
        path.unlink()
    prepared = ["data", "prepare", str(data), "-o", str(tmp_path / "made")]
    for step in (lambda: parity(network, data), lambda: main(prepared)):
        code = step()
        shown, said = capsys.readouterr()
        assert code == (0 if orientation == 1 else 3)
        if code:
            assert f"EXIF orientation {orientation}" in said
            assert "0.jpg" in said
        elif "IoU" in shown:
            assert "IoU 100.000" in shown.splitlines()[0]
