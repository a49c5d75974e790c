"""An int8 model in the making: what it is quantized from and with, and what recovery needs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import load_model
from segdeploy.deploy.quantize.learnt_parameters import LearntParameters
from segdeploy.deploy.quantize.to_int8 import to_int8
from segdeploy.deploy.sensitivity.parts import Values
from segdeploy.deploy.system.look_ahead import run_ahead
from segdeploy.deploy.system.progress import LabelledProgress
from segdeploy.deploy.targets.profiles import TargetProfile


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What decides the bytes of an int8 file beside its target.

    Attributes:
        source: the float32 model.
        table: ranges of its activations.
        learnt: weights and biases in place of rounded ones.
        steps: names of what was applied, in order.
    """

    source: Artifact
    table: CalibrationTable
    learnt: LearntParameters = field(default_factory=LearntParameters)
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What every method works with.

    Attributes:
        images: the calibration images.
        preprocess: their input contract.
        profile: what the target wants.
        exclude: nodes that stay in float.
        table_sha256: digest of the table that was given, for the file's metadata.
        seed: of what is drawn.
        threads: images worked on at once; no result depends on it.
        folder: of what is kept between steps and of an interrupted one.
        progress: wraps what is worked on, with a label.
    """

    images: SegmentationSet
    preprocess: Preprocess
    profile: TargetProfile
    exclude: tuple[str, ...]
    table_sha256: str
    seed: int
    threads: int
    folder: Path
    progress: LabelledProgress[Any]

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The images by name: the order they came in decides nothing."""
        return tuple(sorted(self.images.samples, key=lambda sample: sample.name))

    def input(self, sample: Sample) -> Values:
        """An image as the network takes it, (1, C, H, W)."""
        return sample.input(self.preprocess)[None]

    def each(self, work: Callable[[Sample], Any], samples: Sequence[Sample]) -> list[Any]:
        """Work on images, several at once; results in order."""
        return list(run_ahead(work, samples, workers=self.threads))

    def write(self, candidate: Candidate, path: Path, exclude: Sequence[str] = ()) -> Artifact:
        """The int8 file of a candidate, which says in its metadata what was applied.

        Args:
            candidate: what to quantize.
            path: where to write.
            exclude: nodes to keep in float beside those of every candidate.

        Raises:
            InputError: see ``to_int8``.
            OSError: the file cannot be written.
        """
        learnt = candidate.learnt
        if candidate.steps:
            said = {
                "applied": list(candidate.steps),
                "images": len(self.images),
                "images_sha256": self.images.sha256(),
                "seed": self.seed,
            }
            learnt = LearntParameters(
                weights=learnt.weights, biases=learnt.biases, provenance=json.dumps(said)
            )
        return to_int8(
            candidate.source,
            path,
            table=candidate.table,
            table_sha256=self.table_sha256,
            profile=self.profile,
            exclude=tuple(dict.fromkeys((*self.exclude, *exclude))),
            learnt=learnt,
        )

    def model(self, candidate: Candidate) -> onnx.ModelProto:
        """The same, read back."""
        with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
            return load_model(self.write(candidate, Path(folder) / "int8.onnx").path)

    def fingerprint(self, candidate: Candidate) -> str:
        """Of all that decides what a method makes of a candidate."""
        learnt = hashlib.sha256()
        for held in (candidate.learnt.weights, candidate.learnt.biases):
            for name in sorted(held):
                learnt.update(name.encode() + held[name].tobytes())
        decides = [
            candidate.source.sha256,
            hashlib.sha256(candidate.table.to_json().encode()).hexdigest(),
            learnt.hexdigest(),
            self.profile.name,
            sorted(self.exclude),
            self.images.sha256(),
            self.preprocess.to_json(),
            self.seed,
        ]
        return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
