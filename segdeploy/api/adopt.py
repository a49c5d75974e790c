"""Adopt: any ONNX file becomes one of ours, with the same results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdeploy.api.choices import choice
from segdeploy.api.data import Data
from segdeploy.api.load import read_contract, read_output_contract
from segdeploy.api.outputs import AnyPath, beside, output_file
from segdeploy.deploy.adoption.output_end import Meant, OutputKind
from segdeploy.deploy.data.image_set import SegmentationSet
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.stages.adopt import Adopted
from segdeploy.deploy.stages.adopt import adopt as adopt_stage
from segdeploy.deploy.system.errors import UsageError
from segdeploy.deploy.system.only_writer import writing_file

COMPARED = 8
"""Images that both files run on, where nothing else is asked for."""


def adopt(
    model: AnyPath,
    preprocess: Preprocess | AnyPath,
    data: Data | AnyPath | None = None,
    *,
    size: tuple[int, int] | None = None,
    output_name: str | None = None,
    output_kind: OutputKind | str | None = None,
    classes: Sequence[str] | None = None,
    ignored_index: int | None = None,
    output: OutputContract | AnyPath | None = None,
    out: AnyPath | None = None,
    overwrite: bool = False,
) -> Adopted:
    """Make an ONNX file of any exporter one that every other function here takes.

    Weights beside the file, local functions, constants in nodes, nodes without names, opset 7 and
    up, fp16, 8-bit pixels, channels last, open sizes, several outputs, logits and class numbers are
    brought into one form: float32 image in, probabilities of the classes out. Both files run on
    images; what differs is in the result, and a file that computes something else is not written.

    Args:
        model: their file; its weights may lie beside it.
        preprocess: the input contract the network was trained with: a value, a JSON file, or the
            name of a preset: published, imagenet, zero-one, minus-one-one, pixels, unet-zoo,
            leejunhyun or 4uiiurz1.
        data: images to compare on, of the train split: 8 of them where ``Data`` says nothing else.
        size: height and width, where neither their file nor a contract fixes them.
        output_name: which of several outputs; ``None`` takes the deepest of several alike.
        output_kind: where no operator at the end tells: sigmoid (labels that may overlap), softmax
            (classes that exclude each other), sigmoid-logits, softmax-logits, or logits, which are
            those of a Sigmoid for one channel and of a Softmax for several; argmax is told.
        classes: their names, in the order of the channels. ``None`` numbers them, and takes of two
            that exclude each other the second alone, as the foreground; name both to keep both.
        ignored_index: value of a label map whose pixels count nowhere.
        output: the output contract or a JSON file that holds it, with colours, too; instead of
            ``classes`` and ``ignored_index``.
        out: file to write; by default ``NAME.adopted.onnx`` beside the model.
        overwrite: replace the file that is there.

    Returns:
        The file as ``artifact``, and how it compares with theirs.

    Raises:
        InputError: their file cannot be read or brought into the form; the message names the node,
            or the parameter that says more.
        UsageError: the file exists, another process writes it, an unknown preset or kind, or names
            beside a contract.
        RunError: ONNX Runtime fails, or the new file computes something else.
        OSError: the file cannot be written.
    """
    source = Path(model)
    written = Path(out) if out is not None else beside(source, "adopted.onnx")
    written = output_file(written, source, overwrite=overwrite)
    kind = None if output_kind is None else choice(OutputKind, output_kind, what="output_kind")
    contract = read_contract(preprocess)
    assert contract is not None
    images = _compared(Data.of(data))
    with writing_file(written):
        return adopt_stage(
            source,
            written,
            preprocess=contract,
            images=images.samples,
            size=size,
            output_name=output_name,
            output_kind=kind,
            meant=_meant(classes, ignored_index, output),
        )


def _meant(
    classes: Sequence[str] | None,
    ignored_index: int | None,
    output: OutputContract | AnyPath | None,
) -> Meant:
    """What is stated of the classes, in parts or as a whole."""
    contract = read_output_contract(output)
    if contract is None:
        return Meant(
            classes=None if classes is None else tuple(classes), ignored_index=ignored_index
        )
    if classes is not None or ignored_index is not None:
        raise UsageError(
            "classes or an ignored index beside an output contract, which states them; drop one"
        )
    return Meant(
        activation=contract.activation,
        classes=contract.classes,
        colours=contract.colours,
        ignored_index=contract.ignored_index,
    )


def _compared(data: Data) -> SegmentationSet:
    images = data.calibration_images
    count = len(images) if data.num_samples is not None else min(COMPARED, len(images))
    return images.take(count, seed=data.seed)
