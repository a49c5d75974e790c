"""What the source tables print for the two networks, shown beside a run for orientation."""

from __future__ import annotations

from segdeploy.benchmarks.published.file import load_rows
from segdeploy.benchmarks.published.rows import PublishedRow


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
