"""Any ``torch.nn.Module``: a network of nobody's family, with what it takes and gives."""

from __future__ import annotations

import copy
import hashlib
import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from segdeploy.deploy.data.contract import Contract
from segdeploy.deploy.data.output_contract import Activation, OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.models.checkpoint import Probability
from segdeploy.deploy.models.checkpoint_file import read_checkpoint_file, require_plain
from segdeploy.deploy.models.state_dicts import fitting
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.system.errors import InputError, RunError, UsageError, one_line

TRACED_BATCH = 2
"""Images of the example; torch.export would specialise on one."""

PASSES_ON = frozenset(
    {"alias", "clone", "contiguous", "detach", "permute", "reshape", "squeeze", "to", "transpose"}
    | {"_to_copy", "unsqueeze", "view"}
)
"""Operators of PyTorch that leave values as they are."""

CHOOSES = frozenset({"narrow", "select", "slice"})

UNBOUNDED = frozenset(
    {"_native_batch_norm_legit_no_training", "add", "addmm", "batch_norm", "bmm", "cat", "conv2d"}
    | {"conv_transpose2d", "convolution", "div", "linear", "matmul", "mm", "mul", "pixel_shuffle"}
    | {"sub", "upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d"}
)
"""Operators whose values are of any size: behind them stand logits."""

TOLD = {
    "sigmoid": Activation.SIGMOID,
    "hardsigmoid": Activation.SIGMOID,
    "softmax": Activation.SOFTMAX,
    "_softmax": Activation.SOFTMAX,
}
CHANNEL_AXES = (1, -3)


@dataclass(frozen=True, kw_only=True)
class LoadedModule:
    """A module in evaluation mode, on the CPU, in float32, and everything known about it.

    Attributes:
        network: a copy of what was given.
        preprocess: the input contract.
        output: the output contract.
        name: of the network.
        activation: what makes probabilities of what it returns; ``None`` where it returns them.
        returned: which of the tensors it returns, counted through lists and dicts.
        origin: where it is from, in words.
        weights: file of them; ``None`` where it came with them.
        sha256: of its operators and its weights.
        program: what ``torch.export`` made of it, for other processes.
    """

    network: nn.Module = field(repr=False)
    preprocess: Preprocess
    output: OutputContract
    name: str
    activation: Activation | None
    returned: int
    origin: str
    weights: Path | None
    sha256: str
    program: torch.export.ExportedProgram | None = field(repr=False, compare=False, default=None)

    @property
    def path(self) -> Path:
        """What it is called among files."""
        return self.weights or Path(self.name)

    @property
    def logits(self) -> bool:
        """Whether it returns logits."""
        return self.activation is not None

    @property
    def parameters(self) -> int:
        """Of the whole network; those that are shared count once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def any_batch(self) -> bool:
        """Whether its operators take any number of images at once."""
        return self.program is None or bool(self.program.range_constraints)

    def probability(self) -> Probability:
        """The network as every artefact computes it: normalised image in, probabilities out."""
        whole = Probability(self.network, self.activation, returned=self.returned)
        whole.training = False  # as the network is; one that is a program cannot be told so
        return whole

    @cached_property
    def _folder(self) -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="segdeploy-")

    @cached_property
    def saved(self) -> Path:
        """Its program in a file, which needs none of its classes; gone when this is.

        Raises:
            RunError: it cannot be saved.
        """
        path = Path(self._folder.name) / "program.pt2"
        assert self.program is not None, "of a module that was looked at"
        try:
            torch.export.save(self.program, path)
        except Exception as error:  # whatever a module holds that cannot be written
            raise RunError(
                f"PyTorch cannot save {self.name} for another process ({one_line(error)})"
            ) from error
        return path


def load_module(
    network: nn.Module,
    contract: Contract,
    *,
    name: str | None = None,
    logits: bool | None = None,
    output_name: str | None = None,
    origin: str = "a module",
    weights: Path | None = None,
) -> LoadedModule:
    """Make a module ready: copied, in evaluation mode, and looked at.

    Args:
        network: left as it is.
        contract: what it takes and gives.
        name: of the network; ``None`` takes its class's.
        logits: whether it returns logits; ``None`` takes what its last operator tells.
        output_name: which output: its key in a dict, or its place in a list, from 0; ``None`` takes
            the only one that fits, the deepest of several.
        origin: where it is from, in words.
        weights: file of them.

    Raises:
        InputError: it cannot be copied, fails on an image, gives something else each time or than
            the contract says, or nothing tells whether it returns logits.
        RunError: PyTorch cannot export it.
    """
    name = name or type(network).__name__
    copied = _copied(network, name)
    height, width = contract.preprocess.size
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(
        TRACED_BATCH, len(contract.preprocess.mean), height, width, generator=generator
    )
    given = _returned(copied, example, name)
    program = _program(copied, example, name)
    outputs = _outputs(program, len(given))
    fitting = _fitting(given, contract, name)
    place = _chosen(given, fitting, outputs, output_name, name)
    told, last = _told(outputs[place])
    value = given[place][1]
    output = _output(contract.output, told, value.shape[1], last, name)
    activation = _activation(logits, told, last, output, name)
    module = LoadedModule(
        network=copied,
        preprocess=contract.preprocess,
        output=output,
        name=name,
        activation=activation,
        returned=place,
        origin=origin,
        weights=weights,
        sha256=_digest(program),
        program=program,
    )
    with torch.inference_mode():
        found = module.probability()(example).numpy()
    try:
        require_probabilities(found, output)
    except (InputError, RunError) as error:
        raise InputError(f"{name}: {error}") from error
    return module


def network_in(program: Path) -> nn.Module:
    """The network of ``LoadedModule.saved``.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return torch.export.load(program).module()
    except Exception as error:  # PyTorch's own errors share no base class
        raise RunError(f"PyTorch cannot read {program.name}: {_shown(error)}") from error


def module_of_factory(
    factory: str,
    contract: Contract,
    *,
    path: Path | None = None,
    chosen: str | None = None,
    **stated: Any,
) -> LoadedModule:
    """The module that a function of the user's own code makes, with weights from a file.

    The code runs; from the file tensors alone are read.

    Args:
        factory: ``package.module:function``, found as Python finds it from the working folder.
        contract: what the network takes and gives.
        path: its weights; ``None`` takes those it is made with.
        chosen: which of several state dicts in that file.
        stated: as for ``load_module``.

    Raises:
        UsageError: no such form, or several state dicts that fit.
        InputError: the code cannot be imported, fails or makes no module, or the weights do not
            fit; and as ``load_module``.
        RunError: PyTorch cannot export it.
    """
    network = _made(factory)
    if path is not None:
        loaded, _ = read_checkpoint_file(path)
        tensors = fitting(loaded, network.state_dict(), source=str(path), chosen=chosen)
        require_plain(tensors, path)
        network.load_state_dict(tensors, strict=False)
    origin = f"made by {factory}, code of yours that runs here"
    origin += "" if path is None else f", with the weights of {path.name}"
    return load_module(network, contract, origin=origin, weights=path, **stated)


def _made(factory: str) -> nn.Module:
    """What a factory makes.

    Raises:
        UsageError: no ``package.module:function``.
        InputError: it cannot be imported, fails, or makes no module.
    """
    place, _, function = factory.partition(":")
    if not place or not function:
        raise UsageError(
            f"--module {one_line(factory, limit=80)}: expected package.module:function, a function "
            "that makes the network"
        )
    here = str(Path.cwd())
    if here not in sys.path:  # as `python -m` has it
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(place)
        for part in function.split("."):
            found = getattr(found, part)
        network = found if isinstance(found, nn.Module) else found()
    except Exception as error:  # the user's code may raise anything
        raise InputError(f"--module {factory} failed: {_shown(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"--module {factory} makes a {type(network).__name__}; expected a torch.nn.Module"
        )
    return network


def _copied(network: nn.Module, name: str) -> nn.Module:
    try:
        copied = copy.deepcopy(network).cpu().float().eval()
    except Exception as error:  # hooks, locks, files: whatever a module holds
        raise InputError(f"{name} cannot be copied ({_shown(error)})") from error
    for path, layer in copied.named_modules():
        statistics = getattr(layer, "running_mean", 0)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and statistics is None:
            raise InputError(
                f"{name}: {path} normalises by the statistics of each batch "
                "(track_running_stats=False), so that a result depends on what stands beside it; "
                "train it with running statistics"
            )
        if layer.training:
            raise InputError(f"{name}: {path or 'it'} stays in training mode after eval()")
    return copied


def _returned(network: nn.Module, example: Tensor, name: str) -> list[tuple[str, Tensor]]:
    """What a network gives, by place or key.

    Raises:
        InputError: it fails, or gives something else at the same input.
    """
    try:
        with torch.inference_mode():
            first, again = network(example), network(example)
    except Exception as error:
        shape = "x".join(map(str, example.shape))
        raise InputError(f"{name} fails on images of {shape}: {_shown(error)}") from error
    placed, others = pytree.tree_flatten_with_path(first)[0], pytree.tree_leaves(again)
    leaves = [value for _, value in placed]
    keys = [
        pytree.keystr(path).strip("[]'.\"") for path, _ in pytree.tree_flatten_with_path(first)[0]
    ]
    tensors = [isinstance(leaf, Tensor) for leaf in leaves]
    if not leaves or not all(tensors):
        raise InputError(f"{name} returns {type(first).__name__}; expected tensors alone")
    for leaf, other in zip(leaves, others, strict=True):
        if not torch.equal(leaf, other):
            raise InputError(
                f"{name} gives other values each time it sees the same image; is there dropout "
                "that is active in evaluation mode?"
            )
    return list(zip(keys, leaves, strict=True))


def _program(network: nn.Module, example: Tensor, name: str) -> torch.export.ExportedProgram:
    """Its operators; for any batch where they allow it."""
    batch = torch.export.Dim("batch")
    reasons = []
    for shapes in (({0: batch},), None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return torch.export.export(network, (example,), dynamic_shapes=shapes)
        except Exception as error:
            reasons.append(_shown(error))
    raise RunError(f"PyTorch could not export {name}: {reasons[-1]}")


def _outputs(program: torch.export.ExportedProgram, count: int) -> Sequence[torch.fx.Node]:
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    found: Sequence[torch.fx.Node] = pytree.tree_leaves(last.args[0])
    return found[len(found) - count :]


def _fitting(given: Sequence[tuple[str, Tensor]], contract: Contract, name: str) -> list[int]:
    """Places of the outputs that are planes of the input's size.

    Raises:
        InputError: none is, or none has as many channels as the contract has classes.
    """
    size, stated = contract.preprocess.size, contract.output
    shown = ", ".join(f"{value.dtype} {tuple(value.shape)}" for _, value in given)
    shown = one_line(shown.replace("torch.", ""), limit=200)
    planes = [
        place
        for place, (_, value) in enumerate(given)
        if value.is_floating_point() and value.ndim == 4 and tuple(value.shape[2:]) == tuple(size)
    ]
    if not planes:
        integers = any(not value.is_floating_point() for _, value in given)
        mend = (
            "numbers of classes: give the network before its argmax"
            if integers
            else "a network that ends in planes of the size of its input"
        )
        raise InputError(
            f"{name} returns {shown}; expected float (batch, classes, {size[0]}, {size[1]}), {mend}"
        )
    if stated is None:
        return planes
    found = [place for place in planes if given[place][1].shape[1] == stated.channels]
    if not found:
        names = one_line(", ".join(stated.classes), limit=100)
        raise InputError(
            f"{name} returns {shown}; its output contract names {stated.channels}: {names}; "
            "expected one for each channel: --classes"
        )
    return found


def _chosen(
    given: Sequence[tuple[str, Tensor]],
    fitting: Sequence[int],
    outputs: Sequence[torch.fx.Node],
    asked: str | None,
    name: str,
) -> int:
    """The output to take.

    Raises:
        InputError: no such output, one that does not fit, or several alike.
    """
    keys = [key for key, _ in given]
    if asked is not None:
        if asked not in keys:
            raise InputError(f"{name} has no output {one_line(repr(asked), limit=60)}, but {keys}")
        if keys.index(asked) not in fitting:
            shape = tuple(given[keys.index(asked)][1].shape)
            raise InputError(f"output {asked!r} of {name} is {shape}, not what the contract says")
        return keys.index(asked)
    depth: dict[torch.fx.Node, int] = {}
    for node in outputs[0].graph.nodes:
        depth[node] = 1 + max((depth[each] for each in node.all_input_nodes), default=0)
    deepest = max(depth[outputs[place]] for place in fitting)
    found = [place for place in fitting if depth[outputs[place]] == deepest]
    if len(found) > 1:
        raise InputError(
            f"{name} returns several outputs that fit: {[keys[place] for place in found]}; state "
            "which: --output-name"
        )
    return found[0]


def _told(output: torch.fx.Node) -> tuple[Activation | None, str]:
    """What the last operator that computes values tells, and its name."""
    node, chosen = output, False
    while _operator(node) in PASSES_ON | CHOOSES and node.all_input_nodes:
        chosen |= _operator(node) in CHOOSES
        node = node.all_input_nodes[0]
    last = _operator(node)
    told = TOLD.get(last)
    if told is Activation.SOFTMAX:
        if node.args[1] not in CHANNEL_AXES:
            return None, f"softmax over axis {node.args[1]}"
        if chosen:  # one channel of it is a probability like that of a Sigmoid
            return Activation.SIGMOID, last
    return told, last


def _operator(node: torch.fx.Node) -> str:
    """Name of a node's operator, as ``conv2d``."""
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""


def _output(
    stated: OutputContract | None, told: Activation | None, channels: int, last: str, name: str
) -> OutputContract:
    """The output contract: as stated, else what the last operator tells.

    Raises:
        InputError: they contradict each other, or nothing tells.
    """
    if stated is not None:
        if told is not None and told is not stated.activation:
            raise InputError(
                f"{name} ends in {last}, and the output contract says {stated.activation.value}; "
                "expected the same"
            )
        return stated
    if channels == 1:
        return OutputContract()
    if told is None:
        raise InputError(
            f"{name} returns {channels} channels and ends in {last or 'no operator'}; state what "
            "they mean: an output contract (--classes with --output-kind)"
        )
    return OutputContract(activation=told, classes=tuple(map(str, range(channels))))


def _activation(
    logits: bool | None, told: Activation | None, last: str, output: OutputContract, name: str
) -> Activation | None:
    """What makes probabilities of the values.

    Raises:
        InputError: the last operator says otherwise than the caller, or neither says anything.
    """
    if told is not None:
        if logits:
            raise InputError(f"{name} ends in {last}, which gives no logits; drop --logits")
        return None
    if logits is None and last not in UNBOUNDED:
        raise InputError(
            f"{name} ends in {last or 'no operator'}, which tells neither logits nor "
            "probabilities; state --logits or --no-logits"
        )
    return None if logits is False else output.activation


def _digest(program: torch.export.ExportedProgram) -> str:
    """Of what is computed, and of the weights."""
    digest = hashlib.sha256(str(program.graph).encode())
    stored: Mapping[str, Any] = {**program.state_dict, **program.constants}
    for name in sorted(stored):
        value = stored[name]
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _shown(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}", limit=200)
