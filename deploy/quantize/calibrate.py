"""Calibrate: run a float model over images, count its activations, find every range."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from segdeploy.calibration.collect import Accumulator, Batch, collect
from segdeploy.calibration.collection import Collection, load_collection, save_collection
from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import Method, estimate
from segdeploy.calibration.histogram import DEFAULT_NUM_BINS, TensorHistogram, sum_histograms
from segdeploy.calibration.table import CalibrationTable
from segdeploy.deploy.data.image_set import Sample, SegmentationSet
from segdeploy.deploy.data.preprocess import Preprocess
from segdeploy.deploy.distributed.shard import WHOLE, Shard
from segdeploy.deploy.onnx_model.activation_memory import activation_memory
from segdeploy.deploy.onnx_model.artifact import Artifact
from segdeploy.deploy.onnx_model.file import copy_returning, load_model, require_fp32
from segdeploy.deploy.quantize.activations import Observation, plan_observation
from segdeploy.deploy.runtimes.ort_session import OrtSession, session_options
from segdeploy.deploy.runtimes.registry import usable_cores
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.look_ahead import run_ahead
from segdeploy.deploy.system.memory import return_freed_memory
from segdeploy.deploy.system.progress import ItemProgress
from segdeploy.deploy.targets.kernels import LAYERS

SAVE_EVERY_S = 10.0
"""Seconds of work an interruption can cost at most."""

MOST_BYTES = 2 << 30
"""Activations of all images run at once, as far as that can be kept: one image is always run."""


def calibrate(
    source: Artifact,
    images: SegmentationSet,
    *,
    preprocess: Preprocess,
    method: Method = Method.ENTROPY,
    state: Path | None = None,
    threads: int | None = None,
    shard: Shard = WHOLE,
    progress: ItemProgress[Sample] = iter,
) -> CalibrationTable:
    """Find the range of every activation an int8 model may quantize.

    Images are fed one by one, so the table does not depend on a batch size or an order. Memory
    does not grow with the number of images. Several processes that each count a shard return the
    same table as one that counts all.

    Args:
        source: a float32 ONNX file.
        images: the calibration set.
        preprocess: the model's input contract.
        method: how a range is chosen from a histogram.
        state: file that keeps this process's counts while it runs; an interrupted run goes on
            from it. The caller removes it once the table is in place.
        threads: images run at once, fewer where their activations would take more than
            ``MOST_BYTES``; ``None`` takes every processor of this process.
        shard: which images this process counts.
        progress: wraps the images still to do, for a progress bar.

    Raises:
        InputError: a source that is not float32 or has nothing to quantize, an unreadable image,
            NaN or Inf in an activation (naming tensor and image), a state file of another model or
            image set, or a model that ONNX Runtime does not load.
        RunError: ONNX Runtime failed on an image.
    """
    require_fp32(source, "ranges are observed")
    model = load_model(source.path)
    observation = plan_observation(model)
    present = {value.name for value in [*model.graph.input, *model.graph.output]}
    workers = _workers(model, preprocess.size, threads or usable_cores())
    del model
    if not observation.observed:
        raise InputError(
            f"{source.path} holds no layer that int8 is for; expected one of "
            f"{', '.join(sorted(LAYERS))}: keep this model in fp32 or fp16"
        )
    return_freed_memory()
    data_sha256 = images.sha256()
    try:
        counted = _collect(
            source.path,
            shard.part(images.samples),
            preprocess=preprocess,
            tensors=observation.observed,
            present=present,
            state=state,
            fingerprint=f"{source.sha256}/{data_sha256}/{preprocess.to_json()}/{shard}",
            threads=workers,
            progress=progress,
        )
        collection = shard.merged(counted)
        ranges = {
            name: estimate(histogram, method=method, checked=name in observation.checked)
            for name, histogram in histograms_of(observation, collection).items()
        }
        table = CalibrationTable(
            method=method,
            num_bins=DEFAULT_NUM_BINS,
            num_samples=len(collection.names),
            data_sha256=data_sha256,
            model_sha256=source.sha256,
            ranges=ranges,
        )
    except CalibrationError as error:
        raise InputError(str(error)) from error
    return table


def _workers(model: onnx.ModelProto, size: tuple[int, int], threads: int) -> int:
    """Images to run at once; all their activations may be held."""
    try:
        image = activation_memory(model, size=size).all
    except InputError:  # a graph whose shapes cannot be told runs all the same
        return threads
    return max(1, min(threads, MOST_BYTES // max(1, image)))


def histograms_of(observation: Observation, collection: Collection) -> dict[str, TensorHistogram]:
    """Every tensor's histogram: what was observed, and for a Concat the sum of its inputs'."""
    counted = dict(collection.histograms)
    for name, parts in observation.summed.items():
        counted[name] = sum_histograms(counted[part] for part in parts)
    return counted


def _collect(
    model: Path,
    images: Sequence[Sample],
    *,
    preprocess: Preprocess,
    tensors: tuple[str, ...],
    present: set[str],
    state: Path | None,
    fingerprint: str,
    threads: int,
    progress: ItemProgress[Sample],
) -> Collection | None:
    """Count the images that were not counted before; ``None`` where there is no image at all."""
    resume = None
    if state is not None and state.exists():
        resume = load_collection(state, fingerprint=fingerprint)
    done = set(resume.names) if resume else set()
    remaining = [sample for sample in images if sample.name not in done]
    if not remaining:
        return resume
    session = _observing_session(model, [name for name in tensors if name not in present])
    return_freed_memory()
    saved_at = time.monotonic()

    def keep(accumulator: Accumulator) -> None:
        nonlocal saved_at
        if state is not None and time.monotonic() - saved_at > SAVE_EVERY_S:
            save_collection(accumulator.collection(), state, fingerprint=fingerprint)
            saved_at = time.monotonic()

    def observe(sample: Sample) -> Batch:
        image = sample.input(preprocess)[None]
        fetched = [name for name in tensors if name != session.input]
        values = session.run({session.input: image}, fetched, where=f"on {sample.name}")
        found = dict(zip(fetched, values, strict=True)) | {session.input: image}
        # One image, counted whole: a tensor need not have a batch in front, nor any axis.
        return Batch(
            names=(sample.name,), tensors={name: found[name].reshape(1, -1) for name in tensors}
        )

    return collect(
        run_ahead(observe, progress(remaining), workers=threads), resume=resume, on_batch=keep
    )


def _observing_session(path: Path, tensors: Iterable[str]) -> OrtSession:
    """A session that also returns the tensors; a convolution and its ReLU still run as one.

    Each call runs on one thread: images in parallel keep processors busier than threads within
    one, and no result depends on how many there are. Planned memory for all outputs at once is
    left out, and no freed memory is kept: outputs leave the session, and large ones leave gaps.
    """
    with tempfile.TemporaryDirectory(prefix="segdeploy-") as folder:
        observed = Path(folder) / "observed.onnx"
        copy_returning(path, observed, dict.fromkeys(tensors, onnx.TensorProto.FLOAT))
        options = session_options(threads=1, memory_pattern=False, arena=False)
        return OrtSession(observed, options, shown=path)
