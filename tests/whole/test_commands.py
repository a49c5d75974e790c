"""Every command line that the documentation and the help texts show runs, in order, on small data.

A file that a command names and no earlier one made is a stand-in: a tiny network, a few generated
images. Nothing else of a command is changed, but for what only takes time.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny import (
    TINY,
    nuclei,
    write_image_set,
    write_png_file,
    write_small_onnx,
)

from segdeploy.cli.main import main
from segdeploy.cli.parser import VERBS
from segdeploy.deploy.data.image_set import open_set
from segdeploy.deploy.models import UNetPlusPlus
from segdeploy.deploy.models.checkpoint import save_checkpoint
from segdeploy.deploy.onnx_model.file import contract_of, describe
from segdeploy.deploy.runtimes.registry import RuntimeName, availability

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *("README.md", "docs/tutorial.md", "docs/own_model.md", "docs/own_data.md", "docs/stages.md"),
    *("docs/parity.md", "docs/precision.md", "docs/calibration.md", "docs/predict.md"),
    *("docs/packages.md", "docs/serving.md", "docs/training.md", "docs/gate.md"),
    "docs/targets.md",
)
"""In the order in which a reader types what they show."""

SKIPPED = {
    "run -c": "takes a quarter of a minute; the finished run that tests share is made by it",
    "torchrun ": "starts processes of its own; the tests of sharding do",
    "run -m": "as long; the tests of models that were brought along do",
    " --module": "runs code of the reader's; the tests of modules do",
    "run --arch r2u_net": "as long; the tests of families and of whole runs do",
    "run --overwrite": "the whole bundled network, a minute; the tests on real data do",
    "--engine ray": "starts a Ray cluster; the tests of the engines do",
}
"""What is not run here, by a part of the command, and why."""

QUICKER = {
    "align dump": ("--steps", "1", "--batch", "2", "--threads", "1"),
    "align layers": ("--threads", "1", "--num-samples", "1"),
    "benchmark": ("--warmup", "0", "--duration", "0.01", "--threads", "1", "--batch", "1"),
    "debug": ("--threads", "1", "--num-samples", "2"),
    "parity": ("--threads", "1", "--max-drop", "100"),
    "package --target vacc": ("--num-samples", "5"),
    "train --quantize": ("--epochs", "1", "--batch", "4", "--num-samples", "2", "--threads", "1"),
    "train": (
        *("--epochs", "1", "--width", "2", "--batch", "4"),
        *("--preprocess", "training/recipes/drive_input.json"),
    ),
}
"""Flags that take time away, by the words a command starts with: the last of two alike counts."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line as it is shown.

    Attributes:
        line: without ``segdeploy``; what starts it in front.
        where: the page, or help.
    """

    line: str
    where: str

    @property
    def words(self) -> list[str]:
        """The arguments, with what makes it quicker."""
        verb = next((key for key in QUICKER if self.line.startswith(f"{key} ")), "")
        return [*shlex.split(self.line), *QUICKER.get(verb, ())]

    @property
    def asked(self) -> frozenset[str]:
        """The verb, its flags but for the output, and what a target or a precision is."""
        words = shlex.split(self.line)
        told = {w for last, w in pairwise(words) if last in ("--target", "--precision", "align")}
        return frozenset({words[0], *told, *(w for w in words if w[0] == "-" and w != "-o")})

    @property
    def skipped(self) -> str | None:
        """Why it is not run."""
        return next((why for part, why in SKIPPED.items() if part in self.line), None)


def shown() -> Iterator[Command]:
    """Every ``segdeploy ...`` of the pages' code blocks once, then the help's that ask for more."""
    found: list[Command] = []
    for page in PAGES:
        for line in _lines_of((ROOT / page).read_text("utf-8")):
            words = re.match(r"\s*(?P<by>torchrun .*)?(?:\S*/)?segdeploy (?P<rest>.+)", line)
            if words:
                told = (words["by"] or "") + words["rest"].split(" #")[0].strip()
                if all(told != other.line for other in found):
                    found.append(Command(line=told, where=page))
    yield from found
    for verb in VERBS.values():
        for example in verb.examples:
            command = Command(line=example.removeprefix("segdeploy "), where="help")
            if not any(command.asked <= other.asked for other in found):
                yield command


def _lines_of(page: str) -> Iterator[str]:
    """Each command of the shell's code blocks."""
    for block in re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield from re.split(r"&&|;|\|", line)


COMMANDS = tuple(shown())


class World:
    """A folder in which commands run, and what they expect to find there."""

    def __init__(self, root: Path, finished_run: Path) -> None:
        self.root = root
        shutil.copytree(finished_run, root / "out")
        shutil.copytree(ROOT / "training" / "recipes", root / "training" / "recipes")
        small = replace(TINY, size=(64, 64)).to_json()
        (root / "training" / "recipes" / "drive_input.json").write_text(small)

    def run(self, command: Command) -> tuple[int, str]:
        """Exit code and what was said."""
        for word in command.words:
            for name, make in STAND_INS.items():
                if word == name and not (self.root / name).exists():
                    make(self.root / name)
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            try:
                code = main(command.words)
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, said.getvalue()


def raw_set(folder: Path) -> None:
    """DSB2018 as it is downloaded, 20 images."""
    generator = np.random.default_rng(2)
    for index in range(20):
        image, masks = nuclei(generator)
        case = folder / f"case{index}"
        write_png_file(case / "images" / f"case{index}.png", image)
        for number, mask in enumerate(masks):
            write_png_file(case / "masks" / f"nucleus{number}.png", mask)


def unet(path: Path) -> None:
    """A bare state dict, as a training leaves it."""
    torch.manual_seed(0)
    torch.save(UNetPlusPlus(width=4).state_dict(), path)


def checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    save_checkpoint(UNetPlusPlus(width=4), path, preprocess=TINY)


def foreign(path: Path) -> None:
    """An ONNX file that says nothing of itself."""
    model = onnx.load(write_small_onnx(path))
    del model.metadata_props[:]
    onnx.save(model, path)


def logits(path: Path) -> None:
    """The same without the Sigmoid."""
    foreign(path)
    model = onnx.load(path)
    del model.graph.node[-1:]
    model.graph.output[0].name = model.graph.node[-1].output[0]
    onnx.save(model, path)


def photos(folder: Path) -> None:
    for index in range(2):
        write_png_file(folder / f"{index}.png", nuclei(np.random.default_rng(index))[0])


def plates(pattern: Path) -> None:
    for index in range(2):
        image = Image.fromarray(nuclei(np.random.default_rng(index))[0])
        folder = pattern.parents[1] / f"plate{index}"
        folder.mkdir(parents=True)
        image.save(folder / f"well{index}.tif")


def more(listed: Path) -> None:
    """The file behind an ``@``."""
    write_png_file(listed.with_name("another.png"), nuclei(np.random.default_rng(9))[0])
    listed.with_name("more.txt").write_text("another.png\n", encoding="utf-8")


def images(folder: Path) -> None:
    write_image_set(folder, ["train"] * 4 + ["val"] * 2)


def device_outputs(folder: Path) -> None:
    """What a device would return of the test split."""
    folder.mkdir()
    file = folder.with_name("net.fp32.onnx")
    contract, session = contract_of(describe(file)), onnxruntime.InferenceSession(str(file))
    for sample in open_set(folder.with_name("dsb2018"), "test"):
        feed = {"image": contract.apply(sample.image())[None]}
        np.savez(folder / f"{sample.name}.npz", output_0=session.run(None, feed)[0])


def copied(name: str) -> Callable[[Path], None]:
    """Function path -> a copy of what an earlier command made beside it."""

    def copy(path: Path) -> None:
        source = path.parent / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)

    return copy


def history(path: Path) -> None:
    path.parent.mkdir(parents=True)
    copied("../unetpp/history.csv")(path)


def int8(target: str) -> Callable[[Path], None]:
    """Function path -> the calibrated model of another target."""

    def quantized(path: Path) -> None:
        words = f"quantize -m net.opt.onnx --calibration net.calib.json --target {target} -o"
        assert main([*words.split(), path.name]) == 0

    return quantized


STAND_INS: dict[str, Callable[[Path], None]] = {
    "stage1_train": raw_set,
    "best.pth": unet,
    "best.safetensors": checkpoint,
    "theirs.onnx": foreign,
    "logits.onnx": logits,
    "any.onnx": foreign,
    "photos": photos,
    "plates/*/*.tif": plates,
    "@more.txt": more,
    "before": copied("out"),
    "after": copied("out"),
    "theirs.int8.onnx": copied("net.int8.ort-x86.onnx"),
    "net.int8.openvino-cpu.onnx": int8("openvino-cpu"),
    "theirs.cache": copied("shared.calib.tensorrt.cache"),
    "outputs": device_outputs,
    "drive": images,
    "theirs": copied("reference"),
    "runs/a/history.csv": history,
    "runs/b/history.csv": history,
}
"""Files and folders that are a reader's own, and what is put in their place."""


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, finished_run: Path
) -> dict[Command, tuple[int, str]]:
    """Exit code and words of every command, run in order in one folder."""
    root = tmp_path_factory.mktemp("reader")
    world = World(root, finished_run)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return {each: world.run(each) for each in COMMANDS if not each.skipped}


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: f"{command.where}: {command.line}"
)
def test_it_runs(command: Command, request: pytest.FixtureRequest) -> None:
    if command.skipped:
        pytest.skip(command.skipped)
    if "openvino" in command.line and not availability(RuntimeName.OPENVINO).ready:
        pytest.skip("openvino is not installed")
    code, said = request.getfixturevalue("ran")[command]
    assert code == 0, said


def test_what_is_skipped_is_shown() -> None:
    for part in SKIPPED:
        assert any(part in command.line for command in COMMANDS), part


def test_no_page_with_commands_is_left_out() -> None:
    shown = {
        f"docs/{path.name}"
        for path in (ROOT / "docs").glob("*.md")
        if any("segdeploy " in line for line in _lines_of(path.read_text("utf-8")))
    }
    assert shown <= set(PAGES)
