"""Two runs side by side: scores and times of each candidate, and what differs around them."""

from __future__ import annotations

from typing import Any

from segdeploy.benchmarks.report.rows import section_rows
from segdeploy.benchmarks.scores.paired_interval import paired_interval
from segdeploy.deploy.system.errors import InputError

Report = dict[str, Any]
Row = dict[str, Any]


def compare_reports(one: Report, other: Report) -> dict[str, Any]:
    """What changed from one report to another.

    IoU is compared only over the same images, as a paired change with its interval; over others
    both figures stand beside each other and ``images_differ`` says why there is no change.

    Args:
        one: what ``report.schema.json`` describes; the earlier one, A.
        other: the later one, B.

    Returns:
        ``images_differ`` (a sentence or ``None``), ``parity``, ``speed`` and ``around`` rows, and
        ``only`` for the candidates that one of them has alone. Changes are B minus A, and ratios
        B over A.

    Raises:
        InputError: the reports lack what the schema requires.
    """
    try:
        differ = images_differ(one, other)
        return {
            "a": _identity(one),
            "b": _identity(other),
            "images_differ": differ,
            "parity": _parity(one, other, same_images=differ is None),
            "speed": _speed(one, other),
            "around": _around(one, other),
            "only": _only(one, other),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"one of the reports does not have the shape of benchmarks/report/report.schema.json "
            f"({error!r}); `segdeploy run` makes a whole one"
        ) from error


def images_differ(one: Report, other: Report) -> str | None:
    """Why IoU cannot be compared; ``None`` where both scored the same images."""
    sets = [report["data"]["evaluation"] for report in (one, other)]
    if None in sets:
        return "One of the runs scored no images, so no change of IoU is given."
    a, b = sets
    if a["sha256"] == b["sha256"]:
        return None
    return (
        f"The runs scored different images (A: {a['images']}, {a['split']} of {a['root']}; B: "
        f"{b['images']}, {b['split']} of {b['root']}), so the IoU of one says nothing about the "
        "other and no change is given."
    )


def _identity(report: Report) -> Row:
    return {
        "name": report["model"]["name"],
        "created_utc": report["created_utc"],
        "command": report["command"],
        "passed": report["passed"],
        "recommendation": report["recommendation"],
    }


def _parity(one: Report, other: Report, *, same_images: bool) -> list[Row]:
    """A row for each candidate that both scored."""
    rows = []
    for a, b in _pairs(_scored(one), _scored(other)):
        samples = a["iou_per_image_percent"], b["iou_per_image_percent"]
        differences = _differences(*samples) if same_images else None
        rows.append(
            {
                "name": a["name"],
                "iou_a_percent": a["scores"]["iou"],
                "iou_b_percent": b["scores"]["iou"],
                "change_percentage_points": (
                    sum(differences) / len(differences) if differences else None
                ),
                "ci95_percentage_points": (
                    list(paired_interval(differences, seed=0))
                    if differences and len(differences) > 1
                    else None
                ),
                "disagreement_a_percent": a["disagreement_percent"],
                "disagreement_b_percent": b["disagreement_percent"],
                "verdict_a": _verdict(a),
                "verdict_b": _verdict(b),
            }
        )
    return rows


def _speed(one: Report, other: Report) -> list[Row]:
    """A row for each candidate and setting that both timed."""
    rows = []
    for a, b in _pairs(_timed(one), _timed(other)):
        rows.append(
            {key: a[key] for key in ("name", "batch", "threads", "streams", "hint")}
            | {
                "p50_a_ms": a["p50_ms"],
                "p50_b_ms": b["p50_ms"],
                "p50_ratio": _ratio(a["p50_ms"], b["p50_ms"]),
                "images_per_s_a": a["images_per_s"],
                "images_per_s_b": b["images_per_s"],
                "images_per_s_ratio": _ratio(a["images_per_s"], b["images_per_s"]),
                "noise_percent": max(
                    (row["noise_percent"] for row in (a, b) if row["noise_percent"] is not None),
                    default=None,
                ),
                "file_a_bytes": a["file_bytes"],
                "file_b_bytes": b["file_bytes"],
            }
        )
    return rows


def _around(one: Report, other: Report) -> list[Row]:
    """Everything that decides the figures and is not the same in both."""
    flat = [_decides(report) for report in (one, other)]
    keys = dict.fromkeys([*flat[0], *flat[1]])
    return [
        {"what": key, "a": flat[0].get(key), "b": flat[1].get(key)}
        for key in keys
        if flat[0].get(key) != flat[1].get(key)
    ]


def _decides(report: Report) -> dict[str, str]:
    """What a run was made of and with, each as text."""
    machine, model = report["environment"], report["model"]
    found: dict[str, Any] = {report["tool"]["name"]: report["tool"]["version"]}
    found |= {key: machine[key] for key in ("cpu", "cores", "memory_bytes", "os", "python")}
    found["instruction sets"] = " ".join(machine["isa"])
    found |= machine["versions"]
    found |= {key: model[key] for key in ("arch", "checkpoint_sha256", "head", "recurrence")}
    found["input contract"] = model["preprocess"]
    for use, held in report["data"].items():
        found[f"{use} images"] = held and f"{held['images']}, sha256 {held['sha256']}"
    found["calibration method"] = (report["calibration"] or {}).get("method")
    found["budget, points"] = (report["parity"] or {}).get("max_drop_percentage_points")
    found["multiply-adds"] = (report["cost"] or {}).get("macs")
    found |= {
        f"{stage['artifact']['file']} sha256": stage["artifact"]["sha256"]
        for stage in report["stages"]
        if stage["artifact"]
    }
    return {key: "none" if value is None else str(value) for key, value in found.items()}


def _only(one: Report, other: Report) -> list[Row]:
    """Candidates and settings that one run alone measured."""
    found = []
    for section, of in (("parity", _scored), ("speed", _timed)):
        a, b = of(one), of(other)
        for side, has, lacks in (("A", a, b), ("B", b, a)):
            found += [
                {"where": section, "side": side, "name": _said(key)}
                for key in has
                if key not in lacks
            ]
    return found


def _said(key: tuple[Any, ...]) -> str:
    name, *setting = key
    if not setting:
        return str(name)
    batch, threads, streams, hint = setting
    return f"{name}, batch {batch}, threads {threads}, streams {streams}, {hint}"


def _scored(report: Report) -> dict[tuple[Any, ...], Row]:
    rows = section_rows(report, "parity")
    return {(row["name"],): row for row in rows if row["skipped"] is None}


def _timed(report: Report) -> dict[tuple[Any, ...], Row]:
    keys = ("name", "batch", "threads", "streams", "hint")
    rows = section_rows(report, "benchmark")
    return {tuple(row[k] for k in keys): row for row in rows if row["skipped"] is None}


def _pairs(
    one: dict[tuple[Any, ...], Row], other: dict[tuple[Any, ...], Row]
) -> list[tuple[Row, Row]]:
    return [(row, other[key]) for key, row in one.items() if key in other]


def _differences(a: list[float] | None, b: list[float] | None) -> list[float] | None:
    """B minus A on each image; ``None`` where the samples are not of the same images."""
    if not a or not b or len(a) != len(b):
        return None
    return [y - x for x, y in zip(a, b, strict=True)]


def _ratio(a: float | None, b: float | None) -> float | None:
    return b / a if a and b is not None else None


def _verdict(row: Row) -> str | None:
    """Of a row that was judged; in the words of newer reports where it has them."""
    if row["passed"] is None:
        return None
    return row.get("verdict") or ("pass" if row["passed"] else "fail")
