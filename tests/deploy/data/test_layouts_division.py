from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.deploy.data.image_set import SPLITS
from segdeploy.deploy.data.layouts.division import (
    Ratios,
    Sizes,
    divide,
    floored,
    require_shares,
    rounded,
)
from segdeploy.deploy.data.layouts.registry import LAYOUTS
from segdeploy.deploy.system.errors import UsageError

DSB_RATIOS = (0.7, 0.1, 0.2)
STRATA = st.dictionaries(st.text(max_size=6), st.sampled_from("xyz"), max_size=60)
RATIOS = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)).filter(any)
SHARES = RATIOS.map(lambda parts: tuple(part / sum(parts) for part in parts))


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [rounded, floored])
@given(count=st.integers(0, 5000), ratios=SHARES)
def test_sizes_sum_to_the_count_and_are_near_the_shares(
    sizes: Sizes, count: int, ratios: Ratios
) -> None:
    found = sizes(count, ratios)
    assert sum(found) == count
    for size, ratio in zip(found, ratios, strict=True):
        assert abs(size - ratio * count) < 3
        assert size == 0 or ratio > 0


@given(st.integers(1, 500), RATIOS)
def test_floored_takes_whole_shares_whole(whole: int, parts: tuple[int, int, int]) -> None:
    shares = tuple(part / sum(parts) for part in parts)
    assert floored(whole * sum(parts), shares) == tuple(whole * part for part in parts)


@given(st.integers(0, 5000), SHARES)
def test_only_the_last_share_is_above_its_floor(count: int, ratios: Ratios) -> None:
    sizes = floored(count, ratios)
    used = [index for index in range(3) if ratios[index] > 0]
    for index in used[:-1]:
        assert sizes[index] <= count * ratios[index] + 1e-6 < sizes[index] + 1 + 1e-5


def test_the_published_counts() -> None:
    assert floored(2594, LAYOUTS["isic2018"].ratios) == (1815, 259, 520)
    assert floored(20, LAYOUTS["drive"].ratios) == (16, 4, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_default_ratios_are_shares(layout: str) -> None:
    require_shares(LAYOUTS[layout].ratios)


@pytest.mark.parametrize("ratios", [(0.7, 0.1), (0.5, 0.5, 0.5), (-0.5, 0.5, 1.0)])
def test_other_ratios_are_not(ratios: Ratios) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        require_shares(ratios)


# --- division ----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(STRATA, st.integers(0, 2**32), SHARES, st.sampled_from([rounded, floored]))
def test_each_name_has_one_split_and_each_stratum_its_sizes(
    strata: dict[str, str], seed: int, ratios: Ratios, sizes: Sizes
) -> None:
    splits = divide(strata, sizes=sizes, seed=seed, ratios=ratios)
    assert splits.keys() == strata.keys()
    for stratum in set(strata.values()):
        names = [name for name in strata if strata[name] == stratum]
        counts = Counter(splits[name] for name in names)
        assert tuple(counts[split] for split in SPLITS) == sizes(len(names), ratios)


@settings(max_examples=40, deadline=None)
@given(STRATA, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_split_does_not_depend_on_any_order(
    strata: dict[str, str], seed: int, generator: random.Random
) -> None:
    alike = [name for name in strata if strata[name] == "x"]
    twins = [alike[:3], alike[3:5]] if len(alike) >= 5 else []
    items, turned = list(strata.items()), [generator.sample(g, len(g)) for g in reversed(twins)]
    generator.shuffle(items)
    assert divide(dict(items), sizes=rounded, seed=seed, ratios=DSB_RATIOS, twins=turned) == divide(
        strata, sizes=rounded, seed=seed, ratios=DSB_RATIOS, twins=twins
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(20, 200), st.integers(0, 2**32), st.integers(2, 4))
def test_twins_share_a_split_and_the_counts_stay(count: int, seed: int, size: int) -> None:
    names = [f"{index:03}" for index in range(count)]
    group = names[:size]
    splits = divide(
        dict.fromkeys(names, ""), sizes=floored, seed=seed, ratios=DSB_RATIOS, twins=[group]
    )
    assert len({splits[name] for name in group}) == 1
    counts = Counter(splits.values())
    wanted = dict(zip(SPLITS, floored(count, DSB_RATIOS), strict=True))
    # The group itself may come last, when only its size together is left over several splits.
    assert sum(abs(counts[split] - wanted[split]) for split in SPLITS) <= 2 * (size - 1)


def test_isic_keeps_its_counts_with_twins_too() -> None:
    names = [f"ISIC_{index:07}" for index in range(2594)]
    twins = [names[index : index + 2] for index in range(0, 400, 40)]
    for seed in range(3):
        splits = divide(
            dict.fromkeys(names, ""), sizes=floored, seed=seed, ratios=DSB_RATIOS, twins=twins
        )
        assert Counter(splits.values()) == {"train": 1815, "val": 259, "test": 520}
        assert all(splits[one] == splits[other] for one, other in twins)


def test_a_group_that_fits_nowhere_stays_together() -> None:
    splits = divide(
        dict.fromkeys("ab", ""), sizes=floored, seed=0, ratios=(0.5, 0.0, 0.5), twins=["ab"]
    )
    assert splits in ({"a": "train", "b": "train"}, {"a": "test", "b": "test"})


def test_counts_of_a_worked_example() -> None:
    strata = {f"f{i}": "fluorescence" for i in range(20)} | {f"c{i}": "colour" for i in range(10)}
    splits = divide(strata, sizes=rounded, seed=0, ratios=DSB_RATIOS)
    assert Counter((name[0], split) for name, split in splits.items()) == {
        ("f", "train"): 14,
        ("f", "val"): 2,
        ("f", "test"): 4,
        ("c", "train"): 7,
        ("c", "val"): 1,
        ("c", "test"): 2,
    }
    others = [divide(strata, sizes=rounded, seed=seed, ratios=DSB_RATIOS) for seed in range(1, 5)]
    assert any(other != splits for other in others), "the seed must matter"


def test_a_split_once_published_is_drawn_again() -> None:
    strata = {f"{index:02}": "xy"[index % 2] for index in range(20)}
    splits = divide(strata, sizes=rounded, seed=7, ratios=DSB_RATIOS)
    assert {split: [n for n in sorted(splits) if splits[n] == split] for split in SPLITS} == {
        "train": [
            "00",
            "02",
            "03",
            "04",
            "05",
            "06",
            "07",
            "09",
            "11",
            "12",
            "14",
            "16",
            "17",
            "19",
        ],
        "val": ["08", "13"],
        "test": ["01", "10", "15", "18"],
    }
