"""What flows into a package and what comes out of it; what a target has to provide."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from segdeploy.calibration.estimate import Method
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    describe,
    load_model,
    metadata,
    output_in,
    require_contracts,
)
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.packaging.preprocessing import Preprocessing
from segdeploy.deploy.system.errors import InputError, UsageError, one_line
from segdeploy.deploy.targets.tensorrt_rules import Finding

README = "README.md"
MANIFEST = "package.json"
COMMANDS = 3
"""How many commands the README of every package holds."""

_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")

FLAG_OF = {
    "calibration": "--calib-data",
    "evaluation": "--data",
    "table": "--calibration",
    "method": "--method",
    "exclude": "--exclude",
}
"""The command-line flag of each part of a request that only some targets read."""


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A model to package: the file, and everything it says about itself.

    Attributes:
        artifact: the file.
        preprocess: its input contract.
        output: what its channels mean.
        interface: which form its ends have.
        metadata: all of its ``metadata_props``.
    """

    artifact: Artifact
    preprocess: Preprocess
    output: OutputContract
    interface: Interface
    metadata: dict[str, str] = field(hash=False)

    @classmethod
    def open(cls, path: Path) -> PackagedModel:
        """Read a model file and what it carries.

        Raises:
            InputError: no ONNX file, no input contract, or ends that are not what the contracts
                say.
        """
        model = load_model(path)
        artifact = describe(path, model=model)
        return cls(
            artifact=artifact,
            preprocess=require_contracts(artifact, model),
            output=output_in(model, source=str(path)),
            interface=interface_of(artifact.inputs, artifact.outputs),
            metadata=metadata(model),
        )

    @property
    def name(self) -> str:
        """The file's name without ``.onnx``."""
        return self.artifact.path.name.removesuffix(".onnx")

    @property
    def network(self) -> str:
        """The architecture where the file names one, else the file's name before its first dot."""
        return self.metadata.get("arch") or self.name.partition(".")[0]

    @property
    def float_layers(self) -> tuple[str, ...]:
        """Layers that an int8 file keeps in float, by name."""
        return tuple(filter(None, self.metadata.get("float_layers", "").split(",")))

    def model(self) -> onnx.ModelProto:
        """The graph, read again: whoever changes it changes a copy."""
        return load_model(self.artifact.path)

    def image_shape(self, batch: int) -> tuple[int, int, int, int]:
        """(batch, channels, height, width) of the contract.

        Raises:
            InputError: the graph has another fixed shape.
        """
        expected = (batch, self.preprocess.channels, *self.preprocess.size)
        found = self.artifact.inputs[0].shape
        if len(found) != 4 or any(
            isinstance(there, int) and there != here
            for there, here in zip(found, expected, strict=True)
        ):
            raise InputError(
                f"{self.artifact.path} takes {found}, but its input contract and the batch ask "
                f"for {expected}; export the model again with that contract"
            )
        return expected


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to package.

    Attributes:
        sources: the models, in the order given.
        calibration: images to calibrate on, where the target wants them.
        evaluation: images to report on, where the target wants them.
        table: ranges of the float model's activations, where the target wants them.
        table_sha256: digest of the table's file.
        method: how a device's own tool should find ranges, where it was said.
        exclude: layers to keep in float, besides those an int8 file names.
        batches: smallest, usual and largest batch the device will see.
        preprocessing: which forms of each model to write, where the target has both.
    """

    sources: tuple[PackagedModel, ...]
    calibration: SegmentationSet | None = None
    evaluation: SegmentationSet | None = None
    table: CalibrationTable | None = None
    table_sha256: str | None = None
    method: Method | None = None
    exclude: tuple[str, ...] = ()
    batches: tuple[int, int, int] = (1, 1, 8)
    preprocessing: Preprocessing = Preprocessing.BOTH

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("nothing to package; give one model or more with -m")
        low, usual, high = self.batches
        if not 1 <= low <= usual <= high:
            raise UsageError(
                f"batches {low} {usual} {high} are out of order; give smallest, usual and largest"
            )
        for source in self.sources:
            _require_plain_name(source.artifact.path.name, "model")
            _require_plain_name(source.artifact.inputs[0].name, "input")
            first = self.sources[0]
            if source.output != first.output:
                raise InputError(
                    f"{source.artifact.path} has other classes ({_classes(source)}) than "
                    f"{first.artifact.path} ({_classes(first)}); a package holds one model in "
                    "several precisions"
                )
            unlike = source.preprocess != first.preprocess
            if unlike or source.metadata.get("arch") != first.metadata.get("arch"):
                raise InputError(
                    f"{source.artifact.path} and {first.artifact.path} have different "
                    "input contracts or networks; a package holds one model in several precisions"
                )

    @property
    def images_inside(self) -> bool:
        """Whether models that take 8-bit images are wanted and can be: images have 8 bits."""
        return self.preprocessing.inside and self.sources[0].preprocess.eight_bit

    def only(self, *precisions: Precision, targets: Collection[str] = ()) -> Request:
        """This request, refused where a model is none a target can take.

        Args:
            precisions: what the target takes.
            targets: of int8 models, the profiles they may have been made for; empty for any.

        Raises:
            InputError: another precision, an int8 model of another profile, an image interface,
                or two models of one precision.
        """
        seen: dict[Precision, PackagedModel] = {}
        for source in self.sources:
            path, precision = source.artifact.path, source.artifact.precision
            if precision not in precisions:
                expected = ", ".join(p.value for p in precisions)
                raise InputError(f"{path} is {precision.value}; this package takes {expected}")
            if precision is Precision.INT8 and targets and source.artifact.target not in targets:
                expected = " or ".join(targets)
                raise InputError(
                    f"{path} is int8 for {source.artifact.target or 'an unnamed target'}; this "
                    f"package takes int8 for {expected}. Make it with "
                    f"`segdeploy quantize --target {next(iter(targets))}`"
                )
            if source.interface is Interface.IMAGE:
                raise InputError(
                    f"{path} takes 8-bit images; this package takes the model it was made from, "
                    "because the device does the preprocessing"
                )
            if precision in seen:
                raise InputError(
                    f"{seen[precision].artifact.path} and {path} are both {precision.value}; give "
                    "one of them"
                )
            seen[precision] = source
        return self

    def takes(self, *used: str) -> None:
        """Refuse what was given and this target has no use for.

        Args:
            used: which of ``calibration``, ``evaluation``, ``table``, ``method``, ``exclude`` and
                ``preprocessing`` the target reads.

        Raises:
            UsageError: naming the flag.
        """
        for name, flag in FLAG_OF.items():
            if name not in used and getattr(self, name) not in (None, ()):
                raise UsageError(f"{flag} means nothing to this target; leave it out")
        if "preprocessing" not in used and self.preprocessing is not Preprocessing.BOTH:
            raise UsageError("--preprocessing means nothing to this target; leave it out")

    def one_image_a_call(self) -> None:
        """Refuse other batches than 1, for a target that is built for one image a call.

        Raises:
            UsageError: other batches were asked for.
        """
        if self.batches not in (type(self).batches, (1, 1, 1)):
            asked = " ".join(map(str, self.batches))
            raise UsageError(f"--batch {asked}: this package is for one image a call; leave it out")

    def of(self, precision: Precision) -> PackagedModel | None:
        """The model of a precision, if there is one."""
        found = [s for s in self.sources if s.artifact.precision is precision]
        return found[0] if found else None

    def needed(self, precision: Precision, *, why: str) -> PackagedModel:
        """The model of a precision.

        Raises:
            InputError: there is none.
        """
        source = self.of(precision)
        if source is None:
            raise InputError(f"-m names no {precision.value} model; {why}")
        return source

    def images(self, which: str) -> SegmentationSet:
        """The calibration or the evaluation images.

        Args:
            which: "calibration" or "evaluation".

        Raises:
            InputError: masks of evaluation images that lie otherwise than the classes need.
            UsageError: none were given.
        """
        found: SegmentationSet | None = getattr(self, which)
        if found is None:
            raise UsageError(
                f"this package holds {which} images; give a folder with {FLAG_OF[which]}"
            )
        if which == "evaluation":
            found.require_fits(self.sources[0].output)
        return found


def _classes(source: PackagedModel) -> str:
    return one_line(", ".join(source.output.classes), limit=60)


def _require_plain_name(name: str, what: str) -> None:
    """Refuse a name that command lines, YAML or a vendor's parser would need quoted."""
    if not _PLAIN.fullmatch(name):
        raise InputError(
            f"the {what}'s name {name!r} goes into command lines; rename it with letters, digits "
            "and . _ - / only"
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One of the three commands of a package: what it does, and the line to type."""

    what: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a target says about the files it wrote.

    Attributes:
        steps: three commands, run inside the folder.
        executed: what was run here, on this machine.
        not_run: what was not run on hardware.
        notes: further facts for the README, a sentence each.
    """

    steps: tuple[Step, ...]
    executed: tuple[str, ...]
    not_run: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.steps) != COMMANDS:
            raise ValueError(f"{len(self.steps)} commands; every package has {COMMANDS}")


@dataclass(frozen=True, kw_only=True)
class PackageFile:
    """One file of a package, its path relative to the folder with forward slashes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Package:
    """A finished package.

    Attributes:
        target: its name.
        folder: where it lies.
        files: every file but the manifest, the checksums and the README, in path order.
        contents: commands, what was executed here and what was not run on hardware.
        document: where the target's format was taken from.
    """

    target: str
    folder: Path
    files: tuple[PackageFile, ...]
    contents: Contents
    document: str


@dataclass(frozen=True, kw_only=True)
class PackageTarget:
    """A toolchain to hand a model to.

    Attributes:
        name: the command-line name.
        title: what the toolchain is called.
        document: where its format was taken from, with the version.
        write: (request, empty folder) -> contents; refuses with an ``InputError`` or a
            ``UsageError`` what it cannot take, if it can before it writes.
        verify: re-reads a written folder with a parser of each format, and raises an
            ``InputError`` naming the first file that is not as it should be.
        check: what the toolchain would refuse of any ONNX graph, for targets with such rules.
    """

    name: str
    title: str
    document: str
    write: Callable[[Request, Path], Contents]
    verify: Callable[[Path], None]
    check: Callable[[onnx.ModelProto], tuple[Finding, ...]] | None = None
