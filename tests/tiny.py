"""Tiny networks, models and image sets: generated, the same each time, and done in a second."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from segdeploy.calibration.exchange import imported_range
from segdeploy.calibration.table import CalibrationTable, imported_table
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.models.networks import Network
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import (
    load_model,
    output_entries,
    output_of,
    save_model,
    set_metadata,
)
from segdeploy.deploy.quantize.activations import quantized_activations
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.runtimes.base import Execution, infer_each
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.targets.profiles import ORT_X86, TargetProfile

N = TypeVar("N", bound=Network)
Pixels = NDArray[np.uint8]

TINY = Preprocess(size=(32, 32))
SPLIT_OF_TWELVE = ["train"] * 6 + ["val"] * 2 + ["test"] * 4


def write_png_file(path: Path, pixels: NDArray[np.generic]) -> Path:
    """Write (H, W), (H, W, 3) or (H, W, 4) pixels; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return path


def randomised(network: N, *, seed: int = 7) -> N:
    """Random weights, BatchNorm affine and running statistics, so that every part matters.

    The statistics are those of generated images and the heads are scaled on them: activations
    neither die nor explode, and logits have mean 0 and standard deviation 2 on such images.
    Leaves torch's global generator as it was.
    """
    generator = np.random.default_rng(seed)
    inputs = np.stack([TINY.apply(nuclei(generator)[0]) for _ in range(8)])
    images = torch.from_numpy(inputs)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.normal_(module.bias, std=0.1)
        for norm in norms:
            nn.init.uniform_(norm.weight, 0.6, 1.4)
            nn.init.normal_(norm.bias, std=0.2)
            norm.momentum = None  # one pass sets the statistics, whatever they were
        network.train().heads(images)
        for norm in norms:
            norm.momentum = 0.1
        for head, logits in zip(_heads(network), network.eval().heads(images), strict=True):
            assert head.bias is not None
            gain = 2 / logits.std()
            head.weight *= gain
            head.bias.copy_((head.bias - logits.mean()) * gain)
    return network


def _heads(network: Network) -> list[nn.Conv2d]:
    names = network.head_names()
    heads = [network.get_submodule(name) for name in names]
    return [head for head in heads if isinstance(head, nn.Conv2d)]


def nuclei(
    generator: np.random.Generator, *, height: int = 40, width: int = 48
) -> tuple[Pixels, list[Pixels]]:
    """A noisy dark RGB image (H, W, 3) with 2 to 4 bright ellipses, and one 0/255 mask for each."""
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(int(generator.integers(2, 5))):
        centre_y, centre_x = generator.uniform(0.2, 0.8, 2) * (height, width)
        radius_y, radius_x = generator.uniform(0.1, 0.2, 2) * (height, width)
        inside = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2 <= 1
        masks.append(np.where(inside, np.uint8(255), np.uint8(0)))
    grey = generator.normal(25, 6, (height, width)) + 150 * (np.max(masks, axis=0) > 0)
    image = np.repeat(grey[..., None], 3, axis=2) * (1.0, 0.98, 1.02)
    return np.rint(image.clip(0, 255)).astype(np.uint8), masks


def write_image_set(root: Path, splits: list[str], *, seed: int = 3) -> Path:
    """A prepared folder with one generated image for each entry of ``splits``."""
    generator = np.random.default_rng(seed)
    names = [f"cells_{index:02d}" for index in range(len(splits))]
    for index, name in enumerate(names):
        image, masks = nuclei(generator, height=38 + index % 5, width=46 + index % 4)
        write_png_file(root / "images" / f"{name}.png", image)
        write_png_file(root / "masks" / f"{name}.png", np.max(masks, axis=0))
    with (root / "splits.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["image_id", "split"])
        writer.writerows(zip(names, splits, strict=True))
    return root


def write_some(source: Path, root: Path, **counts: int) -> Path:
    """A prepared folder with the first images of some splits of another, as links."""
    header, *rows = (source / "splits.csv").read_text().splitlines()
    column = header.split(",").index("split")
    kept = [header]
    for split, count in counts.items():
        kept += [row for row in rows if row.split(",")[column] == split][:count]
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        for row in kept[1:]:
            (path,) = (source / kind).glob(f"{row.split(',')[0]}.*")
            (root / kind / path.name).symlink_to(path)
    (root / "splits.csv").write_text("\n".join(kept) + "\n")
    return root


def write_discs(root: Path, splits: list[str], *, seed: int, area: tuple[float, float]) -> Path:
    """A prepared folder of bright discs on noise, each with its squared radius within ``area``."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :44]
    rows = ["image_id,split"]
    for index, split in enumerate(splits):
        centre_y, centre_x = generator.uniform(10, 30, 2)
        inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 < generator.uniform(*area)
        grey = (generator.normal(30, 8, inside.shape) + 150 * inside).clip(0, 255)
        image = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
        write_png_file(root / "images" / f"disc{index}.png", image)
        write_png_file(root / "masks" / f"disc{index}.png", inside)
        rows.append(f"disc{index},{split}")
    (root / "splits.csv").write_text("\n".join(rows) + "\n")
    return root


def write_raw_set(root: Path) -> Path:
    """The raw Kaggle layout: six fluorescence images and two stained ones, RGBA, a mask a nucleus.

    Returns ``root``, the parent of ``stage1_train``.
    """
    generator = np.random.default_rng(5)
    for index in range(8):
        image, masks = nuclei(generator)
        if index >= 6:
            image = image // 2 + np.array([110, 40, 120], np.uint8)
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        folder = root / "stage1_train" / f"case{index}"
        write_png_file(
            folder / "images" / f"case{index}.png", np.concatenate([image, alpha], axis=2)
        )
        for number, mask in enumerate(masks):
            write_png_file(folder / "masks" / f"nucleus{number}.png", mask)
    return root


THREE_CLASSES = OutputContract(
    activation=Activation.SOFTMAX, classes=("background", "cell", "wall")
)
TWO_LABELS = OutputContract(classes=("cell", "nucleus"))


def write_small_onnx(
    path: Path,
    preprocess: Preprocess = TINY,
    *,
    batch: int | str = "n",
    output: OutputContract | None = None,
) -> Path:
    """A U-shaped network of four convolutions in opset 18, with the metadata of an export.

    Written node by node, so that a test about files need not wait for an exporter. With an output
    contract it says of itself what a file says that was brought along: no architecture.
    """
    known, output = output is None, output or OutputContract()
    draw = np.random.default_rng(11)
    height, width = preprocess.size
    stored = [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])]

    def conv(name: str, source: str, channels: tuple[int, int], kernel: int) -> onnx.NodeProto:
        shape = (channels[1], channels[0], kernel, kernel)
        weight = draw.normal(0, 1.5 / np.sqrt(channels[0] * kernel**2), shape)
        bias = draw.normal(0, 0.1, channels[1])
        for suffix, values in (("weight", weight), ("bias", bias)):
            named = numpy_helper.from_array(values.astype(np.float32), f"{name}.{suffix}")
            stored.append(named)
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        pads = [kernel // 2] * 4
        return helper.make_node(
            "Conv", inputs, [name], name=name, pads=pads, kernel_shape=[kernel, kernel]
        )

    resize = helper.make_node(
        "Resize",
        ["low/Relu", "", "scales"],
        ["up"],
        name="up",
        mode="linear",
        coordinate_transformation_mode="align_corners",
        antialias=0,
        keep_aspect_ratio_policy="stretch",
    )
    nodes = [
        conv("high", "image", (preprocess.channels, 4), 3),
        helper.make_node("Relu", ["high"], ["high/Relu"], name="high/Relu"),
        helper.make_node(
            "MaxPool", ["high/Relu"], ["pool"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
        ),
        conv("low", "pool", (4, 8), 3),
        helper.make_node("Relu", ["low"], ["low/Relu"], name="low/Relu"),
        resize,
        helper.make_node("Concat", ["up", "high/Relu"], ["both"], name="both", axis=1),
        conv("merge", "both", (12, 4), 3),
        helper.make_node("Relu", ["merge"], ["merge/Relu"], name="merge/Relu"),
        conv("head", "merge/Relu", (4, output.channels), 1),
        helper.make_node("Softmax", ["head"], ["probability"], name="softmax", axis=1)
        if output.exclusive
        else helper.make_node("Sigmoid", ["head"], ["probability"], name="sigmoid"),
    ]
    ends = [
        ("image", [batch, preprocess.channels, height, width]),
        ("probability", [batch, output.channels, height, width]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    entries = {"task": "semantic segmentation"} | output_entries(output)
    entries |= {"arch": "unet_plus_plus"} if known else {}
    set_metadata(model, entries | {"preprocess": preprocess.to_json(), "precision": "fp32"})
    save_model(model, path)
    return path


def exported(network: Network, folder: Path, *, head: int | None = None) -> Artifact:
    """``net.fp32.onnx`` of a network with the contract ``TINY``, its checkpoint beside it."""
    save_checkpoint(network, folder / "net.safetensors", preprocess=TINY)
    return export(load_checkpoint(folder / "net.safetensors", head=head), folder / "net.fp32.onnx")


def made_up_table(artifact: Artifact, *, relu_from: float = 0.0) -> CalibrationTable:
    """Ranges of a model's activations, of which no image was seen: up to 6, the input from -1."""
    names = quantized_activations(load_model(artifact.path), kernels=ORT_X86.kernels)
    lows = {name: -1.0 if name == "image" else relu_from for name in names}
    return imported_table({n: imported_range(low, 6.0, "a test") for n, low in lows.items()})


def quantized(
    source: Artifact,
    output: Path,
    table: CalibrationTable,
    *,
    profile: TargetProfile = ORT_X86,
    exclude: Iterable[str] = (),
) -> Artifact:
    """``to_int8`` with a table that lies in no file."""
    return to_int8(
        source,
        output,
        table=table,
        table_sha256="ab" * 32,
        profile=profile,
        exclude=tuple(exclude),
    )


def inferred(
    artifact: Artifact, runtime: RuntimeName, images: Iterable[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """What a file gives for each image, (N, channels, h, w), on one thread of a runtime."""
    with open_runtime(runtime, artifact, execution=Execution(threads=1)) as opened:
        return infer_each(opened, images, output_of(artifact))
