"""PyTorch, eager or compiled: the reference every other runtime is compared with."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from segdeploy.deploy.models.checkpoint import Checkpoint
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.onnx_model.cost_formulas import conv_macs
from segdeploy.deploy.onnx_model.interface import INPUT_NAME, OUTPUT_NAME
from segdeploy.deploy.runtimes.base import Feeds, Results, Runtime, infer_threaded, require_fit
from segdeploy.deploy.runtimes.executed import Executed, Layer
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.pytorch_ready import require_ready
from segdeploy.deploy.system.errors import InputError, RunError

_DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


class PyTorchRuntime:
    """A checkpoint in PyTorch.

    fp32 is fp32: TF32, which PyTorch lets NVIDIA GPUs use, is off. bf16 is automatic casting. The
    eager network takes any batch; the compiled one is compiled on opening, which takes up to a
    minute, for ``execution.batch`` alone. Streams are threads that share the network. The hint
    changes nothing.

    Args:
        checkpoint: of a known family, or a module; left as it is.
        execution: how to run it.
        compiled: by ``torch.compile``.
        device: ``cpu``, or ``cuda`` (not run on hardware).
        any_size: take images of any size, not of the contract's alone; not when compiled.

    Raises:
        InputError: no C++ compiler for ``torch.compile``, or no GPU for ``cuda``; or the network
            could not be compiled.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | LoadedModule,
        *,
        execution: Execution,
        compiled: bool = False,
        device: str = "cpu",
        any_size: bool = False,
    ) -> None:
        self.name = require_ready(compiled=compiled, device=device)
        height, width = checkpoint.preprocess.size
        channels = len(checkpoint.preprocess.mean)
        self._image = (channels, height, width)
        sides = ("height", "width") if any_size else (height, width)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name=INPUT_NAME, shape=("batch", channels, *sides), dtype="float32"),
        )
        self.outputs: tuple[TensorSpec, ...] = (
            TensorSpec(
                name=OUTPUT_NAME,
                shape=("batch", checkpoint.output.channels, *sides),
                dtype="float32",
            ),
        )
        self.execution = execution
        self._device = torch.device(device)
        network = checkpoint.probability()
        if self._device.type != "cpu":
            network = copy.deepcopy(network).to(self._device)
        self._eager = network
        self._network: Callable[[Tensor], Tensor] = network
        self._accepted = self.inputs
        if compiled:
            shape = (execution.batch, *self._image)
            self._accepted = (TensorSpec(name=INPUT_NAME, shape=shape, dtype="float32"),)
            self._compile(network, shape)

    @cached_property
    def executed(self) -> Executed:
        """What really runs; compiling fuses layers and keeps their precision."""
        with _arithmetic(self.execution, self._device):
            layers = dispatched_layers(self._eager, (1, *self._image))
        return Executed(layers=layers, requested=Precision.FP32)

    def infer(self, feeds: Feeds) -> Results:
        """Run one batch: ``image`` (N, C, H, W) to ``probability`` (N, K, H, W)."""
        require_fit(self._accepted, feeds)
        try:
            output = self._run(torch.from_numpy(np.ascontiguousarray(feeds[INPUT_NAME])))
        except RuntimeError as error:
            raise RunError(f"PyTorch failed: {error}") from error
        return {OUTPUT_NAME: output.numpy()}

    def infer_many(self, batches: Iterable[Feeds]) -> Iterator[Results]:
        """Run many batches; see the contract in ``deploy.runtimes.base``."""
        return infer_threaded(self.infer, batches, streams=self.execution.streams)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *error: object) -> None:
        del self._network
        del self._eager

    def _run(self, image: Tensor) -> Tensor:
        with torch.inference_mode(), _arithmetic(self.execution, self._device):
            return self._network(image.to(self._device)).float().cpu()

    def _compile(self, network: nn.Module, shape: tuple[int, int, int, int]) -> None:
        self._network = torch.compile(network, dynamic=False)
        try:
            self._run(torch.zeros(shape))
        except Exception as error:  # the compiler's own errors share no base class
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"torch.compile could not compile the network: {reason}") from error


@contextmanager
def _arithmetic(execution: Execution, device: torch.device) -> Iterator[None]:
    """Threads and precision of everything inside; PyTorch keeps the threads for its process."""
    if torch.get_num_threads() != execution.threads_per_stream:
        torch.set_num_threads(execution.threads_per_stream)
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(allow_tf32=False))
        if execution.precision is Precision.BF16:
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        yield


def dispatched_layers(network: nn.Module, shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """The convolutions of one forward pass and what PyTorch runs each in, without computing it.

    Named as the exported file names them: ``conv0_0.conv.0``, its second use
    ``conv0_0.conv.0@2``. What ``torch.compile`` fuses keeps these precisions.

    Args:
        network: its prefix ``network.`` is left out of the names.
        shape: of one image, (1, C, H, W).
    """
    layers: list[Layer] = []
    uses: Counter[str] = Counter()

    def note(module: nn.Conv2d, name: str, output: Tensor) -> None:
        uses[name] += 1
        layers.append(
            Layer(
                name=name if uses[name] == 1 else f"{name}@{uses[name]}",
                operator="Conv",
                precision=_DTYPE_NAMES.get(output.dtype, str(output.dtype)),
                macs=conv_macs(tuple(module.weight.shape), tuple(output.shape)),
            )
        )

    with ExitStack() as stack:
        for path, module in network.named_modules():
            if isinstance(module, nn.Conv2d):

                def hook(
                    module: nn.Conv2d,
                    inputs: tuple[Tensor, ...],
                    output: Tensor,
                    name: str = path.removeprefix("network."),
                ) -> None:
                    note(module, name, output)

                stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(torch.inference_mode())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        network(torch.empty(shape, device=next(network.parameters()).device))
    return tuple(layers)
