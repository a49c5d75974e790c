"""Every activation of a PyTorch network, by the names that the exported file gives them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segdeploy.deploy.models.checkpoint import Checkpoint
from segdeploy.deploy.models.module import LoadedModule
from segdeploy.deploy.onnx_model.interface import OUTPUT_NAME

_CONVOLUTIONS = ("conv2d", "convolution")
_NORMS = ("batch_norm", "native_batch_norm")
_OPERATORS = {
    "relu": "Relu",
    "relu_": "Relu",
    "add": "Add",
    "cat": "Concat",
    "max_pool2d": "MaxPool",
    "max_pool2d_with_indices": "MaxPool",
    "upsample_bilinear2d": "Resize",
    "upsample_nearest2d": "Resize",
    "sigmoid": "Sigmoid",
}
"""PyTorch's operators, before and after it decomposes them, and ONNX's."""


class PyTorchValues:
    """A checkpoint in PyTorch as the reference: fp32, evaluation mode, BatchNorm not folded.

    Names are those of ``deploy.stages.export.name_layers``: ``conv0_0.conv.0`` is the convolution
    with its BatchNorm, which the file folds into it; ``@2`` its second use, as in R2U-Net's
    recurrence. So the export's folding is compared as well.

    Attributes:
        name: for a report.
        names: of all activations, in the order they are computed.
    """

    name = "PyTorch fp32"

    def __init__(self, checkpoint: Checkpoint | LoadedModule) -> None:
        self._network = checkpoint.probability()
        contract = checkpoint.preprocess
        blank = np.zeros((contract.channels, *contract.size), np.float32)
        self.names: tuple[str, ...] = tuple(self.values(blank))

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Every activation of one image (channels, H, W), each with a batch axis of 1."""
        recorder = _Recorder(self._network)
        with torch.inference_mode():
            source = torch.from_numpy(image[None])  # outside: making it is no part of the network
            with recorder:
                self._network(source)
        values = {name: value.numpy() for name, value in recorder.values.items()}
        last = next(reversed(values))
        values[OUTPUT_NAME] = values.pop(last)
        return values


class _Recorder(TorchDispatchMode):
    """Keeps a copy of what each operator returns; the next may overwrite it in place."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        self.values: dict[str, Tensor] = {}
        self._weights = {
            parameter.data_ptr(): name.removeprefix("network.").removesuffix(".weight")
            for name, parameter in network.named_parameters()
        }
        self._latest: dict[int, str] = {}  # memory that an activation lies in, to its name
        self._used: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # Asked for before the call: a result may be given the memory of its own input.
        name = self._name(func.overloadpacket.__name__, args)
        result = func(*args, **(kwargs or {}))
        if name is not None:
            output = result[0] if isinstance(result, tuple) else result
            self.values[name] = output.clone()
            self._latest[output.data_ptr()] = name
        return result

    def _name(self, operator: str, args: tuple[Any, ...]) -> str | None:
        """The activation's name; ``None`` for an operator that makes none."""
        if operator in _NORMS:
            return self._latest[args[0].data_ptr()]
        if operator in _CONVOLUTIONS:
            base = self._weights[args[1].data_ptr()]
        elif operator not in _OPERATORS:
            return None
        elif operator in ("relu", "relu_"):
            base = f"{self._latest[args[0].data_ptr()]}/Relu"
        else:
            base = _OPERATORS[operator]
        self._used[base] += 1
        plain = base in _OPERATORS.values()
        return base if self._used[base] == 1 and not plain else f"{base}@{self._used[base]}"
