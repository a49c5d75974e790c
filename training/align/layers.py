"""Layer by layer: where a runtime first departs from PyTorch, or one ONNX file from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.training.align.onnx import OnnxValues, activations
from segdeploy.training.align.tolerance import NOTHING, Difference, difference, finite


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One activation, over all images.

    Attributes:
        name: of the tensor.
        operator: that made it, e.g. ``Conv``.
        difference: from the reference.
        tolerance: the largest ``difference.relative`` that passes.
    """

    name: str
    operator: str
    difference: Difference
    tolerance: float

    @property
    def departs(self) -> bool:
        """Whether it is further from the reference than the tolerance."""
        return not self.difference.relative <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class LayerAlignment:
    """One runtime against the reference.

    Attributes:
        reference: its name.
        candidate: file and runtime.
        layers: in the order they are computed, each in the file whose tensors are returned.
        left_out: activations of the file without a counterpart, and why.
        output: of the file as it is, nothing more returned: what is used in production.
        images: how many were run.
    """

    reference: str
    candidate: str
    layers: tuple[Layer, ...]
    left_out: Mapping[str, str]
    output: Layer
    images: int

    @property
    def first_departure(self) -> Layer | None:
        """The first layer that departs. All its inputs agree, so the cause lies in it.

        The file as it is comes last: only there does what fusion changes show.
        """
        return next((layer for layer in (*self.layers, self.output) if layer.departs), None)

    @property
    def departed(self) -> int:
        """How many layers depart; those behind the first usually do so because of it."""
        return sum(layer.departs for layer in self.layers)

    @property
    def passed(self) -> bool:
        """True when nothing departs."""
        return self.first_departure is None

    def as_json(self) -> dict[str, Any]:
        """Everything, for ``--format json``."""
        first = self.first_departure
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "images": self.images,
            "tolerance": finite(self.output.tolerance),
            "layers": [_row(layer) for layer in self.layers],
            "left_out": dict(self.left_out),
            "unmodified_output": _row(self.output),
            "first_departure": first.name if first else None,
            "departed": self.departed,
            "passed": self.passed,
        }


def _row(layer: Layer) -> dict[str, Any]:
    figures = layer.difference.as_json()
    return {"name": layer.name, "operator": layer.operator, **figures, "departs": layer.departs}


DEFAULT_TOLERANCE = 2e-5
"""Largest difference that passes, as a share of the layer's largest magnitude.

For fp32. Measured on the networks here: 6.6e-6 and less where nothing is wrong, 7e-4 and more in
a layer whose weights are off by 1e-3.
"""

Image = NDArray[np.float32]


class Reference(Protocol):
    """What the runtimes are compared with: ``PyTorchValues`` or ``OnnxValues``."""

    name: str
    names: tuple[str, ...]

    def values(self, image: Image) -> dict[str, NDArray[Any]]:
        """Every activation of one image (3, H, W), each with a batch axis of 1."""


def align_layers(
    reference: Reference,
    candidate: Artifact,
    runtimes: Sequence[RuntimeName],
    images: Sequence[Image],
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    execution: Execution,
    progress: ItemProgress[Image] = iter,
) -> tuple[LayerAlignment, ...]:
    """Compare a model file in each runtime with a reference, tensor by tensor of equal name.

    A runtime cannot fuse across a tensor it must return, so the layers come from a copy of the
    file that returns them all, and the file as it is runs beside it for its output alone.

    Args:
        reference: its activations are taken as right.
        candidate: the ONNX file; the reference must compute its output under the same name.
        runtimes: at least one, each ready.
        images: at least one, normalised, float32 (3, H, W), run one by one.
        tolerance: share of each layer's largest magnitude by which it may be missed.
        execution: how to run; batch 1.
        progress: wraps the images, for a progress bar.

    Returns:
        One result for each runtime, in their order.

    Raises:
        InputError: an output the reference lacks or has in another shape, or a file that cannot be
            loaded.
        UsageError: no runtime or no image.
        RunError: a runtime failed.
    """
    if not runtimes or not images:
        raise UsageError(
            f"{len(runtimes)} runtimes and {len(images)} images; expected one of each or more"
        )
    output = candidate.outputs[0].name
    if output not in reference.names:
        raise InputError(
            f"{candidate.path} returns {output!r}, which {reference.name} does not compute; "
            "compare a file with the network or the file it was made from"
        )
    with ExitStack() as stack:
        checks = [
            stack.enter_context(_Check(reference, candidate, runtime, execution))
            for runtime in runtimes
        ]
        for image in progress(images):
            wanted = reference.values(image)
            for check in checks:
                check.run(image, wanted)
        return tuple(check.result(tolerance) for check in checks)


class _Check:
    """One runtime, with the file and its copy that returns every layer, while images are run."""

    def __init__(
        self, reference: Reference, candidate: Artifact, runtime: RuntimeName, execution: Execution
    ) -> None:
        self._reference, self._candidate = reference, candidate
        self._operators = {a.name: a.operator for a in activations(load_model(candidate.path))}
        self._input, self._output = candidate.inputs[0].name, candidate.outputs[0].name
        self._layers: dict[str, Difference] = {}
        self._whole = NOTHING
        self._images = 0
        with ExitStack() as stack:
            self._exposed = stack.enter_context(
                OnnxValues(candidate, runtime, tensors=reference.names, execution=execution)
            )
            self._plain = stack.enter_context(open_runtime(runtime, candidate, execution=execution))
            self._stack = stack.pop_all()

    def run(self, image: Image, wanted: dict[str, NDArray[Any]]) -> None:
        """Add one image (3, H, W), whose activations should be ``wanted``."""
        for name, value in self._exposed.values(image).items():
            if wanted[name].shape == value.shape:
                found = difference(wanted[name], value)
                self._layers[name] = self._layers.get(name, NOTHING) + found
        whole = self._plain.infer({self._input: image[None]})[self._output]
        self._whole += difference(wanted[self._output], whole)
        self._images += 1

    def result(self, tolerance: float) -> LayerAlignment:
        """What all images together say."""
        return LayerAlignment(
            reference=self._reference.name,
            candidate=self._exposed.name,
            layers=tuple(
                Layer(
                    name=name,
                    operator=self._operators[name],
                    difference=found,
                    tolerance=tolerance,
                )
                for name, found in self._layers.items()
            ),
            left_out={
                name: "another shape" if name in self._reference.names else "not in the reference"
                for name in self._operators
                if name not in self._layers
            },
            output=Layer(
                name=self._output,
                operator="unmodified file",
                difference=self._whole,
                tolerance=tolerance,
            ),
            images=self._images,
        )

    def __enter__(self) -> _Check:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
