"""Shares of a calibration set: disjoint, complete, and joined to the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segdeploy.calibration.collect import Batch, collect
from segdeploy.calibration.errors import CalibrationError
from segdeploy.deploy.distributed.shard import Shard, shard_from_environment


@given(st.lists(st.integers(), max_size=40), st.integers(1, 8))
def test_the_parts_are_disjoint_and_complete(items: list[int], size: int) -> None:
    tagged = list(enumerate(items))
    parts = [Shard(rank=rank, size=size).part(tagged) for rank in range(size)]
    assert sorted(item for part in parts for item in part) == tagged
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_without_torchrun_there_is_one_process_that_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with shard_from_environment() as shard:
        assert shard == Shard()
        assert shard.is_first
        collection = collect([Batch(names=("a",), tensors={"x": np.ones((1, 2), np.float32)})])
        assert shard.merged(collection) == collection


def test_no_images_anywhere_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="at least one"):
        Shard().merged(None)
