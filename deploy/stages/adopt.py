"""An ONNX file of any exporter to one of ours: the same network with our ends and a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from segdeploy.deploy import __version__
from segdeploy.deploy.adoption.any_batch import for_any_batch
from segdeploy.deploy.adoption.foreign_file import load_foreign
from segdeploy.deploy.adoption.input_end import InputEnd, input_end
from segdeploy.deploy.adoption.newer_opset import opset_of, raised, require_known_opset
from segdeploy.deploy.adoption.our_ends import with_our_ends
from segdeploy.deploy.adoption.output_end import (
    FOREGROUND,
    UNSAID,
    Meant,
    OutputEnd,
    OutputKind,
    chosen_from,
    output_end,
)
from segdeploy.deploy.adoption.single_precision import holds_half, widen
from segdeploy.deploy.data.image_set import Sample
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess, require_multiple
from segdeploy.deploy.data.presets import preset
from segdeploy.deploy.onnx_model.artifact import Artifact, Precision
from segdeploy.deploy.onnx_model.file import (
    describe,
    output_entries,
    save_model,
    set_metadata,
    strip_debug_info,
)
from segdeploy.deploy.onnx_model.needed_multiple import needed_multiple
from segdeploy.deploy.onnx_model.normalise import drop_idle
from segdeploy.deploy.onnx_model.shapes import infer_shapes, one_image
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.checksums import sha256_of
from segdeploy.deploy.system.errors import InputError, RunError, one_line

TOLERANCE = 1e-5
"""Of a probability that float32 computes twice by the same operators."""

NOISE_IMAGES = 2
NOISE_FACTOR = 2
MOST_NOISE = 1e-3
"""What a deep network amplifies of float32's rounding: more is allowed where the original itself
differs by so much between the orders in which ONNX Runtime may compute it, up to a limit."""

HALF_TOLERANCE = 2e-2
"""Of one that fp16 computed first, rounding after each operator, and float32 then."""

MOST_VALUES = 1 << 30
"""Of a tensor for one image: 4 GiB in float32."""

INTEGER_OPERATORS = frozenset(
    {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv"}
)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A file of ours, and how it compares with the one it was made from.

    Attributes:
        artifact: the file.
        taken: the input of theirs.
        given: the output of theirs that became the probabilities.
        opset: what theirs is written in.
        widened: whether theirs computes in fp16.
        images: how many were compared.
        difference: largest |difference| of a probability on them.
        changed: share of their pixels whose class is another, 0 to 1.
    """

    artifact: Artifact
    taken: InputEnd
    given: OutputEnd
    opset: int
    widened: bool
    images: int
    difference: float
    changed: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What is other than in their file, a line each."""
        found = [self.given.note]
        if self.opset != self.artifact.opset:
            found.append(f"opset {self.opset} raised to {self.artifact.opset}")
        if self.widened:
            found.append("fp16 widened to float32")
        if self.taken.channels_last:
            found.append("images of channels last turned")
        if self.artifact.inputs[0].shape[0] == 1:
            found.append("the graph takes one image at a time")
        return tuple(found)

    @property
    def agreement(self) -> str:
        """The comparison in words."""
        return (
            f"on {self.images} images it computes what the original does: probabilities differ by "
            f"at most {self.difference:.1e}, the class of {100 * self.changed:.4f} % of the pixels"
        )


def adopt(
    source: Path,
    output: Path,
    *,
    preprocess: Preprocess | str,
    images: Sequence[Sample],
    size: tuple[int, int] | None = None,
    output_name: str | None = None,
    output_kind: OutputKind | None = None,
    meant: Meant = UNSAID,
) -> Adopted:
    """Write one of our files from an ONNX file of any exporter, and prove that it does the same.

    Weights beside the file, local functions, constants in nodes, nodes without names, an older
    opset, fp16, 8-bit pixels, channels last, several outputs, logits and class numbers are brought
    into our form; what cannot be is refused by name. Both files run on the images in ONNX Runtime.

    Args:
        source: their file, of opset 7 or newer.
        output: where to write.
        preprocess: the input contract the network was trained with, or the name of a preset.
        images: to compare on.
        size: height and width, for a preset where their file leaves them open.
        output_name: which of several outputs; ``None`` takes the deepest of several alike.
        output_kind: what its values mean; ``None`` where a Sigmoid, Softmax or ArgMax at the end
            tells.
        meant: what is stated of its classes.

    Raises:
        InputError: not a valid ONNX file, or one that cannot be brought into our form; the message
            names the node or the flag.
        UsageError: no such preset.
        RunError: ONNX Runtime fails, or the new file computes something else.
        OSError: the output cannot be written.
    """
    try:
        return _adopted(
            source,
            output,
            preprocess=preprocess,
            images=images,
            size=size,
            output_name=output_name,
            output_kind=output_kind,
            meant=meant,
        )
    except InputError as error:
        if str(source) in str(error):
            raise
        raise InputError(f"{source}: {error}") from error


def _adopted(
    source: Path,
    output: Path,
    *,
    preprocess: Preprocess | str,
    images: Sequence[Sample],
    size: tuple[int, int] | None,
    output_name: str | None,
    output_kind: OutputKind | None,
    meant: Meant,
) -> Adopted:
    theirs = load_foreign(source)
    require_known_opset(theirs)
    _require_float(theirs)
    taken = input_end(theirs)
    contract = _contract(preprocess, taken, size)
    taken.require_contract(contract)
    if None in (taken.height, taken.width):
        number = needed_multiple(theirs, channels_last=taken.channels_last)
        require_multiple(contract.size, number or 1, network="the model")
    _require_bounded(theirs, taken, contract.size)
    prepared = [sample.input(contract) for sample in images]
    computed = _computed(source, theirs, taken, prepared)
    given = output_end(
        theirs,
        computed[0],
        size=contract.size,
        name=output_name,
        kind=output_kind,
        meant=meant,
    )
    expected = [given.probabilities(values[given.name]) for values in computed]
    model = raised(theirs)
    widened = holds_half(model)
    if widened:
        widen(model)
    drop_idle(model)
    if widened:
        tolerance = HALF_TOLERANCE
    else:
        again = _computed(source, theirs, taken, prepared[:NOISE_IMAGES], optimise=False)
        tolerance = _tolerance(given, expected, again)
    model, found = _batched(
        model,
        replace(taken, dtype=_wide(taken.dtype)),
        replace(given, dtype=_wide(given.dtype)),
        prepared,
        tolerance=tolerance,
    )
    difference = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    if not difference <= tolerance:
        raise RunError(
            f"{source}: in our form it gives probabilities that differ by up to {difference:.2g} "
            f"from the original's in ONNX Runtime; expected at most {tolerance:g}: export it with "
            "a newer opset, or report this model"
        )
    changed = _changed(given, expected, found, computed)
    opset = opset_of(theirs)
    strip_debug_info(model)
    set_metadata(model, _metadata(source, contract, given.contract))
    _check(model)
    save_model(model, output)
    return Adopted(
        artifact=describe(output, model=model),
        taken=taken,
        given=given,
        opset=opset,
        widened=widened,
        images=len(prepared),
        difference=difference,
        changed=changed,
    )


def _require_float(model: onnx.ModelProto) -> None:
    """Refuse a model that is quantized already.

    Raises:
        InputError: naming the node.
    """
    for node in model.graph.node:
        shown = f"node {one_line(repr(node.name), limit=80)} ({one_line(node.op_type, limit=40)})"
        if node.op_type in INTEGER_OPERATORS:
            raise InputError(f"{shown} computes in integers; expected the float network")


def _require_bounded(model: onnx.ModelProto, taken: InputEnd, size: tuple[int, int]) -> None:
    """Refuse a graph whose tensors grow without end, before it runs.

    Raises:
        InputError: naming the tensor.
    """
    image = one_image(model.graph.input[0])
    sides = image.type.tensor_type.shape.dim[1 : 3 if taken.channels_last else 4]
    for axis, length in zip(sides[-2:], size, strict=True):
        axis.dim_value = length
    for name, shape in infer_shapes(model, [image]).items():
        if prod(shape) > MOST_VALUES:
            raise InputError(
                f"tensor {one_line(repr(name), limit=80)} has {one_line(shape, limit=80)} values "
                f"for one image; expected at most {MOST_VALUES}: export the model again"
            )


def _contract(
    preprocess: Preprocess | str, taken: InputEnd, size: tuple[int, int] | None
) -> Preprocess:
    if isinstance(preprocess, str):
        return preset(preprocess, taken.size(size), channels=taken.channels or 3)
    taken.size(preprocess.size)
    return preprocess


def _computed(
    source: Path,
    theirs: onnx.ModelProto,
    taken: InputEnd,
    prepared: Sequence[NDArray[np.float32]],
    *,
    optimise: bool = True,
) -> list[dict[str, NDArray[np.generic]]]:
    """What their file gives for each image: its outputs, and what class numbers are chosen from."""
    outputs = [value.name for value in theirs.graph.output]
    inner = sorted(set(chosen_from(theirs.graph).values()).difference(outputs))
    session = _reference(source, theirs, inner, optimise=optimise)
    names = [*outputs, *inner]
    return [
        dict(zip(names, session.run({taken.name: taken.fed(image)}, names), strict=True))
        for image in prepared
    ]


def _reference(
    source: Path, theirs: onnx.ModelProto, inner: Sequence[str], *, optimise: bool
) -> OrtSession:
    """Their file in ONNX Runtime, returning inner tensors, too.

    As we read it where it has to return more, or where the file itself has nodes of one name.
    """
    options = session_options(threads=usable_cores(), optimise=optimise)
    if not inner:
        try:
            return OrtSession(source, options)
        except InputError:
            pass
    model = onnx.ModelProto()
    model.CopyFrom(theirs)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    return OrtSession(model.SerializeToString(), options, shown=source)


def _tolerance(
    given: OutputEnd,
    expected: Sequence[NDArray[np.float64]],
    again: Sequence[Mapping[str, NDArray[np.generic]]],
) -> float:
    """How far our form may be from theirs: what rounding makes of theirs itself, and some more."""
    found = [given.probabilities(values[given.name]) for values in again]
    noise = max(float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=False))
    return min(max(TOLERANCE, NOISE_FACTOR * noise), MOST_NOISE)


def _changed(
    given: OutputEnd,
    expected: Sequence[NDArray[np.float64]],
    found: Sequence[NDArray[np.float32]],
    computed: Sequence[Mapping[str, NDArray[np.generic]]],
) -> float:
    """Share of the pixels whose class is another than theirs, 0 to 1.

    With class numbers, theirs are what their file gives.
    """
    shares = []
    for theirs, ours, values in zip(expected, found, computed, strict=True):
        classes = given.contract.members(ours[None])
        if given.numbers is None:
            other = classes != given.contract.members(theirs[None])
        else:
            numbers = values[given.numbers][0].reshape(1, 1, *ours.shape[1:])
            known = FOREGROUND if given.foreground else np.arange(len(ours)).reshape(1, -1, 1, 1)
            other = classes != (numbers == known)
        shares.append(other.any(axis=1).mean())
    return float(np.mean(shares))


def _batched(
    model: onnx.ModelProto,
    taken: InputEnd,
    given: OutputEnd,
    prepared: Sequence[NDArray[np.float32]],
    *,
    tolerance: float,
) -> tuple[onnx.ModelProto, list[NDArray[np.float32]]]:
    """The model in our form, for any batch where it takes one, and what it gives for each image.

    A graph may hold the batch it was traced with, in a Reshape for instance: two images at once
    must give what each gives alone.
    """
    channels, height, width = prepared[0].shape
    options = session_options(threads=usable_cores())

    def ended(*, dynamic_batch: bool) -> onnx.ModelProto:
        ends = {"channels": channels, "size": (height, width), "dynamic_batch": dynamic_batch}
        return with_our_ends(model, taken, given, **ends)

    pair = np.stack([prepared[0], prepared[-1][:, ::-1, ::-1]])
    for change in (for_any_batch, lambda whole: whole):
        try:
            ours = change(ended(dynamic_batch=True))
            session = OrtSession(ours.SerializeToString(), options)
            together = _run(session, pair)
            alone = [_run(session, image[None]) for image in pair]
            if np.abs(together - np.concatenate(alone)).max() <= tolerance:
                return ours, [_run(session, image[None])[0] for image in prepared]
        except (InputError, RunError, ValueError):
            continue  # a batch of its own
    ours = ended(dynamic_batch=False)
    session = OrtSession(ours.SerializeToString(), options)
    return ours, [_run(session, image[None])[0] for image in prepared]


def _run(session: OrtSession, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    found: list[NDArray[np.float32]] = session.run({session.input: np.ascontiguousarray(batch)})
    return found[0]


def _wide(dtype: str) -> str:
    """The type of an end once fp16 is widened."""
    return "float32" if dtype == "float16" else dtype


def _check(model: onnx.ModelProto) -> None:
    """Refuse a graph that contradicts itself at the size it is pinned to."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(
            f"the graph does not fit the size of the input contract ({one_line(error)}); export "
            "it for that size"
        ) from error


def _metadata(source: Path, contract: Preprocess, given: OutputContract) -> dict[str, str]:
    return {
        "author": "segdeploy",
        "version": __version__,
        "task": "semantic segmentation",
        "preprocess": contract.to_json(),
        "precision": Precision.FP32.value,
        "parent_sha256": sha256_of(source),
        **output_entries(given),
    }
