"""``compare.md`` and ``compare.html``: two runs on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segdeploy.benchmarks.report.html import render
from segdeploy.benchmarks.report.markdown import Columns, escape, table
from segdeploy.benchmarks.report.rows import interval
from segdeploy.calibration.files import write_atomic

PARITY: Columns = (
    ("Candidate", "name", None),
    ("IoU A %", "iou_a_percent", "percent"),
    ("IoU B %", "iou_b_percent", "percent"),
    ("Change, points", "change_percentage_points", "points"),
    ("95 % interval", "interval", None),
    ("Pixels changed A %", "disagreement_a_percent", "share"),
    ("Pixels changed B %", "disagreement_b_percent", "share"),
    ("Verdict A", "verdict_a", None),
    ("Verdict B", "verdict_b", None),
)
SPEED: Columns = (
    ("Candidate", "name", None),
    ("Batch", "batch", "count"),
    ("Threads", "threads", "count"),
    ("p50 A ms", "p50_a_ms", "fixed"),
    ("p50 B ms", "p50_b_ms", "fixed"),
    ("B / A", "p50_ratio", "fixed"),
    ("Images/s A", "images_per_s_a", "rate"),
    ("Images/s B", "images_per_s_b", "rate"),
    ("B / A", "images_per_s_ratio", "fixed"),
    ("Noise %", "noise_percent", "rate"),
    ("Size A MB", "file_a_bytes", "mega"),
    ("Size B MB", "file_b_bytes", "mega"),
)
AROUND: Columns = (("What", "what", None), ("A", "a", None), ("B", "b", None))
ONLY: Columns = (("Only in", "side", None), ("Where", "where", None), ("What", "name", None))
RUNS: Columns = (
    ("Run", "side", None),
    ("Model", "name", None),
    ("Made", "created_utc", None),
    ("Verdict", "word", None),
    ("Recommended", "file", None),
    ("Command", "command", None),
)

MACHINES = (
    "The runs were made on different machines: their times say nothing about each other's models."
)
NOISE = "Times come from two runs: a ratio within the noise means nothing."


def write_comparison(found: dict[str, Any], output: Path) -> None:
    """Write both pages; each appears whole or not at all.

    Args:
        found: what ``report_compare.compare_reports`` returns.
        output: the folder, made if missing.
    """
    output.mkdir(parents=True, exist_ok=True)
    sections = _sections(found)
    names = dict.fromkeys((found["a"]["name"], found["b"]["name"]))
    title = f"{' and '.join(names)}: two runs"
    parts = [f"# {escape(title)}"]
    parts += [f"**{escape(note)}**" for note in warnings(found)]
    for heading, columns, rows, note in sections:
        parts.append(f"## {heading}\n\n{table(columns, rows) or 'None.'}")
        parts += [escape(note)] if note and rows else []
    page = render(
        "page/compare.html.j2",
        title=title,
        generator="segdeploy report --compare",
        warnings=warnings(found),
        sections=[
            {"heading": heading, "columns": columns, "rows": rows, "note": note}
            for heading, columns, rows, note in sections
        ],
    )
    for name, content in (("compare.md", "\n\n".join(parts) + "\n"), ("compare.html", page)):
        write_atomic(output / name, content.encode("utf-8", "backslashreplace"))


def warnings(found: dict[str, Any]) -> list[str]:
    """What a reader must know before any figure."""
    changed = {row["what"] for row in found["around"]}
    machines = MACHINES if changed & {"cpu", "cores", "instruction sets"} else None
    return [note for note in (found["images_differ"], machines) if note]


def _sections(
    found: dict[str, Any],
) -> list[tuple[str, Columns, list[dict[str, Any]], str]]:
    words = {True: "PASS", False: "FAIL", None: "NOT JUDGED"}
    runs = [
        run
        | {
            "side": side,
            "word": words[run["passed"]],
            "file": run["recommendation"] and run["recommendation"]["file"],
        }
        for side, run in (("A", found["a"]), ("B", found["b"]))
    ]
    parity = [
        row | {"interval": interval(row["ci95_percentage_points"])} for row in found["parity"]
    ]
    return [
        ("Runs", RUNS, runs, ""),
        ("Accuracy", PARITY, parity, "Change: B minus A over the same images, paired."),
        ("Speed and size", SPEED, found["speed"], NOISE),
        ("What changed around them", AROUND, found["around"], ""),
        ("In one run only", ONLY, found["only"], ""),
    ]
