"""One image in, its mask out: a model held open."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segdeploy.api.choices import choice
from segdeploy.api.models import is_checkpoint
from segdeploy.api.predict import prediction_model, prediction_settings
from segdeploy.deploy.data.output_contract import OutputContract
from segdeploy.deploy.data.preprocess import SIZE_MULTIPLE, Pixels, Preprocess
from segdeploy.deploy.onnx_model.artifact import Precision
from segdeploy.deploy.onnx_model.interface import Interface
from segdeploy.deploy.prediction.image import Job, predict_pixels
from segdeploy.deploy.prediction.model import require_possible
from segdeploy.deploy.prediction.outputs import shown_mask
from segdeploy.deploy.prediction.settings import Fit, Write
from segdeploy.deploy.runtimes.base import Runtime
from segdeploy.deploy.runtimes.execution import Execution
from segdeploy.deploy.runtimes.registry import RuntimeName, usable_cores
from segdeploy.deploy.system.errors import InputError, UsageError

if TYPE_CHECKING:
    from segdeploy.api.models import AnyModel
    from segdeploy.deploy.models.checkpoint import Checkpoint


class Predictor:
    """A model that turns images into masks, the same as ``segdeploy predict`` writes.

    Loaded once and held until ``close``, or the end of a ``with`` block. Several threads may not
    share it.

    Example:
        >>> import segdeploy as sd
        >>> image = sd.Data().test.samples[0].image()  # uint8 RGB
        >>> with sd.Predictor(sd.bundled.checkpoint("unet_plus_plus")) as predictor:
        ...     mask = predictor(image)
        >>> mask.shape == image.shape[:2], mask.dtype.name, sorted(set(mask.ravel().tolist()))
        (True, 'uint8', [0, 255])

    Args:
        model: what a run recommends, an ONNX file or a checkpoint.
        runtime: by name, or "auto": measure and take the fastest; ``None`` takes what the model
            suits and is here.
        precision: of the layers that are not quantized, fp32 or bf16.
        threads: of one image; ``None`` takes every processor of this process.
        fit: how an image of any size meets the model: resize, pad or tile; see ``Fit``.
        overlap: pixels that tiles share, at least; ``None`` is a quarter of a tile.
        scale: resize the image by this before pad or tile.

    Raises:
        InputError: the model cannot do what is asked, or does not load.
        UsageError: a runtime that does not run it, or settings that contradict each other.
    """

    def __init__(
        self,
        model: AnyModel,
        *,
        runtime: RuntimeName | str | None = None,
        precision: Precision | str = Precision.FP32,
        threads: int | None = None,
        fit: Fit | str = Fit.RESIZE,
        overlap: int | None = None,
        scale: float = 1.0,
    ) -> None:
        execution = Execution(
            threads=threads or usable_cores(),
            precision=choice(Precision, precision, what="precision"),
        )
        self._model = prediction_model(model, runtime=runtime, execution=execution)
        settings = prediction_settings(
            self._model,
            write=(Write.MASK,),
            fit=choice(Fit, fit, what="fit"),
            overlap=overlap,
            scale=scale,
        )
        require_possible(self._model, settings, execution)
        self._job = Job(
            preprocess=self._model.preprocess,
            output=self._model.output,
            interface=self._model.interface,
            settings=settings,
            multiple=self._model.multiple if settings.fit is Fit.PAD else SIZE_MULTIPLE,
        )
        self._stack = ExitStack()
        self._runtime: Runtime | None = self._stack.enter_context(
            _held(model, execution) if is_checkpoint(model) else self._model.open(execution)
        )

    @property
    def name(self) -> str:
        """The model and what runs it."""
        return self._model.name

    def __call__(self, image: Pixels) -> NDArray[np.uint8]:
        """The mask of an image.

        Args:
            image: uint8 RGB (H, W, 3), of any size; as the model's input contract says of other
                bits or channels.

        Returns:
            uint8 at the image's size, the pixels of the PNG that ``segdeploy predict`` writes:
            (H, W), 255 where the probability is at least 0.5, else 0; of classes that exclude each
            other (H, W), the index of each pixel's class; of labels that may overlap (classes, H,
            W), 255 and 0.

        Raises:
            InputError: another dtype or shape, or too many pixels.
            UsageError: the predictor was closed.
            RunError: the runtime failed.
        """
        return shown_mask(self._found(image), self._model.output)

    def probability(self, image: Pixels) -> NDArray[np.float32]:
        """The probability of foreground, or of each class.

        Args:
            image: as for a call.

        Returns:
            float32 (H, W), 0 to 1, at the image's size; (classes, H, W) of several.

        Raises:
            InputError: as a call, or the model gives masks alone.
            UsageError: the predictor was closed.
            RunError: the runtime failed.
        """
        if self._model.interface is Interface.IMAGE:
            raise InputError(
                f"{self.name} gives masks, no probability; take the file it was made from"
            )
        found = self._found(image)
        return found[0] if self._model.output.binary else found

    @property
    def output(self) -> OutputContract:
        """What the classes are."""
        return self._model.output

    def _found(self, image: Pixels) -> NDArray[np.float32]:
        if self._runtime is None:
            raise UsageError(f"{self.name} was closed; make another Predictor")
        return predict_pixels(
            _require_image(image, self._model.preprocess), self._job, self._runtime
        )

    def close(self) -> None:
        """Let go of the model. Closing again does nothing."""
        self._runtime = None
        self._stack.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self._model.preprocess.size
        fit = self._job.settings.fit.value
        return f"<Predictor {self.name}, {fit} to {height}x{width}>"


def _held(checkpoint: Checkpoint, execution: Execution) -> Runtime:
    """A network that is loaded already, in PyTorch."""
    from segdeploy.deploy.runtimes.pytorch import PyTorchRuntime

    return PyTorchRuntime(checkpoint, execution=execution, any_size=True)


def _require_image(image: Pixels, contract: Preprocess) -> Pixels:
    """Refuse what is no image as the model's input contract takes it.

    Raises:
        InputError: with what it is.
    """
    kind = f"{contract.level_type} {contract.channel_order.replace('BGR', 'RGB')} "
    kind += f"(H, W, {contract.channels})"
    if not isinstance(image, np.ndarray):
        raise InputError(f"the image is a {type(image).__name__}; expected a NumPy array, {kind}")
    found = f"the image is {image.dtype} {image.shape}; expected {kind}"
    if image.dtype != contract.level_type:
        top = contract.levels - 1
        raise InputError(
            f"{found}: scale it to 0..{top} and use .astype(numpy.{contract.level_type})"
        )
    if contract.channels > 1 and (image.ndim == 2 or image.shape[-1:] == (1,)):
        raise InputError(f"{found}: repeat the grey values {contract.channels} times")
    if image.ndim != 3 or image.shape[2] != contract.channels:
        raise InputError(f"{found}, one image with its colours last and no alpha")
    if not image.size:
        raise InputError(f"{found} with at least one pixel")
    return image
