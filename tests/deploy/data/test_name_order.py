"""One order of names: as people count, whatever order they came in."""

from __future__ import annotations

import random

import pytest

from segdeploy.deploy.data.name_order import counted, telling_numbers


def test_numbers_count_and_text_is_text() -> None:
    names = ["img10", "img2", "a", "img1", "10", "9", "img2_10", "img2_9", "0a"]
    expected = ["0a", "9", "10", "a", "img1", "img2", "img2_9", "img2_10", "img10"]
    assert sorted(names, key=counted) == expected


def test_there_is_one_order_of_any_names() -> None:
    draw = random.Random(0)
    names = list({"".join(draw.choices("0aé1_9", k=draw.randrange(6))) for _ in range(300)})
    expected = sorted(names, key=counted)
    draw.shuffle(names)
    assert sorted(names, key=counted) == expected
    assert len({counted(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["out_9", "out_10"], [9, 10]),
        (["7_0", "8_0"], [7, 8]),
        (["batch2_out3", "batch2_out4"], [3, 4]),
        (["out_5"], [5]),
        (["a1", "b2"], None),
        (["img1_2", "img2_1"], None),
        (["1", "01"], None),
        (["out", "put"], None),
        (["out"], None),
        ([], None),
    ],
)
def test_the_number_that_tells_names_apart(names: list[str], numbers: list[int] | None) -> None:
    assert telling_numbers(names) == numbers
