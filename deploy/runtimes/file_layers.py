"""The layers of a model file, to be matched with what a runtime makes of them."""

from __future__ import annotations

from pathlib import Path

from segdeploy.deploy.onnx_model.cost import onnx_cost
from segdeploy.deploy.runtimes.executed import UNKNOWN, Layer
from segdeploy.deploy.system.errors import InputError


def file_layers(path: Path) -> tuple[Layer, ...]:
    """The layers of a model file with their cost, their precision not known yet.

    Shapes are inferred on the file itself, not on what a runtime made of it, so that the total is
    that of ``deploy.onnx_model.cost``. A file whose shapes cannot be inferred gives no layers.
    """
    try:
        cost = onnx_cost(path)
    except InputError:
        return ()
    return tuple(
        Layer(name=layer.name, operator=layer.op, precision=UNKNOWN, macs=layer.macs)
        for layer in cost.layers
        if layer.macs
    )
