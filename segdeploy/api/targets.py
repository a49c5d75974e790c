"""Targets as verbs take them, and what a model for one is called."""

from __future__ import annotations

from pathlib import Path

from segdeploy.api.outputs import AnyPath, beside
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.targets.profiles import TargetProfile, profile_named


def profile_of(target: TargetProfile | str) -> TargetProfile:
    """A target's profile, looked up where it is given by name.

    Raises:
        UsageError: no such target.
    """
    return target if isinstance(target, TargetProfile) else profile_named(target)


def int8_path(source: Artifact, profile: TargetProfile, out: AnyPath | None) -> Path:
    """Where an int8 model goes: as given, else beside its source."""
    return Path(out) if out is not None else beside(source.path, f"int8.{profile.name}.onnx")
