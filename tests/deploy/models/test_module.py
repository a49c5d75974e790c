"""Any module: looked at, exported, and told to another process; what cannot be says so."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

from segdeploy.benchmarks.speed.subjects import CheckpointSubject, read_request
from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.models.module import LoadedModule, load_module, module_of_factory
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import contract_of, load_model, metadata, output_of
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.stages.export import export
from segdeploy.deploy.system.errors import InputError, SegdeployError, UsageError

FOUR = OutputContract(activation=Activation.SOFTMAX, classes=("bg", "a", "b", "c"))
ONE = Contract(preprocess=TINY, output=OutputContract())


def settled(network: nn.Module) -> nn.Module:
    """BatchNorm with statistics of its own, so that folding it changes weights."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for values in (layer.weight, layer.bias, layer.running_mean):
                    assert values is not None
                    values.copy_(torch.randn(values.shape, generator=generator))
    return network


class Recurrent(nn.Module):
    """Convolution and BatchNorm stand apart, and both are used three times."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.raise_ = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.raised = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = first = torch.nn.functional.max_pool2d(self.first(image), 2)
        for _ in range(3):
            hidden = torch.relu(self.norm(self.again(first + hidden)))
        logits: Tensor = self.head(torch.relu(self.raised(self.raise_(hidden))))
        return logits


class Ended(nn.Module):
    """A convolution, and any end."""

    def __init__(self, end: Callable[[Tensor], Any], classes: int = 1) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, classes, 3, padding=1)
        self.end = end

    def forward(self, image: Tensor) -> Any:
        return self.end(self.body(image))


def run(artifact: Artifact, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(["probability"], {"image": image})[0]
    return found


@pytest.fixture(scope="module")
def images() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(3, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("output", [OutputContract(), FOUR], ids=["one label", "four classes"])
def test_the_file_computes_what_the_module_computes(
    output: OutputContract, images: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    network = settled(Recurrent(output.channels))
    module = load_module(network, Contract(preprocess=TINY, output=output))
    assert module.activation is output.activation
    artifact = export(module, tmp_path / "net.onnx")
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(images))
        expected = logits.softmax(1) if output.exclusive else logits.sigmoid()
    for batch in (1, 3):
        found = run(artifact, images[:batch])
        np.testing.assert_allclose(found, expected[:batch].numpy(), rtol=0, atol=1e-5)
    assert (contract_of(artifact), output_of(artifact)) == (TINY, output)
    assert metadata(load_model(artifact.path))["arch"] == "Recurrent"


def test_batch_norm_is_folded_and_shared_weights_stay_shared(tmp_path: Path) -> None:
    network = settled(Recurrent())
    artifact = export(load_module(network, ONE), tmp_path / "net.onnx")
    graph = load_model(artifact.path).graph
    operators = Counter(node.op_type for node in graph.node)
    assert operators["BatchNormalization"] == 0
    uses = Counter(node.input[1] for node in graph.node if node.op_type == "Conv")
    assert sorted(uses.values()) == [1, 1, 3]
    names = [node.name for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert names == ["first", "again", "again@2", "again@3", "raise_", "head"]


def test_the_module_is_left_as_it_is(images: np.ndarray[Any, Any]) -> None:
    network = settled(Recurrent()).double().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_module(network, ONE)
    assert network.training
    for key, value in network.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])


def test_the_digest_is_of_weights_and_operators() -> None:
    one = load_module(settled(Recurrent()), ONE)
    network = Recurrent()
    network.load_state_dict(one.network.state_dict())
    assert load_module(network, ONE).sha256 == one.sha256
    with torch.no_grad():
        network.head.bias += 1
    assert load_module(network, ONE).sha256 != one.sha256
    ends = [lambda x: x.sigmoid(), lambda x: x.sigmoid().sqrt().square()]
    torch.manual_seed(0)
    first = Ended(ends[0])
    second = Ended(ends[1])
    second.load_state_dict(first.state_dict())
    digests = {load_module(each, ONE, logits=False).sha256 for each in (first, second)}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("end", "classes", "stated", "logits", "activation"),
    [
        (lambda x: x, 1, None, True, Activation.SIGMOID),
        (lambda x: x.sigmoid(), 1, None, False, None),
        (lambda x: x.softmax(1), 3, None, False, None),
        (lambda x: x.softmax(1)[:, 1:], 2, None, False, None),
        (lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2), 3, "softmax", None, None),
        (lambda x: [x[:, :, ::2, ::2], x], 1, None, True, Activation.SIGMOID),
        (lambda x: {"aux": x.mean(), "out": x.sigmoid()}, 1, None, False, None),
    ],
)
def test_the_last_operator_tells(
    end: Callable[[Tensor], Any],
    classes: int,
    stated: str | None,
    logits: bool | None,
    activation: Activation | None,
) -> None:
    output = None
    if stated is not None:
        output = OutputContract(activation=stated, classes=("a", "b", "c"))  # type: ignore[arg-type]
    network = Ended(end, classes)
    if logits is None:
        with pytest.raises(
            InputError, match=r"softmax over axis -1.*state --logits or --no-logits"
        ):
            load_module(network, Contract(preprocess=TINY, output=output))
        logits = False
        module = load_module(network, Contract(preprocess=TINY, output=output), logits=False)
    else:
        module = load_module(network, Contract(preprocess=TINY, output=output))
    assert module.logits is logits
    assert module.activation is activation
    assert module.probability()(torch.zeros(1, 3, 32, 32)).shape[1] == module.output.channels


def test_the_deepest_of_several_heads_is_taken_or_the_one_that_is_named() -> None:
    def heads(x: Tensor) -> dict[str, Tensor]:
        return {"shallow": x, "deep": torch.relu(x + 1) + x}

    def alike(x: Tensor) -> list[Tensor]:
        return [x + 1, x - 1]

    assert load_module(Ended(heads), ONE).returned == 1
    assert load_module(Ended(heads), ONE, output_name="shallow").returned == 0
    with pytest.raises(InputError, match=r"\['0', '1'\]; state which: --output-name"):
        load_module(Ended(alike), ONE)
    assert load_module(Ended(alike), ONE, output_name="1").returned == 1
    with pytest.raises(InputError, match="no output 'deeper'"):
        load_module(Ended(heads), ONE, output_name="deeper")


class Silent(nn.Module):
    """Dropout that ``eval()`` does not end."""

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.dropout(image[:, :1], training=True)


@pytest.mark.parametrize(
    ("network", "output", "message"),
    [
        (Ended(lambda x: x.argmax(1), 3), None, "int64 .*give the network before its argmax"),
        (Ended(lambda x: x[:, :, ::2, ::2]), None, "expected float .batch, classes, 32, 32."),
        (Ended(lambda x: x, 2), OutputContract(), "names 1: nucleus; expected one .*--classes"),
        (Ended(lambda x: x, 3), None, "3 channels and ends in conv2d; state what they mean"),
        (Ended(lambda x: x.sigmoid(), 4), FOUR, "ends in sigmoid, .*says softmax; expected the"),
        (Ended(lambda x: x.tanh()), None, "ends in tanh, which tells neither"),
        (Ended(lambda x: "text"), None, "returns str; expected tensors alone"),
        (Ended(lambda x: x.reshape(7, 5)), None, "fails on images of 2x3x32x32: RuntimeError"),
        (Silent(), None, "gives other values each time .*dropout"),
        (
            nn.Sequential(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)),
            None,
            "1 normalises by the statistics of each batch",
        ),
    ],
)
def test_what_no_contract_fits(
    network: nn.Module, output: OutputContract | None, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        load_module(network, Contract(preprocess=TINY, output=output))
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("end", "logits", "message"),
    [
        (lambda x: x.sigmoid(), True, "ends in sigmoid, which gives no logits"),
        (lambda x: 5 + x, False, "predictions range from .* expected probabilities in 0 to 1"),
    ],
)
def test_what_is_stated_must_be_so(
    end: Callable[[Tensor], Tensor], logits: bool, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_module(Ended(end), ONE, logits=logits)


def test_another_process_is_told_the_program(images: np.ndarray[Any, Any]) -> None:
    subject = CheckpointSubject(name="it", checkpoint=load_module(settled(Recurrent()), ONE))
    execution = Execution(threads=1)
    again = read_request(subject.request())
    for batch in (1, 3):
        feeds = {"image": images[:batch]}
        with subject.open(execution) as here, again.open(execution) as there:
            expected, found = here.infer(feeds), there.infer(feeds)
        np.testing.assert_array_equal(found["probability"], expected["probability"])


CODE = """
import torch
from torch import nn

def network(channels=4):
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
                         nn.Conv2d(channels, 1, 1))

def nothing():
    return 3

def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with code of the user's in it."""
    (tmp_path / "theirs_of_a_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("theirs_of_a_test", None)
    return tmp_path


def test_a_factory_makes_the_network_and_a_file_has_its_weights(code: Path) -> None:
    made = module_of_factory("theirs_of_a_test:network", ONE)
    state = {f"module.{key}": value + 1 for key, value in made.network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, code / "best.pth")
    module = module_of_factory("theirs_of_a_test:network", ONE, path=code / "best.pth")
    for key, value in module.network.state_dict().items():
        assert torch.equal(value, state[f"module.{key}"]), key
    assert module.origin == (
        "made by theirs_of_a_test:network, code of yours that runs here, with the weights of "
        "best.pth"
    )


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        ("theirs_of_a_test", UsageError, "expected package.module:function"),
        ("nowhere_at_all:network", InputError, "failed: ModuleNotFoundError"),
        ("theirs_of_a_test:gone", InputError, "failed: AttributeError"),
        ("theirs_of_a_test:broken", InputError, "failed: ValueError: no weights here"),
        ("theirs_of_a_test:nothing", InputError, "makes a int; expected a torch.nn.Module"),
    ],
)
def test_code_that_makes_no_network(
    code: Path, factory: str, kind: type[SegdeployError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        module_of_factory(factory, ONE)


def test_of_several_state_dicts_one_is_chosen(code: Path) -> None:
    made = module_of_factory("theirs_of_a_test:network", ONE).network.state_dict()
    ema = {f"module.{key}": value + 1 for key, value in made.items()}
    content = {"model": made, "ema": {**ema, "n_averaged": torch.tensor(3)}}
    torch.save(content, path := code / "both.pth")
    with pytest.raises(UsageError, match=r"2 state dicts that fit: model, ema; .*--weights"):
        module_of_factory("theirs_of_a_test:network", ONE, path=path)
    chosen = module_of_factory("theirs_of_a_test:network", ONE, path=path, chosen="ema")
    for key, value in chosen.network.state_dict().items():
        assert torch.equal(value, ema[f"module.{key}"]), key
    with pytest.raises(UsageError, match=r"--weights swa: .*holds none that fits"):
        module_of_factory("theirs_of_a_test:network", ONE, path=path, chosen="swa")


def test_weights_of_another_network(code: Path) -> None:
    torch.save(nn.Conv2d(3, 1, 1).state_dict(), code / "other.pth")
    with pytest.raises(InputError, match=r"other.pth does not fit the network: .* missing keys"):
        module_of_factory("theirs_of_a_test:network", ONE, path=code / "other.pth")


def test_parameters_that_are_shared_count_once() -> None:
    network = Recurrent()
    assert load_module(network, ONE).parameters == sum(p.numel() for p in network.parameters())
    assert isinstance(load_module(network, ONE), LoadedModule)
