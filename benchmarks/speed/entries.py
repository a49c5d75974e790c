"""Which model files run on which runtimes: the rows of the parity and speed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segdeploy.calibration.json_record import Text
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.runtimes.registry import RuntimeName, availability, default_runtimes
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.targets.profiles import PROFILES

DISPLAY_NAMES = {
    RuntimeName.ONNXRUNTIME: "ONNX Runtime",
    RuntimeName.OPENVINO: "OpenVINO",
    RuntimeName.ONNXRUNTIME_CUDA: "ONNX Runtime CUDA (not run on hardware)",
    RuntimeName.ONNXRUNTIME_TENSORRT: "ONNX Runtime TensorRT (not run on hardware)",
}


@dataclass(frozen=True, kw_only=True)
class RowIdentity:
    """What a row of a report is about.

    Attributes:
        file: name of the model file, or of what stands for it.
        target: profile of an int8 file.
        runtime: what runs it.
        precision_requested: precision the file asks for; ``None`` where only the outputs are
            known, not the file they came from.
    """

    name: Text
    file: Text | None
    target: Text | None
    runtime: Text
    precision_requested: Precision | None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model file on one runtime.

    Attributes:
        label: of the file, for the table.
        artifact: the file.
        runtime: what runs it.
        skipped: why it cannot run here.
        optional: whether a runtime that does not take the file is a skipped row, not an error.
    """

    label: str
    artifact: Artifact
    runtime: RuntimeName
    skipped: str | None
    optional: bool = False

    @property
    def name(self) -> str:
        """For example ``int8 ort-x86 on ONNX Runtime``; says where another device is meant."""
        profile = PROFILES.get(self.artifact.target or "")
        elsewhere = " (not run on hardware)" if profile and profile.hardware else ""
        return f"{self.label} on {DISPLAY_NAMES[self.runtime]}{elsewhere}"

    def identity(self) -> RowIdentity:
        """What a row of it is about."""
        return RowIdentity(
            name=self.name,
            file=self.artifact.path.name,
            target=self.artifact.target,
            runtime=self.runtime.value,
            precision_requested=self.artifact.precision,
        )


def entries_for(
    artifacts: Mapping[str, Artifact], runtimes: Sequence[RuntimeName] | None
) -> tuple[Entry, ...]:
    """Pair model files with runtimes.

    An int8 file made for a target runs on the target's runtime; any other file on every runtime of
    the CPU, and on those of a GPU that are ready.

    Args:
        artifacts: label to model file.
        runtimes: those asked for: every file runs on each of them. ``None`` pairs by target and
            lists what is not installed as skipped.

    Raises:
        InputError: a runtime that was asked for is not installed.
    """
    require_ready(runtimes or ())
    entries = []
    for label, artifact in artifacts.items():
        for runtime in runtimes or _suited(artifact):
            state = availability(runtime)
            entries.append(
                Entry(label=label, artifact=artifact, runtime=runtime, skipped=state.reason)
            )
    return tuple(entries)


def entries_everywhere(artifacts: Mapping[str, Artifact]) -> tuple[Entry, ...]:
    """Pair every model file with every runtime, whatever device an int8 file was made for.

    A runtime that is not installed, or does not take the file, becomes a skipped row.

    Args:
        artifacts: label to model file.
    """
    return tuple(
        Entry(
            label=label,
            artifact=artifact,
            runtime=runtime,
            skipped=availability(runtime).reason,
            optional=True,
        )
        for label, artifact in artifacts.items()
        for runtime in default_runtimes()
    )


def require_ready(runtimes: Sequence[RuntimeName]) -> None:
    """Refuse runtimes that were asked for and are not installed; to be called before long work.

    Raises:
        InputError: naming the runtime and how to install it.
    """
    for runtime in runtimes:
        state = availability(runtime)
        if not state.ready:
            raise InputError(f"--runtime {runtime.value}: {state.reason}")


def _suited(artifact: Artifact) -> Sequence[RuntimeName]:
    profile = PROFILES.get(artifact.target or "")
    if artifact.precision is Precision.INT8 and profile is not None:
        return [profile.runtime]
    return default_runtimes()
