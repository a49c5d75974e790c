"""Several processes train like one."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.models.networks import build_network

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

SHARED_BATCH_NORM = """
torch.manual_seed(0)
inputs = torch.randn(5, 3, 4, 6, dtype=torch.float64).float() * 3 + 100
weights = torch.randn(5, 3, 4, 6)
whole, parts = (nn.Sequential(nn.BatchNorm2d(3)) for _ in range(2))
for network in (whole, parts):
    network[0].weight.data[:] = torch.tensor([0.5, 1.0, 2.0])
share_statistics(parts)
gradients, outputs = [], []
for network, part in ((whole, slice(None)), (parts, mine)):
    x = inputs[part].clone().requires_grad_()
    y = network(x)
    (y * weights[part]).sum().backward()
    gradients.append(x.grad)
    outputs.append(y.detach())
norms = [network[0] for network in (whole, parts)]
found = {
    "output": (outputs[0][mine] - outputs[1]).abs().max().item(),
    "gradient": (gradients[0][mine] - gradients[1]).abs().max().item(),
    "gradient_size": gradients[0].abs().max().item(),
    "mean": (norms[0].running_mean - norms[1].running_mean).abs().max().item(),
    "variance": (norms[0].running_var - norms[1].running_var).abs().max().item(),
    "steps": norms[1].num_batches_tracked.item(),
    "evaluation": (whole.eval()(inputs) - parts.eval()(inputs)).abs().max().item(),
}
answers["statistics"] = shard.gathered(found)
"""

TWENTY_STEPS = """
torch.set_default_dtype(torch.float64)
generator = torch.Generator().manual_seed(0)
data = [torch.randn(5, 3, 32, 32, generator=generator) for _ in range(20)]

def curve(recipe, shard, part):
    torch.manual_seed(0)
    network = build_network(recipe.arch, width=4)
    stepper = Stepper(recipe, network, steps=20, device=torch.device("cpu"), shard=shard)
    stepper.begin_epoch(1, size=(32, 32))
    return [
        stepper.step(
            Batch(inputs=x[part], truth=(x[part, :1] > 0.5).double(), field=None),
            images_everywhere=5,
        )
        for x in data
    ]

for arch in ("unet_plus_plus", "r2u_net"):
    recipe = Recipe(arch=Architecture(arch), amp=Amp.OFF, learning_rate=1e-2, clip_norm=2.0)
    parts = shard.gathered(curve(recipe, shard, mine))
    if shard.is_first:
        everyone = [sum(losses) for losses in zip(*parts)]
        answers[arch] = curve(recipe, WHOLE, slice(None)), everyone
"""

SCRIPT = f"""
import json, sys
import torch
from torch import nn
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.distributed.shard import WHOLE, shard_from_environment
from segdeploy.training.batch_norm import share_statistics
from segdeploy.training.recipe import Amp, Recipe
from segdeploy.training.step import Stepper
from segdeploy.training.views import Batch

torch.set_num_threads(1)

def answer(shard):
    answers, mine = {{}}, slice(0, 2) if shard.is_first else slice(2, 5)
    scope = globals() | {{"shard": shard, "mine": mine, "answers": answers}}
    exec({SHARED_BATCH_NORM!r}, scope)
    exec({TWENTY_STEPS!r}, scope)
    return answers

with shard_from_environment() as shard:
    answers = answer(shard)
    if shard.is_first:
        json.dump(answers, open(sys.argv[1], "w"))
"""
"""Both in one start of the processes, each of which imports PyTorch first."""


def torchrun(*arguments: str) -> None:
    command = [*TORCHRUN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="", encoding="utf-8") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("processes")
    script, result = folder / "script.py", folder / "result.json"
    script.write_text(SCRIPT, encoding="utf-8")
    torchrun(str(script), str(result))
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def test_statistics_over_all_processes_are_those_of_one_with_every_image(
    answers: dict[str, Any],
) -> None:
    assert len(answers["statistics"]) == 2
    for found in answers["statistics"]:
        assert found["output"] < 1e-4
        assert found["gradient"] < 1e-4 * found["gradient_size"]
        assert found["mean"] < 1e-5
        assert found["variance"] < 1e-4
        assert found["evaluation"] < 1e-4
        assert found["steps"] == 1


@pytest.mark.parametrize("arch", ["unet_plus_plus", "r2u_net"])
def test_two_processes_move_the_weights_as_one_does(arch: str, answers: dict[str, Any]) -> None:
    """20 steps of five images, two and three to a process, in double precision.

    In single precision, with batch statistics, rounding alone moves the loss by more than 1e-4
    within 20 steps: as much as the same images in another order within the batch.
    """
    whole, parts = answers[arch]
    assert len(whole) == len(parts) == 20
    assert max(whole) - min(whole) > 0.05  # it moves, or the comparison says nothing
    assert max(abs(a - b) for a, b in zip(whole, parts, strict=True)) < 1e-6


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(
    image_set: Path, tmp_path: Path
) -> None:
    """20 steps of the command line in single precision, with constant BatchNorm statistics."""
    (tmp_path / "contract.json").write_text(Preprocess(size=(32, 32)).to_json(), encoding="utf-8")
    flags = ["train", "--data", str(image_set), "--width", "4", "--amp", "off", "--epochs", "20"]
    flags += ["--freeze-statistics-from", "1", "--threads", "1"]
    flags += ["--preprocess", str(tmp_path / "contract.json")]
    one, two = tmp_path / "one", tmp_path / "two"
    torchrun("-m", "segdeploy", *flags, "--batch", "3", "-o", str(two))
    command = [sys.executable, "-m", "segdeploy", *flags, "--batch", "6", "-o", str(one)]
    subprocess.run(command, check=True, capture_output=True)
    first, second = history(one), history(two)
    assert len(first) == len(second) == 20  # six images: one step an epoch
    for a, b in zip(first, second, strict=True):
        assert abs(a["train_loss"] - b["train_loss"]) < 1e-4
        assert abs(a["val_loss"] - b["val_loss"]) < 1e-4
        assert a["val_iou"] == pytest.approx(b["val_iou"], abs=0.5)
    keys = set(load_file(two / "last.safetensors"))
    assert keys == set(build_network(Architecture.UNET_PLUS_PLUS, width=4).state_dict())


THREADS_AFTERWARDS = """
import json, os, sys
from pathlib import Path
import torch
from segdeploy.deploy.models.networks import build_network
from segdeploy.deploy.models.architecture import Architecture
from segdeploy.deploy.distributed.shard import shard_from_environment
from segdeploy.training.recipe import Amp, Recipe
from segdeploy.training.step import Stepper
from segdeploy.training.views import Batch

def threads():
    return sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))

def train(shard):
    recipe = Recipe(arch=Architecture.UNET_PLUS_PLUS, amp=Amp.OFF)
    network = build_network(recipe.arch, width=1)
    stepper = Stepper(recipe, network, steps=1, device=torch.device("cpu"), shard=shard)
    stepper.begin_epoch(1, size=(16, 16))
    x = torch.ones(1, 3, 16, 16)
    stepper.step(Batch(inputs=x, truth=x[:, :1], field=None), images_everywhere=2)
    found["within"] = threads()
    if shard.is_first:
        raise RuntimeError("this process cannot go on")

torch.set_num_threads(1)
found = {"before": threads()}
try:
    with shard_from_environment() as shard:
        train(shard)
except RuntimeError as error:
    found["after"] = threads()  # while the error, and what it refers to, is still there
found.setdefault("after", threads())
Path(sys.argv[1], os.environ["RANK"]).write_text(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are named in /proc")
def test_no_thread_outlives_the_processes_work(tmp_path: Path) -> None:
    """A thread that does can abort a process that has done all it had to do.

    The first process fails after its training step, the other does not.
    """
    script = tmp_path / "script.py"
    script.write_text(THREADS_AFTERWARDS, encoding="utf-8")
    torchrun(str(script), str(tmp_path))
    for rank in ("0", "1"):
        found = json.loads((tmp_path / rank).read_text(encoding="utf-8"))
        assert any("gloo" in name for name in found["within"]), found
        assert found["after"] == found["before"], found
