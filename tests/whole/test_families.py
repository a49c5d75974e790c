"""Networks trained as two public projects train them score here what they score there.

Each project's preprocessing is written out below from its sources, with Pillow and NumPy alone, and
used to train; what the project would have saved is then exported and judged here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import segdeploy as sd
from segdeploy.benchmarks.scores.accuracy import score
from segdeploy.cli.main import main
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.networks import Network, build_network

Pixels = NDArray[np.uint8]

STEPS = 60
BATCH = 6
SPLITS = ["train"] * 18 + ["test"] * 12
TOLERANCE = 0.01
"""Percentage points of IoU."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a project does: how large its images are, its input, and the file it saves."""

    size: tuple[int, int]
    to_input: Callable[[Pixels], NDArray[np.float32]]
    recurrence: int
    save: Callable[[Network, Path], Path]
    origin: str


def image_segmentation_input(image: Pixels) -> NDArray[np.float32]:
    """``data_loader.py``: resize to width 256 keeping the aspect, ``ToTensor``, ``Normalize``."""
    picture = Image.fromarray(image)
    aspect_ratio = picture.size[1] / picture.size[0]
    height = int(256 * aspect_ratio) - int(256 * aspect_ratio) % 16
    picture = picture.resize((256, height), Image.Resampling.BILINEAR)
    tensor = np.asarray(picture).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    found: NDArray[np.float32] = (tensor - np.float32(0.5)) / np.float32(0.5)
    return found


def nested_unet_input(image: Pixels) -> NDArray[np.float32]:
    """``dataset.py``: BGR, albumentations' ``Normalize``, and over 255 once more."""
    found = image[..., ::-1].astype(np.float32)
    found -= np.array([0.485, 0.456, 0.406], np.float32) * 255
    found *= np.reciprocal(np.array([0.229, 0.224, 0.225], np.float32) * 255)
    return (found / 255).transpose(2, 0, 1)


def save_image_segmentation(network: Network, folder: Path) -> Path:
    """``solver.py``: ``torch.save`` of the state dict, named after the settings."""
    path = folder / "R2U_Net-150-0.0002-70-0.4000.pkl"
    torch.save(network.state_dict(), path)
    return path


def nested_unet_state(network: Network) -> dict[str, Tensor]:
    """The state dict under the names of its ``VGGBlock``."""
    names = {"conv.0": "conv1", "conv.1": "bn1", "conv.3": "conv2", "conv.4": "bn2"}
    state: dict[str, Tensor] = network.state_dict()
    for ours, theirs in names.items():
        state = {key.replace(f".{ours}.", f".{theirs}."): state[key] for key in state}
    return state


def save_nested_unet(network: Network, folder: Path) -> Path:
    """``train.py``: ``model.pth`` under the names of its ``VGGBlock``, and ``config.yml``."""
    state = nested_unet_state(network)
    torch.save(state, folder / "model.pth")
    nested = any(key.startswith("conv0_1.") for key in state)
    config = {
        "arch": "NestedUNet" if nested else "UNet",
        "deep_supervision": False,
        "input_channels": 3,
        "input_h": 32,
        "input_w": 48,
        "num_classes": 1,
    }
    (folder / "config.yml").write_text(yaml.dump(config))
    return folder / "model.pth"


IMAGE_SEGMENTATION = Project(
    size=(34, 240),
    to_input=image_segmentation_input,
    recurrence=3,
    save=save_image_segmentation,
    origin="LeeJunHyun Image_Segmentation's, height by the images' aspect",
)
NESTED_UNET = Project(
    size=(32, 48),
    to_input=nested_unet_input,
    recurrence=2,
    save=save_nested_unet,
    origin="pytorch-nested-unet's, the size that config.yml states",
)


def cells(draw: np.random.Generator, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Purple cells on a pale ground, whose colours differ little in grey, and their mask."""
    y, x = np.mgrid[: size[0], : size[1]]
    inside = np.zeros(size, np.bool_)
    for _ in range(int(draw.integers(2, 5))):
        centre, radius = draw.uniform(0.2, 0.8, 2) * size, draw.uniform(0.1, 0.2, 2) * size
        inside |= ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 <= 1
    colours = np.where(inside[..., None], (150, 90, 170), (140, 130, 90))
    noisy = colours + draw.normal(0, 20, (*size, 3))
    return noisy.clip(0, 255).astype(np.uint8), np.where(inside, np.uint8(255), np.uint8(0))


def write_set(folder: Path, size: tuple[int, int]) -> dict[str, list[tuple[Pixels, Pixels]]]:
    """A prepared folder; what it holds, by split."""
    draw = np.random.default_rng(2)
    found: dict[str, list[tuple[Pixels, Pixels]]] = {"train": [], "test": []}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    with (folder / "splits.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image_id", "split"])
        for index, split in enumerate(SPLITS):
            image, mask = cells(draw, size)
            Image.fromarray(image).save(folder / "images" / f"{index:02d}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{index:02d}.png")
            rows.writerow([f"{index:02d}", split])
            found[split].append((image, mask))
    return found


def truth_at(mask: Pixels, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The published metric's truth: bilinear without antialiasing, foreground from 125 on."""
    plane = torch.from_numpy(mask.astype(np.float32))[None, None]
    resized = nn.functional.interpolate(plane, size=size, mode="bilinear", align_corners=False)
    found: NDArray[np.bool_] = resized[0, 0].round().numpy() >= 125
    return found


def trained(network: Network, pairs: list[tuple[Pixels, Pixels]], project: Project) -> Network:
    """A few steps of the usual kind on the project's own inputs."""
    inputs = torch.from_numpy(np.stack([project.to_input(image) for image, _ in pairs]))
    size = (inputs.shape[2], inputs.shape[3])
    truths = torch.from_numpy(np.stack([truth_at(mask, size) for _, mask in pairs])[:, None])
    if inputs.std() < 0.1:  # of so little BatchNorm would see nothing for a long time
        first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
        with torch.no_grad():
            first.weight /= inputs.std()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(STEPS):
        chosen = torch.randperm(len(pairs), generator=generator)[:BATCH]
        logits: Tensor = network(inputs[chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truths[chosen].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def iou_by_hand(network: Network, pairs: list[tuple[Pixels, Pixels]], project: Project) -> float:
    """Mean IoU of the foreground, in percent, from the project's inputs to its sigmoid."""
    ious = []
    for image, mask in pairs:
        with torch.no_grad():
            logits = network(torch.from_numpy(project.to_input(image)[None]))
        found = torch.sigmoid(logits)[0, 0].numpy() >= 0.5
        truth = truth_at(mask, found.shape)
        ious.append(100 * (found & truth).sum() / (found | truth).sum())
    return float(np.mean(ious))


@pytest.mark.parametrize(
    ("project", "arch"),
    [
        (IMAGE_SEGMENTATION, Architecture.R2U_NET),
        (IMAGE_SEGMENTATION, Architecture.ATTENTION_U_NET),
        (NESTED_UNET, Architecture.UNET_PLUS_PLUS),
        (NESTED_UNET, Architecture.U_NET_BILINEAR),
    ],
    ids=lambda value: value.value if isinstance(value, Architecture) else "of",
)
def test_a_network_scores_here_what_it_scores_in_its_project(
    project: Project, arch: Architecture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_set(tmp_path / "set", project.size)
    torch.manual_seed(1)
    network = build_network(arch, width=4, recurrence=project.recurrence, deep_supervision=False)
    trained(network, pairs["train"], project)
    by_hand = iou_by_hand(network, pairs["test"], project)
    assert by_hand > 50, "too little trained to tell a wrong input from a right one"
    path = project.save(network, tmp_path)
    loaded = sd.load(path, data=tmp_path / "set")
    assert isinstance(loaded, sd.Checkpoint)
    assert all(words in loaded.contract_origin for words in project.origin.split(", "))
    assert loaded.logits
    sd.export(loaded, tmp_path / "net.onnx")
    words = ["parity", "-m", str(tmp_path / "net.onnx"), "--reference", str(path)]
    words += ["--data", str(tmp_path / "set"), "--runtime", "onnxruntime", "--threads", "1"]
    assert main([*words, "--format", "json"]) == 0
    reference, exported = json.loads(capsys.readouterr().out)["rows"]
    assert reference["scores"]["iou"] == pytest.approx(by_hand, abs=TOLERANCE)
    assert exported["scores"]["iou"] == pytest.approx(by_hand, abs=TOLERANCE)
    wrong = Preprocess(size=loaded.preprocess.size)
    images = open_set(tmp_path / "set", "test")
    with torch.no_grad():
        misread = loaded.probability()(torch.from_numpy(images.inputs(wrong)))[:, 0].numpy()
    assert abs(score(misread, images.truths(wrong)).iou - by_hand) > 1, "any input would do"


# --- pytorch-nested-unet with other channels and classes -----------------------------------------


def grey_input(image: Pixels) -> NDArray[np.float32]:
    """``dataset.py`` with ``IMREAD_GRAYSCALE``: ``Normalize(0.5, 0.5)``, and over 255 once more."""
    found = (image.astype(np.float32) / 255 - 0.5) / 0.5
    return (found / 255)[None]


def write_parts(folder: Path, *, grey: bool, labels: int) -> list[tuple[str, Pixels, Pixels]]:
    """A prepared folder with a folder of masks for each label; masks (labels, H, W) overlap."""
    draw = np.random.default_rng(6)
    found = []
    (folder / "images").mkdir(parents=True)
    rows = ["image_id,split"]
    for index, split in enumerate(SPLITS):
        image, mask = cells(draw, (32, 48))
        masks = np.stack([mask, np.roll(mask, 12, axis=1), np.roll(mask, 9, axis=0)])[:labels]
        shades = np.stack([image[..., 0], image[..., 1], image[..., 2]], axis=-1).astype(np.int32)
        shades = shades + masks.transpose(1, 2, 0)[..., :3].astype(np.int32) // 4
        colour = shades.clip(0, 255).astype(np.uint8)
        picture = colour.mean(axis=2).astype(np.uint8) if grey else colour
        Image.fromarray(picture).save(folder / "images" / f"{index:02d}.png")
        for label, plane in enumerate(masks):
            place = folder / "masks" / (str(label) if labels > 1 else "")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane).save(place / f"{index:02d}.png")
        rows.append(f"{index:02d},{split}")
        found.append((split, picture, masks))
    (folder / "splits.csv").write_text("\n".join(rows) + "\n")
    return found


@pytest.mark.parametrize(("channels", "labels"), [(3, 3), (1, 1)], ids=["3 classes", "1 channel"])
def test_other_channels_and_classes_of_nested_unet(
    channels: int, labels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to_input = grey_input if channels == 1 else nested_unet_input
    items = write_parts(tmp_path / "set", grey=channels == 1, labels=labels)
    torch.manual_seed(1)
    network = build_network(
        Architecture.U_NET_BILINEAR, in_channels=channels, num_classes=labels, width=4
    )
    inputs = torch.from_numpy(np.stack([to_input(image) for _, image, _ in items]))
    truths = torch.from_numpy(np.stack([masks for _, _, masks in items]) > 0).float()
    train = torch.tensor([split == "train" for split, _, _ in items])
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        first.weight /= inputs.std()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(STEPS):
        loss = nn.functional.binary_cross_entropy_with_logits(network(inputs[train]), truths[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = (torch.sigmoid(network.eval()(inputs[~train])) >= 0.5).numpy()
    truth = truths[~train].bool().numpy()
    torch.save(nested_unet_state(network), tmp_path / "model.pth")
    config = {"arch": "UNet", "input_channels": channels, "num_classes": labels}
    (tmp_path / "config.yml").write_text(yaml.dump(config | {"input_h": 32, "input_w": 48}))
    stated: list[str] = []
    if channels == 1:
        contract = Preprocess(size=(32, 48), channel_order="GREY", mean=(0.5,), std=(0.5 * 255,))
        (tmp_path / "input.json").write_text(contract.to_json())
        stated = ["--preprocess", str(tmp_path / "input.json")]
    path, out = str(tmp_path / "model.pth"), str(tmp_path / "net.onnx")
    assert main(["export", "-c", path, "-o", out, *stated]) == 0
    capsys.readouterr()
    words = ["parity", "-m", out, "--reference", path, *stated, "--data", str(tmp_path / "set")]
    assert main([*words, "--runtime", "onnxruntime", "--threads", "1", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    both, either = (found & truth), (found | truth)
    if labels == 1:
        expected = [np.mean(100 * both.sum((1, 2, 3)) / either.sum((1, 2, 3)))]
        scores = [[row["scores"]["iou"]] for row in rows]
    else:
        expected = list(100 * both.sum((0, 2, 3)) / either.sum((0, 2, 3)))
        scores = [[each["iou"] for each in row["classes"]] for row in rows]
    assert min(expected) > 30, "too little trained to tell a wrong input from a right one"
    for row in scores:
        assert row == pytest.approx(expected, abs=TOLERANCE)
