"""Whatever stands in a file: a value, or one of our errors in one line. See ``targets``."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.mutation import mutated
from fuzz.targets import CORPUS, TARGETS, Target

QUICK = settings(
    max_examples=60,
    deadline=5000,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
FAST = {name: target for name, target in TARGETS.items() if target.share == 1}

every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
fast_target = pytest.mark.parametrize("target", FAST.values(), ids=FAST)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def test_every_target_has_seeds_and_every_folder_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@every_target
def test_seeds_do_what_their_names_say(target: Target) -> None:
    """A name that begins with ``not-`` is of an input that is refused."""
    seeds = target.seeds()
    found = {name: target(data) for name, data in seeds.items()}
    assert found == {name: not name.startswith("not-") for name in seeds}
    assert set(found.values()) == {True, False}, "both kinds are wanted"


@fast_target
@QUICK
@given(st.data())
def test_inputs_near_a_seed(target: Target, data: st.DataObject) -> None:
    seeds = list(target.seeds().values())
    seed = data.draw(st.sampled_from(seeds))
    target(mutated(seed, data.draw(st.integers(0, 2**64 - 1)), seeds))


@fast_target
@settings(QUICK, max_examples=25)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes(target: Target, data: bytes) -> None:
    target(data)
