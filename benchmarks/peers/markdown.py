"""What ``benchmarks.peers`` measured, as GitHub tables."""

from __future__ import annotations

from typing import Any

from segdeploy.benchmarks.report.tables import ABSENT, figure, table

Row = dict[str, Any]

NOTES = """\
Seconds: collection and search, from the model file and the image files to the ranges, imports
excluded; in brackets, times the first row. Process s: from starting the process to its end. Peak
MB: the largest resident memory of the tool's own process (1 MB = 1e6 bytes), imports included; the
next column is the part that imports already took. Candidates: thresholds compared for one tensor,
at most. Range width: the tool's over the first row's, over the tensors both know: median (least to
most). int8 IoU: of the int8 model from the tool's ranges, written by `segdeploy quantize --target
ort-x86` and run on ONNX Runtime; NNCF quantizes by itself."""

NNCF_NOTE = """\
NNCF's seconds are those inside its statistics aggregator's `collect_statistics`; the whole of
`nncf.quantize`, default settings and fast bias correction included, took {whole} s, and its peak
memory is that of the whole."""


def calibration_page(result: dict[str, Any]) -> str:
    """The page of ``peers_calibration.json``."""
    rows: list[Row] = result["rows"]
    first = rows[0]
    head = (
        *("Tool", "Seconds", "Process s", "Peak MB", "imports MB", "Candidates", "Tensors"),
        *("Range width", "int8 IoU %", "Change, points"),
    )
    body = [["float32 model", *[ABSENT] * 7, figure(result["float_iou"], "percent"), ABSENT]]
    body += [_calibration_cells(row, first) for row in rows]
    notes = [" ".join(NOTES.split())]
    notes += [
        " ".join(NNCF_NOTE.format(whole=figure(row["whole_seconds"], "fixed")).split())
        for row in rows
        if row["seconds"] != row["whole_seconds"]
    ]
    notes += [f"{row['name']} was skipped: {row['skipped']}." for row in rows if row["skipped"]]
    subject = (
        f"{result['model']['file']} (sha256 {result['model']['sha256'][:12]}), "
        f"{result['calibration_images']} calibration images, {result['evaluation_images']} "
        f"evaluation images, {result['threads']} threads"
    )
    return page("Calibration beside its peers", subject, table(head, body), notes, result)


def growth_page(result: dict[str, Any]) -> str:
    """The page of ``peers_calibration_growth.json``."""
    rows: list[Row] = result["rows"]
    head = ("Images", "Seconds", "Process s", "Peak MB", "imports MB")
    body = [
        [
            figure(row["images"], "count"),
            figure(row["seconds"], "fixed"),
            figure(row["process_seconds"], "fixed"),
            figure(row["peak_bytes"], "mega"),
            figure(row["imports_bytes"], "mega"),
        ]
        for row in rows
    ]
    notes = [
        f"Peak memory of {rows[-1]['images']} images over that of {rows[0]['images']}: "
        f"{result['peak_ratio']:.3f}."
    ]
    subject = (
        f"{result['model']['file']} (sha256 {result['model']['sha256'][:12]}), "
        f"{result['threads']} threads"
    )
    return page("Memory of calibration", subject, table(head, body), notes, result)


def _calibration_cells(row: Row, first: Row) -> list[str]:
    if row["skipped"]:
        return [f"{row['name']} (skipped)", *[ABSENT] * 9]
    widths = row["widths"]
    spread = ABSENT
    if widths:
        least, most = (figure(widths[key], "fixed") for key in ("least", "most"))
        spread = f"{figure(widths['median'], 'fixed')} ({least} to {most})"
    return [
        row["name"],
        _beside(row, first, "seconds", "fixed"),
        figure(row["process_seconds"], "fixed"),
        _beside(row, first, "peak_bytes", "mega"),
        figure(row["imports_bytes"], "mega"),
        figure(row["candidates"], "count"),
        figure(len(row["ranges"]), "count"),
        spread,
        figure(row["iou"], "percent"),
        figure(row["delta_iou_percentage_points"], "points"),
    ]


def _beside(row: Row, first: Row, key: str, kind: str) -> str:
    """A figure and, for the peers, how many times the first row's it is."""
    shown = figure(row[key], kind)
    return shown if row is first else f"{shown} ({figure(row[key] / first[key], 'rate')}x)"


def page(title: str, subject: str, rows: str, notes: list[str], result: dict[str, Any]) -> str:
    """A table with what it is about above, and the notes and the command below."""
    machine = _machine(result["environment"])
    parts = [f"# {title}", f"{subject}.", f"{machine}.", rows, *notes, f"    {result['command']}"]
    return "\n\n".join(parts) + "\n"


def _machine(machine: dict[str, Any]) -> str:
    """The machine on one line: processor, cores, instruction sets, versions."""
    versions = [f"{name} {version}" for name, version in machine["versions"].items() if version]
    return (
        f"{machine['cpu'] or 'unknown processor'}, {figure(machine['cores'], 'count')} cores, "
        f"{figure(machine['memory_bytes'], 'gibi')} GiB, {' '.join(machine['isa']) or 'no ISA'}; "
        f"{machine['os']}, Python {machine['python']}; {', '.join(versions)}"
    )
