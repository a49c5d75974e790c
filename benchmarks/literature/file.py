"""Reads ``published.yaml``, rejects what cannot be right, and says how to read the figures."""

from __future__ import annotations

from pathlib import Path

from segdeploy.benchmarks.literature.fields import Fields
from segdeploy.benchmarks.literature.rows import (
    NETWORKS,
    PRECISIONS,
    PublishedRow,
    PublishedSpeed,
    SourcePage,
)
from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.yaml_text import read_yaml

DATA = Path(__file__).with_name("published.yaml")

LEAST = 1e-3
LEAST_PERCENT = 1.0
"""An IoU below it is a share where percent was meant."""

MOST = 1e7


def load_rows(path: Path = DATA) -> tuple[PublishedRow, ...]:
    """Read and check the data file.

    Args:
        path: a list of entries; ``published.yaml`` says what each key means.

    Raises:
        InputError: unreadable, or a row has an unknown key, no source, a figure out of range, no
            figure at all, or the name of another; the message names the row.
    """
    content = read_yaml(path, what="published figures")
    if not isinstance(content, list) or not content:
        raise InputError(f"{path} holds no list of rows; expected one entry for each source row")
    rows = tuple(_row(entry, f"{path.name}, row {n}") for n, entry in enumerate(content, 1))
    names = [row.name for row in rows]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path.name}: two rows are named {name!r}; a name must be unique")
    return rows


def _row(entry: object, where: str) -> PublishedRow:
    fields = Fields(entry, where=where)
    name = fields.text("name")
    fields.where = where = f"{where} ({name})"
    arch = fields.text("arch")
    if arch not in NETWORKS:
        raise fields.unfit("arch", arch, f"one of {', '.join(NETWORKS)}")
    iou = _iou(fields.any("iou"), f"{where}, iou")
    row = PublishedRow(
        name=name,
        arch=arch,
        variant=fields.optional_text("variant"),
        source=_source(fields.any("source"), f"{where}, source"),
        dataset=fields.text("dataset"),
        size=_size(fields),
        parameters_m=fields.number("parameters_m", low=LEAST, high=MOST),
        gflops=fields.number("gflops", low=LEAST, high=MOST),
        fp32=iou["fp32"],
        fp16=iou["fp16"],
        int8=iou["int8"],
        unstated=iou["unstated"],
        speed=_speed(fields, where),
        note=fields.optional_text("note"),
    )
    fields.require_no_others()
    if not any((row.parameters_m, row.gflops, *iou.values(), row.speed)):
        raise InputError(f"{where}: no figure; expected parameters_m, gflops, iou or speed")
    return row


def _source(content: object, where: str) -> SourcePage:
    if content is None:
        raise InputError(f"{where} is missing; every figure needs title, url and where")
    fields = Fields(content, where=where)
    url = fields.text("url")
    if not url.startswith("https://"):
        raise fields.unfit("url", url, "an https:// address")
    source = SourcePage(title=fields.text("title"), url=url, where=fields.text("where"))
    fields.require_no_others()
    return source


def _size(fields: Fields) -> tuple[int, int]:
    value = fields.any("size")
    sides = value if isinstance(value, list) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise fields.unfit("size", value, "[height, width] in pixels")
    return sides[0], sides[1]


def _iou(content: object, where: str) -> dict[str, float | None]:
    fields = Fields({} if content is None else content, where=where)
    found = {key: fields.number(key, low=LEAST_PERCENT, high=100) for key in PRECISIONS}
    fields.require_no_others()
    return found


def _speed(fields: Fields, where: str) -> tuple[PublishedSpeed, ...]:
    value = fields.any("speed")
    if value is None:
        return ()
    if not isinstance(value, list):
        raise fields.unfit("speed", value, "a list of timings")
    return tuple(_timing(entry, f"{where}, speed {n}") for n, entry in enumerate(value, 1))


def _timing(content: object, where: str) -> PublishedSpeed:
    fields = Fields(content, where=where)
    device = fields.text("device")
    batch = fields.any("batch")
    fps = fields.number("fps", low=LEAST, high=MOST)
    fields.require_no_others()
    if type(batch) is not int or batch < 1:
        raise fields.unfit("batch", batch, "a whole number of images")
    if fps is None:
        raise fields.unfit("fps", fps, "images a second")
    return PublishedSpeed(device=device, batch=batch, fps=fps)


def _first_rows() -> dict[str, PublishedRow]:
    rows: dict[str, PublishedRow] = {}
    for row in load_rows():
        rows.setdefault(row.arch, row)
    return rows


PUBLISHED = _first_rows()
"""For each architecture the first row of ``published.yaml``."""

PUBLISHED_NOTE = (
    "The published figures come from other splits of the data, other weights and other devices: "
    "they say what to expect of the network, and no difference to ours can be read as better or "
    "worse."
)
PUBLISHED_COST_NOTE = (
    "a calculator's total, which counts more than multiply-adds, times 2 and divided by 0.9e9."
)
