"""What a runtime really executes: every convolution and matrix product, and its precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.system.errors import InputError

UNKNOWN = "unknown"
"""Precision of a layer that the runtime's own graph does not show."""

CONVOLUTIONS = ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution or matrix product as executed.

    Attributes:
        name: as in the model file.
        operator: as in the model file, e.g. ``Conv``.
        precision: of the products, e.g. ``int8``, ``fp32``, ``bf16``, ``fp16``.
        macs: multiply-adds for one image.
    """

    name: str
    operator: str
    precision: str
    macs: int


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What really runs, read from the runtime's own graph.

    Attributes:
        layers: in the order of the model file.
        requested: the precision the model file asks for.

    Example:
        >>> conv = Layer(name="a", operator="Conv", precision="int8", macs=300)
        >>> head = Layer(name="b", operator="Conv", precision="fp32", macs=100)
        >>> executed = Executed(layers=(conv, conv, head), requested=Precision.INT8)
        >>> executed.words, executed.float_layers
        ('int8 (2 of 3 convolutions)', ('b',))
        >>> round(executed.int8_mac_share, 3)  # 600 of 700
        0.857
    """

    layers: tuple[Layer, ...]
    requested: Precision

    @property
    def words(self) -> str:
        """The precision for a report, e.g. ``int8 (29 of 31 convolutions)``."""
        found = Counter(layer.precision for layer in self.layers)
        if not found:
            return self.requested.value
        (most, count), *others = found.most_common()
        if self.requested is Precision.FP16 and most in ("fp32", "bf16"):
            most = f"{most} (weights stored in fp16)"
        if not others:
            return most
        simple = all(layer.operator in CONVOLUTIONS for layer in self.layers)
        of_all = f"{count} of {len(self.layers)} {'convolutions' if simple else 'layers'}"
        rest = [precision for precision, _ in others if precision != "fp32"]
        return f"{most} ({', '.join([of_all, *(f'others {p}' for p in rest)])})"

    @property
    def macs(self) -> int:
        """Multiply-adds of all layers for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def int8_mac_share(self) -> float | None:
        """Share of the multiply-adds done in int8, 0 to 1; ``None`` where there are none."""
        in_int8 = sum(layer.macs for layer in self.layers if layer.precision == "int8")
        return in_int8 / self.macs if self.macs else None

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Names of the layers of an int8 file that do not run in int8; none for other files."""
        if self.requested is not Precision.INT8:
            return ()
        return tuple(layer.name for layer in self.layers if layer.precision != "int8")


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One convolution or matrix product in a runtime's own graph.

    ``names`` are those of the nodes of the model file it came from, as far as the runtime tells.
    """

    names: tuple[str, ...]
    operator: str
    precision: str


def file_layers(path: Path) -> tuple[Layer, ...]:
    """The layers of a model file with their cost, their precision not known yet.

    Shapes are inferred on the file itself, not on what a runtime made of it, so that the total is
    that of ``deploy.onnx_model.cost``. A file whose shapes cannot be inferred gives no layers.
    """
    from segdeploy.deploy.onnx_model.cost import onnx_cost  # loads onnx, which a row does not need

    try:
        cost = onnx_cost(path)
    except InputError:
        return ()
    return tuple(
        Layer(name=layer.name, operator=layer.op, precision=UNKNOWN, macs=layer.macs)
        for layer in cost.layers
        if layer.macs
    )


def executed_of(
    layers: Sequence[Layer], kernels: Iterable[Kernel], *, requested: Precision
) -> Executed:
    """Give each layer of a file the precision of the kernel that runs it.

    A kernel belongs to the layer it names. Where as many kernels as layers are left, the names
    were lost, and if all of these kernels compute in one precision the layers do; otherwise the
    precision of what is left is unknown. Nothing is paired by its place.

    Args:
        layers: of the model file; where there are none, the kernels stand for themselves, with
            MACs of 0.
        kernels: of the runtime's graph, in its order.
        requested: the precision the file asks for.
    """
    if not layers:
        return Executed(layers=tuple(map(_as_layer, kernels)), requested=requested)
    listed = list(kernels)
    owned = owners([layer.name for layer in layers], listed)
    precisions = {name: listed[index].precision for name, index in owned.items()}
    left = [k.precision for i, k in enumerate(listed) if i not in set(owned.values())]
    same = len(set(left)) == 1 and len(left) == len(layers) - len(owned)
    return Executed(
        layers=tuple(
            Layer(
                name=layer.name,
                operator=layer.operator,
                precision=precisions.get(layer.name, left[0] if same else UNKNOWN),
                macs=layer.macs,
            )
            for layer in layers
        ),
        requested=requested,
    )


def owners(layers: Sequence[str], kernels: Sequence[Kernel]) -> dict[str, int]:
    """Which kernel runs each layer, as its place among the kernels; layers of none are left out.

    A kernel that names no layer runs none that is known: the order of kernels says nothing, since
    runtimes run what does not depend on each other as they please.

    Example:
        >>> named = Kernel(names=("b",), operator="Conv", precision="int8")
        >>> nameless = Kernel(names=("fused_7",), operator="Conv", precision="int8")
        >>> owners(["a", "b"], [nameless, named])
        {'b': 1}

    Args:
        layers: their names, in the order of the model file.
        kernels: as for ``executed_of``.
    """
    waiting = set(layers)
    owned: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        owner = next((name for name in kernel.names if name in waiting), None)
        if owner is not None:
            waiting.discard(owner)
            owned[owner] = index
    return owned


def _as_layer(kernel: Kernel) -> Layer:
    name = kernel.names[0] if kernel.names else kernel.operator
    return Layer(name=name, operator=kernel.operator, precision=kernel.precision, macs=0)
