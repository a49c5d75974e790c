"""Strict JSON, and messages of one line."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.errors import LONGEST_MESSAGE, CalibrationError, printable_line
from segdeploy.calibration.json_text import MOST_DIGITS, MOST_LEVELS, parse_json
from segdeploy.deploy.system.errors import InputError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**MOST_DIGITS) + 1, 10**MOST_DIGITS - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain, st.booleans())
def test_what_json_writes_of_plain_values_reads_back(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        parse_json(text)
    except ValueError:
        return
    json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "b": 2}}', "keys given twice: b"),
        ('{"a": NaN}', "NaN among the values"),
        ("[-Infinity]", "-Infinity among the values"),
        ("1e400", "1e400 among the values"),
        ('{"a": [0, 1%s]}' % ("0" * MOST_DIGITS), r"a\[1\] has a whole number of more than"),
        ("9" * 5000, "the file has a whole number"),
        ('{"a": {"b": "\\ud800"}}', r"a\['b'\] has .* half a surrogate pair"),
        ('{"\\ud800": 1}', "half a surrogate pair"),
        ("[" * 100_000, "levels of lists"),
        ("[" * (MOST_LEVELS + 2) + "]" * (MOST_LEVELS + 2), "levels of lists"),
    ],
)
def test_what_python_lets_pass_or_dies_of_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        parse_json(text)


def test_a_byte_of_a_file_name_may_stand() -> None:
    assert parse_json('"\\udcff"') == "\udcff"


def test_many_keys_given_twice_are_found_at_once() -> None:
    text = "{" + ",".join(f'"{n // 2}": 0' for n in range(60_000)) + "}"
    before = time.perf_counter()
    with pytest.raises(CalibrationError, match="keys given twice") as caught:
        parse_json(text)
    assert time.perf_counter() - before < 5
    assert len(str(caught.value)) < LONGEST_MESSAGE + 10


@given(st.text())
def test_a_message_is_one_printable_line_and_plain_text_stays(text: str) -> None:
    for error in (CalibrationError(text), InputError(text)):
        assert str(error).isprintable()
        assert len(str(error).splitlines()) <= 1
        assert str(error) == (text if text.isprintable() else printable_line(text))


def test_both_ends_of_a_long_message_are_kept() -> None:
    message = str(InputError("found " + "x" * 10**6 + "; use --overwrite"))
    assert len(message) < LONGEST_MESSAGE + 10
    assert message.startswith("found x")
    assert message.endswith("; use --overwrite")
