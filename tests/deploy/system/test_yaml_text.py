"""YAML of plain values alone."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.deploy.system.errors import InputError
from segdeploy.deploy.system.yaml_text import LARGEST, parse_yaml, read_yaml

words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)


class Repeating(yaml.SafeDumper):
    """Writes a value out each time it stands."""

    def ignore_aliases(self, data: object) -> bool:
        return True


@given(plain)
def test_what_pyyaml_writes_of_plain_values_reads_back(value: object) -> None:
    assert parse_yaml(yaml.dump(value, Dumper=Repeating, allow_unicode=True)) == value


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", r"alias \*x; write the value out"),
        ("a: 1\na: 2\n", "keys given twice: a"),
        ("a: {b: 1, b: 2}\n", "keys given twice: b"),
        ("[" * 10_000, "more than 50 levels"),
        ("a: !!int x\n", "invalid literal"),
        ("a: !!bool x\n", "x"),
        ("a: !!binary x\n", "could not determine a constructor"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ('a: "\\UFFFFFFFF"\n', "."),
        ("a: 1\n---\nb: 2\n", "single document"),
        (f"a: {'9' * 5000}\n", "digits"),
    ],
)
def test_what_is_not_plain_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_a_date_is_text_even_where_there_is_no_such_day() -> None:
    assert parse_yaml("a: 2024-01-01\nb: 2024-13-45\n") == {"a": "2024-01-01", "b": "2024-13-45"}


def test_a_file_without_end_is_refused_at_once() -> None:
    before = time.perf_counter()
    with pytest.raises(InputError, match=rf"--config /dev/zero .*more than {LARGEST} bytes"):
        read_yaml(Path("/dev/zero"), what="--config")
    assert time.perf_counter() - before < 5
