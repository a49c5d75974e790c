"""The commands that are killed, on tiny inputs, and how far one had come."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch

from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models import R2UNet, UNetPlusPlus
from segdeploy.deploy.models.checkpoint import load_checkpoint, save_checkpoint
from segdeploy.deploy.quantize.calibrate import calibrate
from segdeploy.deploy.stages.export import export

TERMINAL = "terminal.txt"
INPUTS = "in"
TARGET = "ort-x86-no-vnni"

Progress = Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command on the inputs of ``make_inputs``, seen from the folder it runs in.

    Attributes:
        name: in tables.
        argv: after ``segdeploy``.
        progress: how far a killed one had come, from what it left in its folder.
        patches: as ``kill_zygote.Command`` takes them.
        code: its exit code when nothing disturbs it.
    """

    name: str
    argv: tuple[str, ...]
    progress: Progress
    patches: dict[str, Any] = field(default_factory=dict)
    code: int = 0


def make_inputs(folder: Path) -> Path:
    """Everything the verbs read."""
    folder.mkdir()
    networks = {"unet": UNetPlusPlus(width=4), "r2u": R2UNet(width=4)}
    for name, network in networks.items():
        weights = folder / f"{name}.safetensors"
        save_checkpoint(tiny.randomised(network), weights, preprocess=tiny.TINY)
    tiny.write_image_set(folder / "set", tiny.SPLIT_OF_TWELVE)
    tiny.write_raw_set(folder / "raw")
    fp32 = export(load_checkpoint(folder / "unet.safetensors"), folder / "net.fp32.onnx")
    images = open_set(folder / "set", "train")
    table = calibrate(fp32, images, preprocess=tiny.TINY, threads=1)
    table.write(folder / "net.calib.json")
    return folder


def _last_stage(folder: Path) -> str:
    found = re.findall(r"^\[\d+/\d+\] ([\w ]+)", (folder / TERMINAL).read_text(), re.MULTILINE)
    return f"after {found[-1]}" if found else "before export"


def _state(folder: Path) -> str:
    if (folder / "out/net.calib.json").exists():
        return "table written"
    state = next(iter(folder.rglob("*.partial.npz")), None)
    if state is None:
        return "no image kept"
    with np.load(state) as stored:
        return f"{len(stored['names'])} images kept"


def _epochs(folder: Path) -> str:
    try:
        state = torch.load(folder / "out/state.pt", weights_only=True)
    except FileNotFoundError:
        return "not begun"
    return f"{len(state['history'])} epochs"


def _images(folder: Path) -> str:
    if (folder / "out/index.csv").exists():
        return "index written"
    journal = folder / "out/index.jsonl"
    return f"{len(journal.read_bytes().splitlines())} images" if journal.exists() else "not begun"


def _files(folder: Path) -> str:
    return f"{sum(path.is_file() for path in folder.rglob('out*/**/*'))} files"


def _run(checkpoint: str, name: str) -> Verb:
    argv = f"run -c in/{checkpoint}.safetensors --data in/set -o out --threads 1 --batch 1 "
    argv += "--warmup 1 --duration 0.01 --max-drop 100 --runtime onnxruntime --target " + TARGET
    patches = {"segdeploy.deploy.quantize.calibrate:SAVE_EVERY_S": 0.0}
    return Verb(name=name, argv=tuple(argv.split()), progress=_last_stage, patches=patches)


def _train(name: str, *more: str) -> Verb:
    flags = ("--width", "2", "--epochs", "3", "--batch", "3", "--threads", "1", *more)
    argv = ("train", "--data", "in/set", "-o", "out", *flags)
    return Verb(name=name, argv=argv, progress=_epochs)


_FP32 = "in/net.fp32.onnx"
VERBS = {
    verb.name: verb
    for verb in (
        _run("unet", "run"),
        _run("r2u", "run r2u"),
        Verb(
            name="calibrate",
            argv=(
                *("calibrate", "-m", _FP32, "--calib-data", "in/set", "--threads", "1"),
                *("-o", "out/net.calib.json", "--export", "tensorrt", "--overwrite"),
            ),
            progress=_state,
            patches={"segdeploy.deploy.quantize.calibrate:SAVE_EVERY_S": 0.0},
        ),
        _train("train"),
        _train("train workers", "--workers", "2"),
        Verb(
            name="predict",
            argv=(
                *("predict", _FP32, "in/set/images", "-o", "out", "--threads", "1"),
                *("--workers", "2", "--fit", "tile", "--write", "mask", "overlay", "labels"),
            ),
            progress=_images,
        ),
        Verb(
            name="quantize",
            argv=(
                *("quantize", "-m", _FP32, "--calibration", "in/net.calib.json", "-o"),
                *("out/net.int8.onnx", "--target", TARGET, "--max-drop", "100", "--threads", "1"),
                *("--data", "in/set", "--reference", "in/unet.safetensors", "--overwrite"),
            ),
            progress=_files,
        ),
        Verb(
            name="prepare",
            argv=("data", "prepare", "in/raw", "-o", "out", "--overwrite"),
            progress=_files,
        ),
        Verb(
            name="package",
            argv=(
                *("package", "--target", "onnx", "-m", _FP32, "--data", "in/set"),
                *("-o", "out", "--batch", "1", "--overwrite"),
            ),
            progress=_files,
        ),
        Verb(
            name="export",
            argv=("export", "-c", "in/unet.safetensors", "-o", "out/net.fp32.onnx", "--overwrite"),
            progress=_files,
        ),
    )
}
