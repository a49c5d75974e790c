"""The IR models of a package: written, run beside the ONNX file on OpenVINO, and read back.

OpenVINO is imported when one is written or read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.file import output_stated
from segdeploy.deploy.onnx_model.interface import METADATA_KEY, Interface
from segdeploy.deploy.packaging.base import PackagedModel
from segdeploy.deploy.packaging.forms import served_name, sides
from segdeploy.deploy.packaging.masks import MaskCheck, Masks, Pixels, masks_of, pixels
from segdeploy.deploy.runtimes.registry import RuntimeName, availability
from segdeploy.deploy.system.errors import InputError

INT8_NOTE = (
    "An int8 model with a dynamic batch can differ in a few pixels from the same model with its "
    "batch fixed, which is how parity is measured and how it was checked: OpenVINO quantizes the "
    "input by another kernel, which rounds values half-way between two steps otherwise. "
    "`--batch 1` fixes it."
)

IMAGE_PROBABILITY = "image-probability"
"""Interface of an IR that takes 8-bit images and leaves the decision to the caller."""

IR_FILE = "1/model.xml"
"""Below a model's folder: version 1, as OpenVINO Model Server and Triton look for it."""


@dataclass(frozen=True, kw_only=True)
class IrModel:
    """One IR to write: of a model, compressed to fp16 or not, with its contract inside or not."""

    source: PackagedModel
    label: str
    compress: bool
    inside: bool

    @property
    def name(self) -> str:
        """The model's folder, and its name on a server."""
        return served_name(self.source, self.label, inside=self.inside)

    @property
    def facts(self) -> dict[str, str]:
        """The metadata it carries: the model's, and what it was made from."""
        facts = self.source.metadata | {"parent_sha256": self.source.artifact.sha256}
        if self.compress:
            facts["precision"] = Precision.FP16.value
        if not self.inside:
            return facts
        return facts | {METADATA_KEY: Interface.IMAGE.value if self.decides else IMAGE_PROBABILITY}

    @property
    def decides(self) -> bool:
        """Whether it gives the class of each pixel: of images, where classes exclude each other."""
        return self.inside and self.source.output.exclusive


def write_ir_model(
    model: IrModel,
    folder: Path,
    check: MaskCheck,
    *,
    batch: int | None,
    layouts: bool = True,
) -> str:
    """Write one IR and run it beside the ONNX file on OpenVINO.

    Args:
        model: what to write.
        folder: the model's folder.
        check: images to run it on, and what is expected.
        batch: to fix; ``None`` keeps it dynamic.
        layouts: see ``write_ir``.

    Returns:
        What was found, a sentence.

    Raises:
        InputError: OpenVINO does not accept the model, or the masks differ though nothing was
            compressed.
    """
    from segdeploy.deploy.packaging.openvino.ir import write_ir

    source = model.source
    write_ir(
        source.artifact.path,
        folder / IR_FILE,
        facts=model.facts,
        batch=batch,
        compress=model.compress,
        embedded=source.preprocess if model.inside else None,
        decided=model.decides,
        layouts=layouts,
    )
    found = masks_of_ir(folder / IR_FILE, source, check)
    if model.compress:
        differing = check.differing(source, found, RuntimeName.OPENVINO)
        return (
            f"`{folder.name}` on openvino: {differing} of {pixels(found)} pixels of the fp32 "
            f"model's masks change, on {check.origin}"
        )
    return check.require_same(source, found, RuntimeName.OPENVINO, what=folder.name)


def masks_of_ir(xml: Path, like: PackagedModel, check: MaskCheck) -> Masks:
    """The masks of an IR, from raw images where its contract is inside."""
    from segdeploy.deploy.packaging.openvino.ir import compile_model, infer, read_ir

    ir, compiled = read_ir(xml), compile_model(xml, batch=check.batch)
    preprocess = like.preprocess
    whole = sides(ir.input)[1] < 0

    def prepared(image: Pixels) -> NDArray[np.generic]:
        if ir.input.dtype != "uint8":
            return preprocess.apply(image)
        return image if whole else preprocess.pixels(image)

    feeds = [prepared(image) for image in check.images]
    return masks_of(
        lambda feed: infer(compiled, feed), feeds, batch=check.batch, contract=like.output
    )


def verify_ir(xml: Path) -> None:
    """Read an IR back; its ends have to be those its own metadata states.

    Raises:
        InputError: they are not, or it is no IR.
    """
    from segdeploy.deploy.packaging.openvino.ir import read_ir

    ir = read_ir(xml)
    contract = Preprocess.from_json(ir.facts.get("preprocess", ""), source=str(xml))
    (height, width), channels = contract.size, contract.channels
    open_sides = (-1, -1) if contract.plain_resize else contract.size
    interface, output = ir.facts.get(METADATA_KEY), output_stated(ir.facts, source=str(xml))
    inside = interface in (IMAGE_PROBABILITY, Interface.IMAGE.value)
    expected = (
        ("uint8", [*open_sides, channels]) if inside else ("float32", [channels, height, width])
    )
    if (ir.input.dtype, sides(ir.input)[1:]) != expected:
        raise InputError(f"{xml} takes {ir.input}, its metadata says {expected}")
    decided = interface == Interface.IMAGE.value
    planes = [height, width] if decided else [output.channels, height, width]
    if (ir.output.dtype, sides(ir.output)[1:]) != ("uint8" if decided else "float32", planes):
        raise InputError(f"{xml} gives {ir.output}, its metadata says {tuple(planes)}")


def require_openvino() -> None:
    """Refuse to go on without OpenVINO.

    Raises:
        InputError: it is not installed; how to install it.
    """
    state = availability(RuntimeName.OPENVINO)
    if not state.ready:
        raise InputError(f"this package needs OpenVINO: {state.reason}")
