import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.estimate import CalibrationRange, Method
from segdeploy.calibration.table import CalibrationTable, Levels, imported_table

RANGE = CalibrationRange(
    min=-0.1,
    max=2.0,
    observed_min=-3.0,
    observed_max=4.0,
    method=Method.ENTROPY,
    divergence=0.1,
    candidates=1921,
    share_clipped=0.25,
    fallback=None,
)
TABLE = CalibrationTable(
    method=Method.ENTROPY,
    num_bins=2048,
    num_samples=50,
    data_sha256="ab" * 32,
    model_sha256="0f" * 32,
    ranges={"relu": RANGE, "conv/ä": RANGE},
)

number = st.floats(0, 3e38)
ranges = st.builds(
    lambda low, high, divergence, share: dataclasses.replace(
        RANGE, min=-low, max=high, divergence=divergence, share_clipped=share
    ),
    number,
    number,
    st.none() | st.floats(0, 10),
    st.floats(0, 1),
)


@given(st.dictionaries(st.text(min_size=1), ranges, min_size=1))
def test_every_table_round_trips_exactly(found):
    table = dataclasses.replace(TABLE, ranges=found)
    text = table.to_json()
    assert CalibrationTable.from_json(text, source="t") == table
    assert CalibrationTable.from_json(text, source="t").to_json() == text


def test_order_of_the_ranges_does_not_change_the_bytes():
    backwards = dataclasses.replace(TABLE, ranges=dict(reversed(TABLE.ranges.items())))
    assert backwards.to_json() == TABLE.to_json()


def test_levels_are_stored_for_both_kinds():
    assert json.loads(TABLE.to_json())["num_levels"] == {"signed": 128, "non_negative": 256}
    assert TABLE.num_levels == Levels(signed=128, non_negative=256)


def test_file_round_trips_and_nothing_stays_beside(tmp_path):
    path = tmp_path / "net.calib.json"
    TABLE.write(path)
    assert CalibrationTable.read(path) == TABLE
    assert list(tmp_path.iterdir()) == [path]


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match=r"cannot read .*none\.json"):
        CalibrationTable.read(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="not UTF-8"):
        CalibrationTable.read(tmp_path / "binary.json")


def edited(**changes):
    content = json.loads(TABLE.to_json())
    content.update(changes)
    return json.dumps(content)


def edited_range(**changes):
    return edited(ranges={"relu": {**json.loads(TABLE.to_json())["ranges"]["relu"], **changes}})


def without(key):
    content = json.loads(TABLE.to_json())
    del content[key]
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.json:1: not JSON"),
        ('{\n"a": 1,\n}', "f.json:3: not JSON"),
        ("[]", r"it is \[\]; expected keys and values"),
        (edited(schema_version=2), "schema_version is 2; this release reads 1"),
        (edited(schema_version="1"), "schema_version is '1'"),
        (edited(schema_version=True), "schema_version is True"),
        (edited(extra=1), "it has the unknown key 'extra'; expected method, num_bins"),
        (without("num_bins"), "lacks 'num_bins'"),
        (without("schema_version"), "schema_version is None; this release reads 1"),
        (edited(num_levels={"signed": 128}), "num_levels lacks 'non_negative'"),
        (edited(num_levels=128), "num_levels is 128; expected keys and values"),
        (edited(num_bins="2048"), "num_bins is '2048'; expected a whole number"),
        (edited(num_samples=-1), "0 or more"),
        (edited(data_sha256="xyz"), "data_sha256 is 'xyz'"),
        (edited(method="kl"), "method is 'kl'; expected one of entropy"),
        (edited(method=[]), r"method is \[\]; expected one of entropy"),
        (edited(ranges=[]), r"ranges is \[\]; expected keys and values"),
        (edited(ranges={}), "at least one range"),
        (edited(ranges={"relu": 3}), r"ranges\['relu'\] is 3; expected keys and values"),
        (edited_range(min=float("nan")), "NaN among the values"),
        (edited_range(max=float("inf")), "Infinity among the values"),
        (edited_range(min=5), r"ranges\['relu'\].*min is above max"),
        (edited_range(min=0.5), r"ranges\['relu'\].*include zero"),
        (edited_range(min="0"), r"ranges\['relu'\]\.min is '0'; expected a number"),
        (
            edited_range(candidates=1.5),
            r"ranges\['relu'\]\.candidates is 1\.5; expected a whole number",
        ),
        (edited_range(fallback=3), r"ranges\['relu'\]\.fallback is 3; expected text or null"),
        (edited_range(colour=3), r"ranges\['relu'\].*unknown key 'colour'"),
        (edited_range(max=10**400), r"ranges\['relu'\]"),
        (edited_range(divergence=10**400), r"ranges\['relu'\]"),
        ('{"schema_version": 1, "schema_version": 1}', "given twice: schema_version"),
    ],
)
def test_bad_files_are_refused_with_file_and_key(text, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        CalibrationTable.from_json(text, source="f.json")
    assert str(caught.value).startswith("f.json")


def test_table_of_imported_ranges_says_what_is_not_known():
    table = imported_table({"relu": RANGE})
    assert (table.method, table.num_samples, table.model_sha256) == (Method.IMPORTED, 0, None)
    assert CalibrationTable.from_json(table.to_json(), source="t") == table
