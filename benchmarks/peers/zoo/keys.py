"""What decides a figure of the zoo: an earlier run's is taken only where all of it is the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping

from segdeploy.benchmarks.speed.environment import PACKAGES
from segdeploy.benchmarks.speed.environment import describe as describe_environment
from segdeploy.deploy import __version__
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.system.checksums import sha256_of

VERSIONED = (*PACKAGES, "nncf", "monai", "segmentation_models_pytorch", "timm")
"""Packages that make, quantize or run the networks."""

Key = dict[str, str]


def key_of(**decides: object) -> Key:
    """What decides a figure or a file, each under its name, with what always does.

    That is this project's version, those of the packages, and the processor, whose instructions
    decide what int8 kernels compute and how long they take.

    Example:
        >>> key = key_of(threads=2, weights="ab")
        >>> key["threads"], key["weights"], key == key_of(threads=1, weights="ab")
        ('2', 'ab', False)

    Args:
        decides: values of JSON.
    """
    machine = describe_environment()
    known = {
        **decides,
        "segdeploy": __version__,
        "processor": [machine.cpu, *machine.isa],
        **{f"version of {package}": _version(package) for package in VERSIONED},
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in known.items()
    }


def agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two keys say the same of everything that both speak of.

    Example:
        >>> agree({"threads": "2", "of a": "x"}, {"threads": "2", "of b": "y"})
        True
        >>> agree({"threads": "2"}, {"threads": "1"})
        False
    """
    return all(other[name] == value for name, value in one.items() if name in other)


def judged_sha256(images: SegmentationSet) -> str:
    """Digest over images with their masks and fields of view; the set's own is of images only.

    Raises:
        InputError: an image cannot be read.
        OSError: a mask cannot.
    """
    digest = hashlib.sha256(images.sha256().encode())
    for sample in sorted(images.samples, key=lambda s: s.name):
        masks = [path for _, path in sample.class_paths] or [sample.mask_path]
        for path in (*masks, *([sample.field_path] if sample.field_path else ())):
            digest.update(f"{sample.name} {path.parent.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
