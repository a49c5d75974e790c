"""Image files in, mask files out: decoding, inference and encoding overlap, few images at once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deploy.data import read_image
from deploy.interface import FOREGROUND_PROBABILITY, interface_of
from deploy.preprocess import Preprocess
from deploy.runtimes.base import AHEAD, Feeds, Runtime

AHEAD_OF_WORKERS = 2
"""Images decoded ahead, and masks waiting, for each worker or image of a batch."""

COMPRESSION = 1
"""zlib level of the masks: two values compress well at any level, and 1 is the fastest."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An image file as the model takes it, and the (height, width) it had."""

    path: Path
    size: tuple[int, int]
    pixels: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A decoded image and its probability of foreground, float32 (h, w)."""

    image: Decoded
    probability: NDArray[np.float32]


def mask_of(probability: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The mask of an image at the image's own size.

    The probability is resized bilinearly (half-pixel centres; where the image is smaller than the
    output, over the pixels it covers) and then cut at 0.5. Resizing it, and not the mask, keeps
    the boundary smooth.

    Example:
        >>> mask_of(np.array([[0.0, 1.0]], np.float32), (1, 4))  # 0, 0.25, 0.75, 1
        array([[  0,   0, 255, 255]], dtype=uint8)

    Args:
        probability: float32 (h, w), 0 to 1.
        size: (height, width) of the image.

    Returns:
        255 where the image shows the foreground, else 0; uint8 of ``size``.
    """
    resized = Image.fromarray(probability).resize(size[::-1], Image.Resampling.BILINEAR)
    foreground: NDArray[np.bool_] = np.asarray(resized) >= FOREGROUND_PROBABILITY
    mask: NDArray[np.uint8] = foreground.view(np.uint8) * np.uint8(255)
    return mask


class Pipeline:
    """Decodes, infers and encodes at once, over any number of images.

    However many there are, no more than ``bound`` of them are between being opened and having
    their mask written. A decoded image is reduced to the model's input by the thread that decoded
    it, so that one full image is held for each worker.

    Attributes:
        bound: most images at once.
        most_at_once: how many there were.
        written_at: when each mask was written, in seconds of ``time.perf_counter``.
        decode_processor_s: processor time spent on decoding so far.
        encode_processor_s: processor time spent on encoding so far.
    """

    def __init__(
        self, runtime: Runtime, *, preprocess: Preprocess, output: Path, workers: int
    ) -> None:
        """Prepare to write masks to a folder, which exists.

        Args:
            runtime: with one image as input, one probability or mask as output.
            preprocess: its input contract.
            output: folder for ``<name of the image>.png``.
            workers: threads that decode and encode.

        Raises:
            InputError: the model has other inputs or outputs.
        """
        self.interface = interface_of(runtime.inputs, runtime.outputs)
        self.runtime, self.preprocess, self.output = runtime, preprocess, output
        self.workers = workers
        self.batch = runtime.execution.batch
        self.ahead = AHEAD_OF_WORKERS * max(workers, self.batch)
        self.bound = 2 * self.ahead + (AHEAD * runtime.execution.streams + 1) * self.batch
        self._lock = threading.Lock()
        self.start_over()

    def start_over(self) -> None:
        """Forget what was counted."""
        self.most_at_once = self._at_once = 0
        self.written_at: list[float] = []
        self.decode_processor_s = self.encode_processor_s = 0.0

    def masks(self, paths: Iterable[Path]) -> Iterator[Path]:
        """Write the mask of every image.

        Args:
            paths: of the images, taken lazily.

        Yields:
            Each mask file, in the order of the images, when it is written.

        Raises:
            InputError: an image cannot be read.
            RunError: the runtime failed.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            images = self.mapped(pool, self.decode, self._counted(paths))
            for mask in self.mapped(pool, self.encode, self.answers(images)):
                with self._lock:
                    self._at_once -= 1
                yield mask

    def mapped(
        self, pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A]
    ) -> Iterator[B]:
        """Results in the order of the items, which are taken no more than ``ahead`` early."""
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == self.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def decode(self, path: Path) -> Decoded:
        """Read an image file and turn it into the model's input."""
        started = time.thread_time()
        image = read_image(path, "RGB")
        pixels = self.interface.prepared(image, self.preprocess)
        decoded = Decoded(path=path, size=image.shape[:2], pixels=pixels)
        with self._lock:
            self.decode_processor_s += time.thread_time() - started
        return decoded

    def answers(self, images: Iterable[Decoded]) -> Iterator[Answer]:
        """Run the model in batches; the last one is filled up and what fills it dropped."""
        (source,), (result,) = self.runtime.inputs, self.runtime.outputs
        groups: deque[list[Decoded]] = deque()

        def batches() -> Iterator[Feeds]:
            rest = iter(images)
            while group := list(islice(rest, self.batch)):
                groups.append(group)
                filled = group + group[-1:] * (self.batch - len(group))
                yield {source.name: np.stack([image.pixels for image in filled])}

        for results in self.runtime.infer_many(batches()):
            probabilities = self.interface.foreground(results[result.name])
            for image, probability in zip(groups.popleft(), probabilities, strict=False):
                yield Answer(image=image, probability=probability)

    def encode(self, answer: Answer) -> Path:
        """Write the mask of an image, whole or not at all."""
        started = time.thread_time()
        mask = mask_of(answer.probability, answer.image.size)
        path = self.output / f"{answer.image.path.stem}.png"
        # One image may be on its way twice where a small folder is taken again.
        temporary = path.with_suffix(f".{threading.get_ident()}.partial")
        Image.fromarray(mask).save(temporary, format="PNG", compress_level=COMPRESSION)
        temporary.replace(path)
        with self._lock:
            self.encode_processor_s += time.thread_time() - started
            self.written_at.append(time.perf_counter())
        return path

    def _counted(self, paths: Iterable[Path]) -> Iterator[Path]:
        for path in paths:
            with self._lock:
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
            yield path
