"""Where a runtime spends its time: each layer by name, from the runtime's own profiler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

from segdeploy.deploy.runtimes.executed import Kernel, owners
from segdeploy.deploy.system.errors import RunError

PROFILED_CALLS = 10
"""Calls behind a layer's time: few, because a profiler shows shares, not the speed of a model."""

WARMUP_CALLS = 3


@dataclass(frozen=True, kw_only=True)
class TimedKernel:
    """One kernel that ran.

    Attributes:
        kernel: which nodes of the model file it came from, and its operator.
        is_layer: whether it is a convolution or a matrix product.
        times_us: of each call, microseconds.
    """

    kernel: Kernel
    is_layer: bool
    times_us: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """One model in one runtime.

    Attributes:
        calls: how many were profiled.
        layers: name in the model file to microseconds of each call; a layer that the runtime does
            not show is ``None``.
        others: operator to microseconds of each call, of everything else the runtime ran: pooling,
            concatenation, changes of layout and precision, and layers it does not name.

    Raises:
        RunError: a list of another length, or a negative time.
    """

    calls: int
    layers: dict[str, tuple[float, ...] | None]
    others: dict[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        for name, times in {**self.layers, **self.others}.items():
            if times is not None and (len(times) != self.calls or min(times, default=0.0) < 0):
                raise RunError(f"{times} is no measurement of {self.calls} calls of {name}")


def sorted_out(layers: Sequence[str], ran: Iterable[TimedKernel]) -> LayerTimes:
    """Give each layer of a file the time of the kernel that runs it, and the rest its operator.

    Example:
        >>> conv = Kernel(names=("a",), operator="Conv", precision="int8")
        >>> pool = Kernel(names=(), operator="MaxPool", precision="")
        >>> times = sorted_out(["a"], [
        ...     TimedKernel(kernel=conv, is_layer=True, times_us=(3.0, 5.0)),
        ...     TimedKernel(kernel=pool, is_layer=False, times_us=(1.0, 1.0)),
        ... ])
        >>> times.layers, times.others
        ({'a': (3.0, 5.0)}, {'MaxPool': (1.0, 1.0)})

    Args:
        layers: names in the order of the model file.
        ran: every kernel, in the order it ran; each with as many calls.
    """
    listed = list(ran)
    shown = [timed for timed in listed if timed.is_layer]
    owned = owners(layers, [timed.kernel for timed in shown])
    taken = {id(shown[index]) for index in owned.values()}
    others: dict[str, tuple[float, ...]] = {}
    for timed in listed:
        if id(timed) not in taken:
            before = others.get(timed.kernel.operator, (0.0,) * len(timed.times_us))
            summed = tuple(map(fsum, zip(before, timed.times_us, strict=True)))
            others[timed.kernel.operator] = summed
    return LayerTimes(
        calls=max((len(timed.times_us) for timed in listed), default=0),
        layers={name: shown[owned[name]].times_us if name in owned else None for name in layers},
        others=dict(sorted(others.items())),
    )
