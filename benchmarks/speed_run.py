"""Time every model file and the PyTorch reference, interleaved in one run: the speed table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.entries import Entry
from benchmarks.latency import BenchmarkResult, Candidate, measure
from deploy.artifact import Precision
from deploy.runtimes.base import Runtime
from deploy.runtimes.registry import open_runtime


def speed_section(
    reference: Runtime | None,
    reference_name: str,
    entries: Sequence[Entry],
    *,
    images: NDArray[np.float32],
    batches: Sequence[int],
    threads: int,
    warmup: int,
    duration_s: float,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Time all candidates at each batch size.

    Args:
        reference: an open runtime that takes any batch; ``None`` leaves speedups out.
        reference_name: its name in the table.
        entries: what to time.
        images: real images, float32 (N, 3, H, W), repeated to fill a batch.
        batches: images per call.
        threads: of each runtime.
        warmup: untimed calls of each candidate.
        duration_s: seconds for each candidate and batch size.
        progress: told the share done, 0 to 1.

    Returns:
        The ``benchmark`` section of ``report.json``.

    Raises:
        InputError: a runtime does not accept a file.
        RunError: a runtime failed.
    """
    rows: list[dict[str, Any]] = []
    for index, batch in enumerate(batches):
        feed = np.ascontiguousarray(images[np.arange(batch) % len(images)])
        running = [entry for entry in entries if not entry.skipped]
        with ExitStack() as stack:
            candidates = []
            if reference is not None:
                candidates.append(_candidate(reference_name, reference, feed, Precision.FP32))
            for entry in running:
                runtime = stack.enter_context(
                    open_runtime(entry.runtime, entry.artifact, batch=batch, threads=threads)
                )
                candidates.append(_candidate(entry.name, runtime, feed, entry.artifact.precision))

            def report(share: float, done: int = index) -> None:
                progress((done + share) / len(batches))

            results = (
                measure(candidates, warmup=warmup, duration_s=duration_s, progress=report)
                if candidates
                else []
            )
        baseline = results.pop(0) if reference is not None else None
        if baseline:
            rows.append(_reference_row(baseline))
        for entry, result in zip(running, results, strict=True):
            rows.append(_row(entry, result, baseline, batch=batch))
        rows += [_row(e, None, None, batch=batch) for e in entries if e.skipped]
    return {"duration_s": duration_s, "warmup": warmup, "rows": rows}


def _candidate(
    name: str, runtime: Runtime, feed: NDArray[np.float32], precision: Precision
) -> Candidate:
    return Candidate(
        name=name,
        runtime=runtime,
        feeds={runtime.inputs[0].name: feed},
        precision_requested=precision,
    )


def _reference_row(result: BenchmarkResult) -> dict[str, Any]:
    identity = {
        "name": result.artifact,
        "file": None,
        "target": None,
        "runtime": result.runtime,
        "precision_requested": result.precision_requested.value,
    }
    return identity | {"file_bytes": None} | _figures(result, result, batch=result.batch)


def _row(
    entry: Entry, result: BenchmarkResult | None, baseline: BenchmarkResult | None, *, batch: int
) -> dict[str, Any]:
    size = {"file_bytes": entry.artifact.path.stat().st_size}
    return entry.identity() | size | _figures(result, baseline, batch=batch, skipped=entry.skipped)


def _figures(
    result: BenchmarkResult | None,
    baseline: BenchmarkResult | None,
    *,
    batch: int,
    skipped: str | None = None,
) -> dict[str, Any]:
    return {
        "precision_executed": result.precision_executed if result else None,
        "batch": batch,
        "threads": result.threads if result else None,
        "streams": result.streams if result else None,
        "p50_ms": result.p50_ms if result else None,
        "p90_ms": result.p90_ms if result else None,
        "p99_ms": result.p99_ms if result else None,
        "images_per_s": result.images_per_s if result else None,
        "speedup": baseline.p50_ms / result.p50_ms if result and baseline else None,
        "noise_percent": result.noise_percent if result else None,
        "latencies_s": list(result.latencies_s) if result else None,
        "skipped": skipped,
    }
