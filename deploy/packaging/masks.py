"""What a package's models say of real images, beside the file they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdeploy.deploy.data import bundled
from segdeploy.deploy.data.image_set import Sample, open_set
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.interface import Interface, interface_of
from segdeploy.deploy.onnx_model.output_check import ending_of
from segdeploy.deploy.onnx_model.probabilities import require_probabilities
from segdeploy.deploy.packaging.base import PackagedModel, Request
from segdeploy.deploy.runtimes.base import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, open_runtime
from segdeploy.deploy.system.errors import InputError

IMAGES = 4
"""How many images a package is checked on when it is written; whole splits are for `parity`."""

Masks = NDArray[np.uint8]
"""(N, height, width): 0 and 1, or class indices; of labels that may overlap a plane for each,
(N, channels, height, width)."""

Pixels = NDArray[np.uint8]


class MaskCheck:
    """Masks beside those of the files a package is made from, which are computed once.

    All run with one batch, so that a runtime takes the same kernels for both.

    Attributes:
        images: (H, W, channels) as the contract takes them, each of its own size.
        batch: how often each is repeated in a call.
        origin: in words, for the package's README.
    """

    def __init__(
        self, samples: Sequence[Sample], contract: Preprocess, origin: str, *, batch: int
    ) -> None:
        self.batch = batch
        chosen = samples[:IMAGES]
        self.images = tuple(sample.image(contract) for sample in chosen)
        self.origin = f"{len(chosen)} image{'' if len(chosen) == 1 else 's'} {origin}"
        self._expected: dict[tuple[str, RuntimeName], Masks] = {}

    def masks_of_file(self, artifact: Artifact, like: PackagedModel, name: RuntimeName) -> Masks:
        """The masks that an ONNX file gives on a runtime.

        Args:
            artifact: the file.
            like: a model of the same contracts.
            name: the runtime.

        Raises:
            InputError: the runtime does not accept the file.
            RunError: it fails.
        """
        (source,), (result,) = artifact.inputs, artifact.outputs
        form = interface_of(artifact.inputs, artifact.outputs)
        feeds = [form.prepared(image, like.preprocess) for image in self.images]
        execution = Execution(threads=1, batch=self.batch)
        with open_runtime(name, artifact, execution=execution) as runtime:
            return masks_of(
                lambda feed: runtime.infer({source.name: feed})[result.name],
                feeds,
                batch=self.batch,
                contract=like.output,
            )

    def differing(self, source: PackagedModel, found: Masks, name: RuntimeName) -> int:
        """Pixels in which masks are not those of a model's own file on the same runtime."""
        key = (source.artifact.sha256, name)
        if key not in self._expected:
            self._expected[key] = self.masks_of_file(source.artifact, source, name)
        return int(_by_pixel(found != self._expected[key]).sum())

    def require_same(
        self, source: PackagedModel, found: Masks, name: RuntimeName, *, what: str
    ) -> str:
        """Refuse a model that changed.

        Args:
            source: what it was made from.
            found: its masks.
            name: the runtime that gave them.
            what: the model's name.

        Returns:
            What was found, a sentence.

        Raises:
            InputError: a pixel differs.
        """
        differing = self.differing(source, found, name)
        if differing:
            raise InputError(
                f"{what} gives another mask than {source.artifact.path} in {differing} of "
                f"{pixels(found)} pixels on {self.origin}; a fault of the conversion, please "
                "report it"
            )
        return (
            f"`{what}` on {name.value}: the masks of the file it was made from, pixel by pixel, on "
            f"{self.origin}"
        )


def mask_check(request: Request, *, batch: int) -> MaskCheck:
    """A check on the first images of the evaluation set, else the calibration set, else the sample.

    Raises:
        InputError: an image cannot be decoded.
    """
    contract = request.sources[0].preprocess
    if request.evaluation is not None:
        return MaskCheck(request.evaluation.samples, contract, "of --data", batch=batch)
    if request.calibration is not None:
        return MaskCheck(request.calibration.samples, contract, "of --calib-data", batch=batch)
    sample = open_set(bundled.sample(), "test")
    try:
        return MaskCheck(sample.samples, contract, "of the bundled sample", batch=batch)
    except InputError as error:
        raise InputError(
            f"the bundled sample is no set of images for this model ({error}); give some: --data"
        ) from error


def require_probable(request: Request) -> None:
    """Refuse models that give no probabilities, where their graphs do not tell.

    Some toolchains' packages run nothing here; the values of images answer for all of them.

    Raises:
        InputError: naming the file.
        RunError: it fails, or gives values that are not finite.
    """
    for source in request.sources:
        (result,) = source.artifact.outputs
        if source.interface is Interface.IMAGE or ending_of(source.model(), result.name):
            continue
        batch = source.artifact.inputs[0].shape[0]
        check = mask_check(request, batch=batch if isinstance(batch, int) else 1)
        try:
            check.masks_of_file(source.artifact, source, RuntimeName.ONNXRUNTIME)
        except InputError as error:
            raise InputError(f"{source.artifact.path}: {error}") from error


def masks_of(
    run: Callable[[NDArray[Any]], NDArray[Any]],
    feeds: Iterable[NDArray[Any]],
    *,
    batch: int,
    contract: OutputContract,
) -> Masks:
    """The mask of each image.

    Args:
        run: a batch to the model's output.
        feeds: images as the model takes them, without the batch axis.
        batch: how often each is repeated in a call.
        contract: of the output, where it is no mask yet.

    Raises:
        InputError: values that are no probabilities of the contract's classes.
        RunError: values that are not finite.
    """
    answers = np.stack([run(feed[None].repeat(batch, axis=0))[0] for feed in feeds])
    if answers.dtype == np.uint8:
        return answers
    require_probabilities(answers, contract)
    if contract.overlapping:
        return contract.members(answers).astype(np.uint8)
    return contract.label_map(answers)


def pixels(masks: Masks) -> int:
    """How many pixels masks have, whatever the number of their planes."""
    return _by_pixel(masks).size


def _by_pixel(masks: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether anything is set, (N, height, width)."""
    return masks.astype(bool) if masks.ndim == 3 else np.asarray(masks.any(axis=1))
