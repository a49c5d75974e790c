"""Records from JSON: what was written reads back, and what does not fit is said with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.json_record import (
    Count,
    Percent,
    Sha256,
    Text,
    json_of,
    record_of,
    require_measured,
)


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Row:
    measured: ClassVar = ("share",)

    name: Text
    share: Percent | None
    counts: tuple[Count, ...] = ()
    skipped: Text | None = None

    def __post_init__(self) -> None:
        require_measured(self, self.measured)


@dataclass(frozen=True, kw_only=True)
class Whole:
    version: Literal[1]
    rows: tuple[Row, ...]
    pair: tuple[float, float] | None
    colour: Colour
    notes: dict[str, Text]
    kept: dict[str, Row]
    digest: Sha256 | None = None
    free: dict[str, Any]


texts = st.text(min_size=1)
rows = st.builds(Row, name=texts, share=st.floats(0, 100), counts=st.tuples(st.integers(0, 9)))
wholes = st.builds(
    Whole,
    version=st.just(1),
    rows=st.lists(rows, max_size=3).map(tuple),
    pair=st.none() | st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    colour=st.sampled_from(Colour),
    notes=st.dictionaries(texts, texts, max_size=2),
    kept=st.dictionaries(texts, rows, max_size=2),
    digest=st.none() | st.just("0" * 64),
    free=st.dictionaries(texts, st.integers() | texts, max_size=2),
)


def plain(**changes: Any) -> dict[str, Any]:
    row = {"name": "a", "share": 1.5, "counts": [1, 2]}
    return {
        "version": 1,
        "rows": [row, dict(row)],
        "pair": [0.5, 1.5],
        "colour": "red",
        "notes": {"one": "text"},
        "kept": {"b": dict(row)},
        "free": {"any": [1, {"thing": None}]},
    } | changes


@given(wholes)
def test_what_is_written_reads_back(whole: Whole) -> None:
    written = json.loads(json.dumps(json_of(whole)))
    assert written == json_of(whole), "lists and values as a reader gets them"
    assert record_of(written, Whole, whole="it") == whole


def test_a_key_that_was_absent_stays_absent() -> None:
    """A file of an older version is written back as it was."""
    assert json_of(record_of(plain(), Whole, whole="it")) == plain()
    assert record_of(plain(), Whole, whole="it").rows[0].skipped is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2; expected 1"),
        ({"version": True}, "version is True; expected 1"),
        ({"colour": "green"}, "colour is 'green'; expected one of ['red', 'blue']"),
        ({"rows": {}}, "rows is {}; expected array"),
        ({"rows": [1]}, "rows[0] is 1; expected object"),
        ({"rows": [{"share": 1.0}]}, "rows[0] lacks 'name'"),
        ({"rows": [{"name": "", "share": 1.0}]}, "rows[0].name is ''; expected string of length"),
        ({"rows": [{"name": "a", "share": 101}]}, "rows[0].share is 101; expected number <= 100"),
        ({"rows": [{"name": "a", "share": "1"}]}, "rows[0].share is '1'; expected number or null"),
        ({"rows": [{"name": "a", "share": 1, "counts": [2.0]}]}, "rows[0].counts[0] is 2.0; exp"),
        ({"rows": [{"name": "a", "share": 1, "counts": [True]}]}, "counts[0] is True; expected in"),
        ({"rows": [{"name": "a", "share": None}]}, "rows[0]: share is null in a measured row; exp"),
        ({"rows": [{"name": "a", "share": 1, "skipped": "x"}]}, "share is given in a skipped row"),
        ({"pair": [1.0]}, "pair is [1.0]; expected array of length 2"),
        ({"notes": {"one": "x", "a\n": 5}}, r"notes['a\n'] is 5; expected string"),
        ({"kept": {"b": {"name": "a", "share": -1}}}, "kept['b'].share is -1; expected number >="),
        ({"digest": "abc"}, "digest is 'abc'; expected string matching regex '^[0-9a-f]{64}$'"),
        ({"extra\n" * 40: 1}, r"it has the unknown key 'extra\nextra\n"),
        ({"kept": {"b": {"name": "a", "share": 1, "x": 1}}}, "kept['b'] has the unknown key 'x'"),
        ({"rows": [{"name": "a", "share": 1, "x": 1}]}, "rows[0] has the unknown key 'x'"),
    ],
)
def test_a_fault_is_said_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CalibrationError) as caught:
        record_of(plain(**changes), Whole, whole="it")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, [], 1, "text"])
def test_what_is_no_object_is_named_as_a_whole(value: object) -> None:
    with pytest.raises(CalibrationError, match=r"^the file is .*; expected object$"):
        record_of(value, Whole, whole="the file")


@pytest.mark.parametrize("key", sorted(plain()))
def test_every_key_without_a_default_is_needed(key: str) -> None:
    content = plain()
    del content[key]
    with pytest.raises(CalibrationError, match=f"^it lacks '{key}'$"):
        record_of(content, Whole, whole="it")
