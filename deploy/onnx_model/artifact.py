"""What flows between the stages: a model file, described."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Precision(str, Enum):
    """Arithmetic a model file asks for."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: name, shape (a string is a dynamic axis), numpy dtype name."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model file on disk.

    ``parent`` is the sha256 of the file it was made from; ``None`` for an exported checkpoint.
    ``target`` names the profile an int8 file was made for.
    """

    path: Path
    precision: Precision
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str
    parent: str | None = None
    target: str | None = None
