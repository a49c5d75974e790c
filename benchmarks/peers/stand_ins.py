"""Imports packages without what they ask for and random weights do not need."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator

STANDS_IN = {
    "torchvision": (
        "ops.misc",
        "datasets",
        "io",
        "models.densenet",
        "models.feature_extraction",
        "models.resnet",
        "models.vgg",
        "transforms.functional",
        "transforms.v2",
        "utils",
    ),
    "huggingface_hub": ("constants", "errors", "utils"),
}
"""What segmentation_models_pytorch and timm import for pretrained weights and data sets."""


class _Named(type):
    """The type of a class whose every attribute is its own name."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Hub:
    """In place of the hub's mixin: it takes what its subclasses are given."""

    def __init_subclass__(cls, **settings: object) -> None:
        pass

    def __new__(cls, *arguments: object, **named: object) -> _Hub:
        return object.__new__(cls)

    def save_pretrained(self) -> None:
        """Not without the hub."""

    def push_to_hub(self) -> None:
        """Likewise."""

    @classmethod
    def from_pretrained(cls) -> None:
        """Likewise."""


class _StandIn(types.ModuleType):
    """A module that has a class of every name."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Named(name, (), {})


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Modules in place of packages that are not here, while others are imported."""
    missing = [name for name in STANDS_IN if importlib.util.find_spec(name) is None]
    made = []
    for package in missing:
        for path in (package, *(f"{package}.{inner}" for inner in STANDS_IN[package])):
            parts = path.split(".")
            made += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for name in dict.fromkeys(made):
        module = _StandIn(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__dict__.update(__path__=[], __version__="0.0")
        sys.modules[name] = module
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], own, module)
    if "huggingface_hub" in missing:
        sys.modules["huggingface_hub"].__dict__["PyTorchModelHubMixin"] = _Hub
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)
