"""Images, masks and fields of view that are held in memory, as a set of any other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision, TensorSpec
from segdeploy.deploy.runtimes.base import Executed, Execution


@dataclass(frozen=True, kw_only=True, eq=False)
class Held(Sample):
    """A sample whose arrays are held, as both contracts give them.

    Attributes:
        fed: float32 (C, h, w), what a model takes.
        shown: the masks, in the form of the output contract.
        field_of_view: bool (h, w), or ``None``.
        bytes_fed: uint8 (h, w, 3), what a model of pixels takes.
    """

    fed: NDArray[np.float32]
    shown: Any
    field_of_view: NDArray[np.bool_] | None = None
    bytes_fed: NDArray[np.uint8] | None = None

    def stated(self, preprocess: Preprocess) -> Preprocess:
        return preprocess

    def image(self, preprocess: Any = None) -> Any:
        return self

    def truth(self, preprocess: Preprocess, output: OutputContract) -> Any:
        return self.shown

    def counted(self, preprocess: Preprocess) -> NDArray[np.bool_] | None:
        return self.field_of_view


AS_IT_IS: Any = SimpleNamespace(
    size=(8, 8), apply=lambda image: image.fed, pixels=lambda image: image.bytes_fed
)
"""An input contract that changes nothing."""


def set_of(
    names: Sequence[str],
    fed: NDArray[np.float32],
    truths: NDArray[Any],
    *,
    fields: NDArray[np.bool_] | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> SegmentationSet:
    """Images in memory as a set, for ``AS_IT_IS``."""
    samples = tuple(
        Held(
            name=name,
            image_path=Path(name),
            mask_path=Path(name),
            fed=fed[place],
            shown=truths[place],
            field_of_view=None if fields is None else fields[place],
            bytes_fed=None if pixels is None else pixels[place],
        )
        for place, name in enumerate(names)
    )
    return SegmentationSet(root=Path(), split="test", samples=samples)


class Echo:
    """A runtime whose answer to an image is some of its channels: a stand-in for a network."""

    name = "echo"
    execution = Execution(threads=1)
    executed = Executed(layers=(), requested=Precision.FP32)
    inputs = (TensorSpec(name="image", shape=("n", 3, 8, 8), dtype="float32"),)
    outputs = (TensorSpec(name="probability", shape=("n", 1, 8, 8), dtype="float32"),)

    def __init__(self, first: int, count: int = 1) -> None:
        self.channels = slice(first, first + count)

    def infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"probability": feeds["image"][:, self.channels]}

    def infer_many(
        self, batches: Iterable[Mapping[str, NDArray[Any]]]
    ) -> Iterator[dict[str, NDArray[Any]]]:
        return map(self.infer, batches)

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *error: object) -> None: ...
