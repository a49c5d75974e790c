"""How a runtime is asked to run a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.system.errors import UsageError

FLOAT_PRECISIONS = (Precision.FP32, Precision.BF16)
"""What layers that are not quantized can be asked to compute in."""


class Hint(str, Enum):
    """What to be good at: one answer soon, or many answers in all."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a runtime is asked to run a model.

    Attributes:
        threads: processors used in all, shared by the streams.
        batch: images of one call; runtimes that load model files compile for exactly this batch.
        streams: requests served at once.
        hint: latency or throughput, for runtimes that plan differently for each.
        precision: arithmetic of the layers that are not quantized, fp32 or bf16.

    Example:
        >>> Execution(threads=5, streams=2).threads_per_stream
        2

    Raises:
        UsageError: a count below 1, more streams than threads, or another precision.
    """

    threads: int
    batch: int = 1
    streams: int = 1
    hint: Hint = Hint.LATENCY
    precision: Precision = Precision.FP32

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "streams"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.streams > self.threads:
            raise UsageError(
                f"{self.streams} streams cannot share {self.threads} threads; use at most as many "
                "streams as threads"
            )
        if self.precision not in FLOAT_PRECISIONS:
            raise UsageError(
                f"layers that are not quantized run in fp32 or bf16, not {self.precision.value}; "
                "for another precision convert the model file"
            )

    @property
    def threads_per_stream(self) -> int:
        """Threads each request gets; those that do not divide evenly stay idle."""
        return self.threads // self.streams
