"""Shared builders: tiny networks with random, well-scaled weights, and generated image sets."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import logging
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import segdeploy.deploy.stages.simplify
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import Network, save_checkpoint
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.onnx_model.file import save_model, set_metadata
from segdeploy.deploy.runtimes.base import Executed, Execution, Feeds, Results, infer_threaded

N = TypeVar("N", bound=Network)
Pixels = NDArray[np.uint8]
WritePng = Callable[[Path, NDArray[np.generic]], Path]

TINY = Preprocess(size=(32, 32))
SPLIT_OF_TWELVE = ["train"] * 6 + ["val"] * 2 + ["test"] * 4

torch.set_num_threads(1)  # tiny networks: more threads only wait for each other


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
    names = ["Conv_1x1"] if isinstance(network, R2UNet) else network.head_names()
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


class Reuse:
    """Exports and simplified graphs of this session, by all that decides them.

    Tracing and onnxsim take seconds even for tiny networks, and many tests need the same few
    files. Both are deterministic, which tests marked ``uncached`` prove on the real functions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.enabled = True
        self._export = torch.onnx.export
        self._simplify = segdeploy.deploy.stages.simplify._run_onnxsim
        self._run = subprocess.run

    def export(self, network: nn.Module, *arguments: object, **options: object) -> object:
        """``torch.onnx.export`` without a file; what cannot be pickled is exported afresh."""
        pickled = io.BytesIO()
        try:
            torch.save((network, arguments), pickled)  # instance attributes, too
        except Exception:  # pickle raises many: a class of a test's own, a lambda
            pickled.truncate(0)
        if not self.enabled or len(arguments) != 1 or not pickled.getvalue():
            return self._export(network, *arguments, **options)

        def make() -> onnx.ModelProto:
            return self._export(network, *arguments, **options).model_proto

        key = [pickled.getvalue(), repr(sorted(options.items())).encode()]
        return SimpleNamespace(model_proto=self._made(key, make))

    def simplify(self, source: Path, time_limit_s: float) -> onnx.ModelProto:
        """onnxsim's result, unless a test limits or replaces the process it runs in."""

        def make() -> onnx.ModelProto:
            return self._simplify(source, time_limit_s)

        usual = (
            time_limit_s == segdeploy.deploy.stages.simplify.TIME_LIMIT_S
            and subprocess.run is self._run
        )
        if not self.enabled or not usual:
            return make()
        return self._made([b"onnxsim", source.read_bytes()], make)

    def _made(self, key: list[bytes], make: Callable[[], onnx.ModelProto]) -> onnx.ModelProto:
        path = self.folder / f"{hashlib.sha256(b'|'.join(key)).hexdigest()}.onnx"
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(make().SerializeToString())
            partial.replace(path)
        return onnx.load_model_from_string(path.read_bytes())


@pytest.fixture(scope="session", autouse=True)
def _reuse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reuse]:
    base = tmp_path_factory.getbasetemp()  # parallel workers share the folder above theirs
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reuse"
    folder.mkdir(exist_ok=True)
    reuse = Reuse(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.onnx.export", reuse.export)
        patch.setattr("segdeploy.deploy.stages.simplify._run_onnxsim", reuse.simplify)
        yield reuse


@pytest.fixture(autouse=True)
def _uncached(request: pytest.FixtureRequest, _reuse: Reuse) -> Iterator[None]:
    _reuse.enabled = request.node.get_closest_marker("uncached") is None
    yield
    _reuse.enabled = True


class Brightness:
    """A model whose probability is the brightness of the input: masks can be checked by hand.

    ``sides`` are height and width of its input; of any size where they are words.
    """

    name = "brightness"
    executed = Executed(layers=(), requested=Precision.FP32)

    def __init__(
        self, *, sides: tuple[int | str, int | str], batch: int = 1, streams: int = 1
    ) -> None:
        shape = ("batch", 3, *sides)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="image", shape=shape, dtype="float32"),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(name="probability", shape=("batch", 1, *sides), dtype="float32"),
        )
        self.execution = Execution(threads=streams, batch=batch, streams=streams)

    def infer(self, feeds: Feeds) -> Results:
        """The mean over the channels, from 0 for black to 1 for white."""
        found = feeds["image"].shape
        expected = (self.execution.batch, *self.inputs[0].shape[1:])
        assert all(
            isinstance(axis, str) or side == axis
            for side, axis in zip(found, expected, strict=True)
        )
        return {"probability": feeds["image"].mean(axis=1, keepdims=True) / 2 + 0.5}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """As the contract says."""
        return infer_threaded(self.infer, batches, streams=self.execution.streams)

    def __enter__(self) -> Brightness:
        return self

    def __exit__(self, *error: object) -> None: ...


@pytest.fixture
def own_logging() -> Iterator[None]:
    """``main`` configures logging for its process; take it back after the test."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    yield
    root.handlers[:] = handlers


@pytest.fixture(scope="session")
def brightness() -> type[Brightness]:
    """The class of a runtime whose probability is the brightness of the input."""
    return Brightness


@pytest.fixture
def write_png() -> WritePng:
    """Function (path, pixels) -> path that writes a PNG file and its folders."""
    return write_png_file


@pytest.fixture(scope="session")
def randomise() -> Callable[[Network], Network]:
    """Function that gives a network random, well-scaled weights from a fixed seed, in place."""
    return randomised


@pytest.fixture(scope="session")
def make_image_set() -> Callable[[Path, list[str]], Path]:
    """Function (folder, one split per image) -> folder that writes a prepared image set."""
    return write_image_set


def write_small_onnx(path: Path, preprocess: Preprocess = TINY, *, batch: int | str = "n") -> Path:
    """A U-shaped network of four convolutions in opset 18, with the metadata of an export.

    Written node by node, so that a test about files need not wait for an exporter.
    """
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
        conv("high", "image", (3, 4), 3),
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
        conv("head", "merge/Relu", (4, 1), 1),
        helper.make_node("Sigmoid", ["head"], ["probability"], name="sigmoid"),
    ]
    ends = [("image", [batch, 3, height, width]), ("probability", [batch, 1, height, width])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    entries = {"arch": "unet_plus_plus", "task": "semantic segmentation", "classes": "nucleus"}
    set_metadata(model, entries | {"preprocess": preprocess.to_json(), "precision": "fp32"})
    save_model(model, path)
    return path


@pytest.fixture(scope="session")
def small_onnx() -> Callable[..., Path]:
    """Function (path, contract, batch=...) -> path that writes a small float ONNX file."""
    return write_small_onnx


@pytest.fixture(scope="session")
def _tiny_unet() -> UNetPlusPlus:
    return randomised(UNetPlusPlus(width=4))


@pytest.fixture(scope="session")
def _tiny_r2u() -> R2UNet:
    return randomised(R2UNet(width=4))


@pytest.fixture
def tiny_unet(_tiny_unet: UNetPlusPlus) -> UNetPlusPlus:
    """UNet++ of width 4 with deep supervision, in evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(_tiny_unet)


@pytest.fixture
def tiny_r2u(_tiny_r2u: R2UNet) -> R2UNet:
    """R2U-Net of width 4 with t = 2, in evaluation mode; a fresh copy for each test."""
    return copy.deepcopy(_tiny_r2u)


@pytest.fixture
def tiny_unet_checkpoint(tmp_path: Path, tiny_unet: UNetPlusPlus) -> Path:
    """``tiny_unet`` on disk with a 32x32 input contract."""
    path = tmp_path / "tiny_unet.safetensors"
    save_checkpoint(tiny_unet, path, preprocess=TINY)
    return path


@pytest.fixture
def tiny_r2u_checkpoint(tmp_path: Path, tiny_r2u: R2UNet) -> Path:
    """``tiny_r2u`` on disk with a 32x32 input contract."""
    path = tmp_path / "tiny_r2u.safetensors"
    save_checkpoint(tiny_r2u, path, preprocess=TINY)
    return path


@pytest.fixture
def image_set(tmp_path: Path) -> Path:
    """A prepared folder of 12 images of about 40x48: 6 train, 2 val, 4 test."""
    return write_image_set(tmp_path / "image_set", SPLIT_OF_TWELVE)


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


@pytest.fixture
def raw_set(tmp_path: Path) -> Path:
    """``write_raw_set`` in a folder of the test."""
    return write_raw_set(tmp_path / "raw")


@pytest.fixture(scope="session")
def tiny_models(
    tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus
) -> dict[str, Path]:
    """UNet++ of width 4 with a 32x32 contract: fp32, fp16, and int8 for each target."""
    from segdeploy.deploy.data.image_set import open_set
    from segdeploy.deploy.models.checkpoint import load_checkpoint
    from segdeploy.deploy.quantize.calibrate import calibrate
    from segdeploy.deploy.quantize.to_int8 import to_int8
    from segdeploy.deploy.stages.export import export
    from segdeploy.deploy.stages.to_fp16 import to_fp16
    from segdeploy.deploy.targets.profiles import PROFILES

    folder = tmp_path_factory.mktemp("tiny_models")
    save_checkpoint(_tiny_unet, folder / "net.safetensors", preprocess=TINY)
    fp32 = export(load_checkpoint(folder / "net.safetensors", head=2), folder / "net.fp32.onnx")
    images = open_set(write_image_set(folder / "set", SPLIT_OF_TWELVE), "train")
    table = calibrate(fp32, images, preprocess=TINY, threads=1)
    paths = {"fp32": fp32.path, "fp16": to_fp16(fp32, folder / "net.fp16.onnx").path}
    for name, profile in PROFILES.items():
        path = folder / f"net.int8.{name}.onnx"
        to_int8(fp32, path, table=table, table_sha256="ab" * 32, profile=profile)
        paths[f"int8 {name}"] = path
    return paths


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, _tiny_unet: UNetPlusPlus) -> Path:
    """The output folder of a finished run with two targets.

    Beside it lie its checkpoint, ``net.safetensors``, and its images, ``set``. To be read only.
    """
    from segdeploy.cli.main import main

    root = tmp_path_factory.mktemp("finished_run")
    save_checkpoint(_tiny_unet, root / "net.safetensors", preprocess=TINY)
    data = write_image_set(root / "set", SPLIT_OF_TWELVE)
    asked = (
        *("run", "-c", root / "net.safetensors", "--head", 1, "--data", data, "-o", root / "out"),
        *("--target", "ort-x86", "tensorrt", "--runtime", "onnxruntime", "--max-drop", 100),
        *("--duration", 0.02, "--warmup", 0, "--batch", 1, "--threads", 1, "--num-samples", 3),
    )
    logger = logging.getLogger()
    handlers = logger.handlers[:]
    code = main([str(word) for word in asked])
    logger.handlers[:] = handlers
    assert code == 0
    return root / "out"
