"""Take segmentation networks to the device without losing accuracy.

Example:
    >>> import segdeploy as sd
    >>> net = sd.load(sd.bundled.checkpoint("unet_plus_plus"))
    >>> data = sd.Data(num_samples=8)  # train calibrates, test judges; here the bundled sample
    >>> len(data.calibration_images), len(data.test)
    (8, 64)

Each verb of the command line is a function here, and the command line calls these functions. What
a name needs is imported when the name is first used, so that ``import segdeploy`` costs nothing.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

from segdeploy.deploy import __version__ as __version__

if TYPE_CHECKING:
    from segdeploy.api import align as align
    from segdeploy.api.adopt import adopt as adopt
    from segdeploy.api.benchmark import benchmark as benchmark
    from segdeploy.api.benchmark import end_to_end as end_to_end
    from segdeploy.api.calibrate import calibrate as calibrate
    from segdeploy.api.convert import convert as convert
    from segdeploy.api.data import Data as Data
    from segdeploy.api.debug import debug as debug
    from segdeploy.api.deploy import deploy as deploy
    from segdeploy.api.doctor import doctor as doctor
    from segdeploy.api.export import export as export
    from segdeploy.api.load import load as load
    from segdeploy.api.mixed_precision import mixed_precision as mixed_precision
    from segdeploy.api.package import check as check
    from segdeploy.api.package import package as package
    from segdeploy.api.parity import DeviceOutputs as DeviceOutputs
    from segdeploy.api.parity import parity as parity
    from segdeploy.api.predict import predict as predict
    from segdeploy.api.predictor import Predictor as Predictor
    from segdeploy.api.prepare import prepare as prepare
    from segdeploy.api.quantize import quantize as quantize
    from segdeploy.api.recommended import Recommended as Recommended
    from segdeploy.api.report import compare as compare
    from segdeploy.api.report import report as report
    from segdeploy.api.rewrite import rewrite as rewrite
    from segdeploy.api.run import Run as Run
    from segdeploy.api.simplify import simplify as simplify
    from segdeploy.api.train import train as train
    from segdeploy.api.tune import tune as tune
    from segdeploy.api.verify import verify as verify
    from segdeploy.calibration.errors import CalibrationError as CalibrationError
    from segdeploy.calibration.errors import SegdeployError as SegdeployError
    from segdeploy.calibration.table import CalibrationTable as CalibrationTable
    from segdeploy.deploy.data import bundled as bundled
    from segdeploy.deploy.data.contract import Contract as Contract
    from segdeploy.deploy.data.output_contract import OutputContract as OutputContract
    from segdeploy.deploy.data.preprocess import Preprocess as Preprocess
    from segdeploy.deploy.models.checkpoint import Checkpoint as Checkpoint
    from segdeploy.deploy.onnx_model.artifact import Artifact as Artifact
    from segdeploy.deploy.system.errors import InputError as InputError
    from segdeploy.deploy.system.errors import MemoryLimitError as MemoryLimitError
    from segdeploy.deploy.system.errors import RunError as RunError
    from segdeploy.deploy.system.errors import UsageError as UsageError
    from segdeploy.training.recipe import Recipe as Recipe

_VERBS = {
    "adopt": "adopt",
    "benchmark": "benchmark",
    "calibrate": "calibrate",
    "check": "package",
    "compare": "report",
    "convert": "convert",
    "debug": "debug",
    "deploy": "deploy",
    "doctor": "doctor",
    "end_to_end": "benchmark",
    "export": "export",
    "load": "load",
    "mixed_precision": "mixed_precision",
    "package": "package",
    "parity": "parity",
    "predict": "predict",
    "prepare": "prepare",
    "quantize": "quantize",
    "report": "report",
    "rewrite": "rewrite",
    "simplify": "simplify",
    "train": "train",
    "tune": "tune",
    "verify": "verify",
}
"""Function to the module of ``segdeploy.api`` that holds it."""

_VALUES = {
    "Artifact": "deploy.onnx_model.artifact",
    "CalibrationError": "calibration.errors",
    "CalibrationTable": "calibration.table",
    "Checkpoint": "deploy.models.checkpoint",
    "Contract": "deploy.data.contract",
    "Data": "api.data",
    "DeviceOutputs": "api.parity",
    "InputError": "deploy.system.errors",
    "MemoryLimitError": "deploy.system.errors",
    "OutputContract": "deploy.data.output_contract",
    "Predictor": "api.predictor",
    "Preprocess": "deploy.data.preprocess",
    "Recipe": "training.recipe",
    "Recommended": "api.recommended",
    "Run": "api.run",
    "RunError": "deploy.system.errors",
    "SegdeployError": "calibration.errors",
    "UsageError": "deploy.system.errors",
}
"""Class to the module that holds it."""

_MODULES = {"align": "api.align", "bundled": "deploy.data.bundled"}

__all__ = [*_VERBS, *_VALUES, *_MODULES, "__version__"]  # names, all of them


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = importlib.import_module(f"segdeploy.{_MODULES[name]}")
    elif name in _VERBS or name in _VALUES:
        place = f"api.{_VERBS[name]}" if name in _VERBS else _VALUES[name]
        found = getattr(importlib.import_module(f"segdeploy.{place}"), name)
    else:
        raise AttributeError(f"module 'segdeploy' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Verb(ModuleType):
    """A room of the package with the name of a verb: called, it is the verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The function of this name in ``segdeploy.api``."""
        return self._function(*arguments, **options)

    @property
    def _function(self) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(f"segdeploy.api.{_VERBS[name]}"), name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)


for _name in _VERBS.keys() & {"deploy", "verify"}:
    importlib.import_module(f"segdeploy.{_name}").__class__ = _Verb
