"""Records from JSON: what was written reads back, and what does not fit is said with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.json_record import (
    Count,
    Percent,
    Sha256,
    Text,
    json_of,
    record_of,
    require_measured,
    require_version,
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
        ({"colour": "green"}, "colour is 'green'; expected one of red, blue"),
        ({"rows": {}}, "rows is {}; expected a list"),
        ({"rows": [1]}, "rows[0] is 1; expected keys and values"),
        ({"rows": [{"share": 1.0}]}, "rows[0] lacks 'name'"),
        (
            {"rows": [{"name": "", "share": 1.0}]},
            "rows[0].name is ''; expected text of 1 or",
        ),
        (
            {"rows": [{"name": "a", "share": 101}]},
            "rows[0].share is 101; expected a number",
        ),
        (
            {"rows": [{"name": "a", "share": "1"}]},
            "rows[0].share is '1'; expected a number",
        ),
        ({"rows": [{"name": "a", "share": 1, "counts": [2.0]}]}, "rows[0].counts[0] is 2.0; exp"),
        (
            {"rows": [{"name": "a", "share": 1, "counts": [True]}]},
            "counts[0] is True; expected a w",
        ),
        ({"rows": [{"name": "a", "share": None}]}, "rows[0]: share is null in a measured row; exp"),
        ({"rows": [{"name": "a", "share": 1, "skipped": "x"}]}, "share is given in a skipped row"),
        ({"pair": [1.0]}, "pair is [1.0]; expected a list of 2 or null"),
        ({"notes": {"one": "x", "a\n": 5}}, r"notes['a\n'] is 5; expected text of 1"),
        (
            {"kept": {"b": {"name": "a", "share": -1}}},
            "kept['b'].share is -1; expected a number",
        ),
        ({"digest": "abc"}, "digest is 'abc'; expected text matching ^[0-9a-f]{64}$"),
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
    with pytest.raises(CalibrationError, match=r"^the file is .*; expected keys and values$"):
        record_of(value, Whole, whole="the file")


@pytest.mark.parametrize("key", sorted(plain()))
def test_every_key_without_a_default_is_needed(key: str) -> None:
    content = plain()
    del content[key]
    with pytest.raises(CalibrationError, match=f"^it lacks '{key}'$"):
        record_of(content, Whole, whole="it")


class Kind(str, Enum):
    CARD = "card"
    CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Timing:
    device: Kind
    batch: Annotated[int, Meta(ge=1)]
    fps: Annotated[float, Meta(ge=0.5, le=100)] | None = None

    def __post_init__(self) -> None:
        if self.batch == 13:
            raise ValueError("batch is 13 - at `$.nowhere`")
        if self.batch == 14:
            raise ForeignError("batch is 14")


class ForeignError(Exception):
    """What another package raises of a record of its own."""


Size = Annotated[tuple[int, int], Meta(description="[height, width]")]


@dataclass(frozen=True, kw_only=True)
class Card:
    name: str
    timings: Mapping[str, Timing] = field(default_factory=dict)
    listed: tuple[Timing, ...] = ()
    size: Size = (1, 1)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    unit: Literal["ms", "s"] = "ms"
    best: Timing | None = None
    sound: bool = True
    rest: dict[str, Any] = field(default_factory=dict)


TIMING: dict[str, Any] = {"device": "card", "batch": 8, "fps": 2.5}
CARD: dict[str, Any] = json.loads(json.dumps(asdict(Card(name="a"))))

timings = st.builds(
    Timing,
    device=st.sampled_from(Kind),
    batch=st.integers(15, 1000),
    fps=st.none() | st.floats(0.5, 100),
)
cards = st.builds(
    Card,
    name=st.text(),
    timings=st.dictionaries(st.text(), timings, max_size=3),
    listed=st.lists(timings, max_size=3).map(tuple),
    size=st.tuples(st.integers(), st.integers()),
    unit=st.sampled_from(["ms", "s"]),
    best=st.none() | timings,
    sound=st.booleans(),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(cards)
def test_what_is_written_of_a_record_reads_back_as_the_same(card: Card) -> None:
    assert record_of(json.loads(json.dumps(asdict(card))), Card, complete=True) == card


@given(anything, st.sampled_from(sorted(CARD)))
def test_any_value_in_any_place_is_taken_or_refused_in_one_line(value: Any, key: str) -> None:
    for damaged in (value, CARD | {key: value}, CARD | {"best": value}, {"timings": {"x": value}}):
        said = refusal(damaged)
        assert said is None or (said.isprintable() and ("expected" in said or "lacks" in said))


def refusal(value: Any) -> str | None:
    try:
        record_of(value, Card, complete=True)
    except CalibrationError as error:
        return str(error)
    return None


def of(**changes: Any) -> dict[str, Any]:
    return CARD | changes


def slow(**changes: Any) -> dict[str, Any]:
    """A timing under a key whose neighbours are sound."""
    return of(timings={"ok": TIMING, "it's\n": TIMING | changes, "later": TIMING})


UNKNOWN = "has the unknown key 'fsp'; expected device, batch, fps"
REFUSED: dict[str, tuple[Any, str]] = {
    "a list": ([], "it is []; expected keys and values"),
    "nothing": (None, "it is None; expected keys and values"),
    "no name": ({"timings": {}}, "it lacks 'name', 'listed', "),
    "not text": (of(name=3), "name is 3; expected text"),
    "not a mapping": (of(timings=[]), "timings is []; expected keys and values"),
    "not a key": (of(timings={3: TIMING}), "timings has the key 3; expected text"),
    "not an object": (of(best=3), "best is 3; expected keys and values or null"),
    "not a flag": (of(sound=1), "sound is 1; expected true or false"),
    "not a choice": (of(unit="h"), "unit is 'h'; expected one of ms, s"),
    "half a pair": (of(unit="\udc80"), r"'\udc80' is not Unicode text"),
    "too few": (of(mean=[1, 2]), "mean is [1, 2]; expected a list of 3"),
    "not a number": (of(mean=[1, 2, True]), "mean[2] is True; expected a number"),
    "described": (of(size=[1]), "size is [1]; expected [height, width]"),
    "unknown inside": (slow(fsp=3), rf"timings['it's\n'] {UNKNOWN}"),
    "unknown in a list": (of(listed=[TIMING, TIMING | {"fsp": 3}]), f"listed[1] {UNKNOWN}"),
    "unknown in an option": (of(best=TIMING | {"fsp": 3}), f"best {UNKNOWN}"),
    "true": (slow(batch=True), r"timings['it's\n'].batch is True; expected a whole number of 1 or"),
    "a fraction": (slow(batch=1.5), "batch is 1.5; expected a whole number of 1 or more"),
    "too low": (slow(batch=0), "batch is 0; expected a whole number of 1 or more"),
    "too high": (slow(fps=101), "fps is 101; expected a number from 0.5 to 100 or null"),
    "no kind": (slow(device="tpu"), "device is 'tpu'; expected one of card, cpu"),
    "not finite": (slow(fps=float("nan")), "fps is nan; expected a number from 0.5 to 100"),
    "together": (slow(batch=13), r"timings['it's\n']: batch is 13 - at `$.nowhere`"),
    "in an item": (of(listed=[TIMING | {"batch": 13}]), "listed[0]: batch is 13 - at"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_names_the_place_what_was_found_and_what_was_expected(
    value: Any, message: str
) -> None:
    def spelled(text: str) -> str:
        return text.replace('"', "'").replace("\\\\n", "\\n")

    with pytest.raises(CalibrationError) as caught:
        record_of(value, Card, complete=True)
    assert spelled(str(caught.value)).startswith(message) or message in spelled(str(caught.value))


def test_whole_numbers_stand_for_floats_and_become_them() -> None:
    found = record_of(of(best=TIMING | {"fps": 3}), Card, complete=True)
    assert found.best is not None
    assert isinstance(found.best.fps, float)


def test_a_field_with_a_default_may_lack_only_where_that_is_said() -> None:
    assert record_of({"name": "a"}, Card) == Card(name="a")
    with pytest.raises(CalibrationError, match="it lacks 'name'"):
        record_of({}, Card)


def test_other_keys_are_left_out_at_the_top_alone_and_where_that_is_said() -> None:
    others = {"\udc80": 1, 3: 4, "names": "b"}
    assert record_of({**CARD, **others}, Card, others=True, complete=True) == Card(name="a")
    with pytest.raises(CalibrationError, match="best has the unknown key 'fsp'"):
        record_of(of(best=TIMING | {"fsp": 3}, names="b"), Card, others=True, complete=True)


def test_an_error_of_the_record_itself_stays_what_it_is() -> None:
    with pytest.raises(ForeignError, match="batch is 14"):
        record_of(slow(batch=14), Card, complete=True)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(CalibrationError) as caught:
        record_of(of(sound="x" * 10_000), Card, complete=True)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("found", [2, 0, True, "1", None, 1.0])
def test_another_schema_is_said_before_anything_else(found: Any) -> None:
    with pytest.raises(CalibrationError, match=rf"schema_version is {found!r}; .* reads 1"):
        require_version({"schema_version": found, "unknown": 3}, 1)


def test_the_schema_of_no_object_is_not_looked_for() -> None:
    require_version({"schema_version": 1}, 1)
    with pytest.raises(CalibrationError, match="it is 3; expected keys and values"):
        require_version(3, 1)
