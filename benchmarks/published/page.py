"""Published figures and ours as one GitHub table."""

from __future__ import annotations

from collections.abc import Sequence

from segdeploy.benchmarks.literature.file import PUBLISHED_COST_NOTE, PUBLISHED_NOTE
from segdeploy.benchmarks.literature.rows import (
    NETWORKS,
    PRECISIONS,
    PUBLISHED_RULES,
    PublishedSpeed,
)
from segdeploy.benchmarks.published.beside import Beside, CountedRow
from segdeploy.benchmarks.published.ours import OurRow, OurSpeed
from segdeploy.benchmarks.report.tables import ABSENT, figure, table

HEAD = (
    *("Model", "Source", "Evaluated on", "Parameters, M", "True GMACs"),
    *('"GFLOPs" published', "reproduced", "IoU % fp32", "fp16", "int8", "precision not stated"),
    *("FPS", "Device"),
)
NOTES = """\
True GMACs are multiply-adds of convolutions, counted here: for a published row those of the network
as this project builds it, with one head, at the row's input size. Parameters of a published row are
as printed, of a run those of its checkpoint with every head. IoU of a run is the foreground's, the
mean over images, with one value for each candidate; a precision is what the file asks for. In a
published row fp32 is the network as trained where its source names no lower precision, and a
precision is not stated where the source names a device alone. FPS: images a second at batch 1, then
the fastest of all where that is another; a run's are with inputs and outputs in host memory. A dash
is what the source does not state or the run did not measure."""


def published_page(result: Beside) -> str:
    """The page of what ``python -m segdeploy.benchmarks.published`` found.

    Args:
        result: both sides.
    """
    cells: list[list[str]] = []
    footnotes: list[str] = []
    for arch in NETWORKS:
        for row in result.published:
            if row.arch == arch:
                footnotes.append(_footnote(row, len(footnotes) + 1))
                cells.append(_published_cells(row, len(footnotes)))
        cells += [_our_cells(row) for row in result.ours if row.arch == arch]
    rules = "; ".join(f"{NETWORKS[arch]}: {rule.words()}" for arch, rule in PUBLISHED_RULES.items())
    parts = [
        "# Published figures beside ours",
        table(HEAD, [[_cell(text) for text in row] for row in cells]),
        PUBLISHED_NOTE,
        f'The published "GFLOPs" are {PUBLISHED_COST_NOTE} Counted are, for {rules}.',
        " ".join(NOTES.split()),
        "\n".join(footnotes),
        f"    {result.command}",
    ]
    return "\n\n".join(parts) + "\n"


def _published_cells(row: CountedRow, number: int) -> list[str]:
    variant = f", {row.variant}" if row.variant else ""
    devices = dict.fromkeys(timing.device for timing in row.speed)
    return [
        f"{NETWORKS[row.arch]}{variant}",
        f"{row.source.title} [^{number}]",
        f"{row.dataset}, {_size(row)}",
        _printed(row.parameters_m),
        figure(row.macs, "giga"),
        _printed(row.gflops),
        figure(row.gflops_reproduced, "share"),
        *(_printed(getattr(row, precision)) for precision in PRECISIONS),
        _fps(row.speed),
        ", ".join(devices) or ABSENT,
    ]


def _our_cells(row: OurRow) -> list[str]:
    threads = dict.fromkeys(timing.threads for timing in row.speed)
    device = f"{row.device}, {' or '.join(map(str, threads))} threads"
    return [
        NETWORKS[row.arch],
        f"this project, run {row.name} on {row.runtime}",
        f"{row.data}, {_size(row)}",
        figure(row.parameters / 1e6, "share"),
        figure(row.macs, "giga"),
        ABSENT,
        figure(row.gflops_reproduced, "share"),
        *(_values(row.iou.get(precision, ())) for precision in PRECISIONS),
        _fps(row.speed),
        device if row.speed else ABSENT,
    ]


def _printed(value: float | None) -> str:
    """A figure with the digits its source gives it."""
    return ABSENT if value is None else f"{value:.10g}"


def _values(values: Sequence[float]) -> str:
    """Each value once."""
    return ", ".join(dict.fromkeys(figure(value, "share") for value in values)) or ABSENT


def _fps(speed: Sequence[PublishedSpeed | OurSpeed]) -> str:
    """The fastest timing at batch 1, and the fastest of all."""
    single = [timing for timing in speed if timing.batch == 1]
    fastest = [max(timings, key=_rate) for timings in (single, speed) if timings]
    return "; ".join(dict.fromkeys(_timing(timing) for timing in fastest)) or ABSENT


def _rate(timing: PublishedSpeed | OurSpeed) -> float:
    return timing.fps


def _timing(timing: PublishedSpeed | OurSpeed) -> str:
    """A published timing as printed; one of a run with its precision and, if several, streams."""
    batch = f"batch {timing.batch}"
    if isinstance(timing, PublishedSpeed):
        return f"{_printed(timing.fps)} ({batch})"
    streams = f", {timing.streams} streams" if timing.streams > 1 else ""
    return f"{figure(timing.fps, 'rate')} ({timing.precision}, {batch}{streams})"


def _size(row: CountedRow | OurRow) -> str:
    return "x".join(map(str, row.size))


def _footnote(row: CountedRow, number: int) -> str:
    source, note = row.source, f" {row.note}" if row.note else ""
    return f"[^{number}]: {source.title}: {source.where}. <{source.url}>{note}"


def _cell(text: str) -> str:
    """Text that does not end its cell."""
    return " ".join(text.split()).replace("|", r"\|")
