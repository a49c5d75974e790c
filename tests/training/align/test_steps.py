"""The measure of the alignment checks, and loss curves judged by it."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from segdeploy.deploy.system.errors import InputError, UsageError
from segdeploy.training.align.curves import CurveAlignment, align_curves
from segdeploy.training.align.history import Curve, read_curve
from segdeploy.training.align.plot import write_plot
from segdeploy.training.align.tolerance import NOTHING, Difference, Tolerance, difference

VALUES = hnp.arrays(np.float64, st.integers(2, 40), elements=st.floats(-1e6, 1e6))
PAIRS = VALUES.flatmap(
    lambda a: st.tuples(
        st.just(a), hnp.arrays(np.float64, a.shape, elements=st.floats(-1e6, 1e6, width=32))
    )
)


# --- the measure -------------------------------------------------------------------------------


@given(PAIRS, st.data())
def test_any_partition_of_the_values_adds_up_to_the_whole(
    pair: tuple[NDArray[Any], NDArray[Any]], data: st.DataObject
) -> None:
    a, b = pair
    cuts = sorted(data.draw(st.sets(st.integers(1, a.size - 1))))
    edges = [0, *cuts, a.size]
    total = NOTHING
    for low, high in itertools.pairwise(edges):
        total += difference(a[low:high], b[low:high])
    whole = difference(a, b)
    assert (total.count, total.max_abs) == (whole.count, whole.max_abs)
    assert total.reference_max == whole.reference_max
    assert total.mean_abs == pytest.approx(whole.mean_abs)
    assert total.relative_rms == pytest.approx(whole.relative_rms)


@given(PAIRS)
def test_differences_are_absolute(pair: tuple[NDArray[Any], NDArray[Any]]) -> None:
    a, b = pair
    there, back = difference(a, b), difference(b, a)
    assert there.max_abs == back.max_abs
    assert there.mean_abs == back.mean_abs
    assert abs(float((a - b).mean())) <= there.mean_abs * (1 + 1e-9) <= there.max_abs * (1 + 2e-9)
    assert (there.max_abs == 0) == np.array_equal(a, b)


@given(VALUES, st.floats(1e-3, 1e3))
def test_relative_figures_do_not_depend_on_the_scale(values: NDArray[Any], scale: float) -> None:
    a, b = values, values * 1.25
    one, other = difference(a, b), difference(a * scale, b * scale)
    assert other.relative == pytest.approx(one.relative)
    assert other.sqnr_db == pytest.approx(one.sqnr_db)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_infinitely_far(broken: float, side: int) -> None:
    pair = [np.ones(3, np.float32), np.ones(3, np.float32)]
    pair[side][1] = broken
    found = difference(*pair)
    assert found.max_abs == math.inf
    assert found.relative == math.inf
    assert found.as_json()["max_abs"] is None


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((0,), (0,))])
def test_tensors_that_cannot_be_compared(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(InputError, match="expected the same, not empty"):
        difference(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_a_tolerance_that_is_no_number_is_refused() -> None:
    for wrong in (-1e-3, math.nan, math.inf):
        with pytest.raises(InputError, match="0 or more"):
            Tolerance(relative=wrong)


def test_a_difference_of_nothing_changes_nothing() -> None:
    found = difference(np.array([1.0, 2.0]), np.array([1.5, 2.0]))
    assert found + NOTHING == NOTHING + found == found
    assert isinstance(found, Difference)
    assert NOTHING.mean_abs == 0


# --- curves ------------------------------------------------------------------------------------


def curve(values: list[float], *, start: int = 1, source: str = "a") -> Curve:
    positions = tuple(float(start + index) for index in range(len(values)))
    return Curve(
        source=source, column="train_loss", key="epoch", positions=positions, values=tuple(values)
    )


def test_a_signed_mean_of_zero_hides_nothing() -> None:
    found = align_curves(curve([1.0, 1.0, 1.0, 1.0]), curve([1.2, 0.8, 1.2, 0.8]))
    assert found.mean_signed == pytest.approx(0, abs=1e-12)
    assert found.mean_absolute == pytest.approx(0.2)
    assert not found.passed


@settings(deadline=None)
@given(
    st.lists(st.floats(1e-3, 10), min_size=1, max_size=20),
    st.floats(0, 0.2),
    st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_errors_are_means_of_absolute_differences(
    values: list[float], share: float, up: list[bool]
) -> None:
    swayed = [v * (1 + share if rise else 1 - share) for v, rise in zip(values, up, strict=False)]
    found = align_curves(curve(values), curve(swayed))
    assert found.mean_relative == pytest.approx(share, abs=1e-12)
    assert found.mean_absolute == pytest.approx(share * float(np.mean(values)), abs=1e-12)
    assert abs(found.mean_signed) <= found.mean_absolute + 1e-15


@pytest.mark.parametrize(
    ("other", "passed"),
    [
        ([1.04, 0.96], True),  # 4 % apart
        ([1.06, 0.94], False),
        ([1.09, 1.0], True),  # 9 % and 0 %
    ],
)
def test_the_limits_of_large_losses(other: list[float], passed: bool) -> None:
    assert align_curves(curve([1.0, 1.0]), curve(other)).passed is passed


def test_small_losses_pass_by_their_absolute_error() -> None:
    found = align_curves(curve([1e-4, 0.0]), curve([2e-4, 1e-4]))
    assert found.mean_relative == math.inf
    assert found.mean_absolute == pytest.approx(1e-4)
    assert found.passed
    assert found.as_json()["mean_relative"] is None
    assert not align_curves(curve([1e-4, 0.0]), curve([4e-4, 3e-4])).passed


def test_runs_of_other_lengths_are_compared_only_when_asked() -> None:
    long, short = curve([3.0, 2.0, 1.0]), curve([2.0, 1.0], start=2)
    with pytest.raises(InputError, match=r"3 rows by epoch and a 2, 2 in common; .*--common"):
        align_curves(long, short)
    found = align_curves(long, short, common=True)
    assert found.mean_absolute == 0
    assert found.left_out == 1
    with pytest.raises(InputError, match="0 in common"):
        align_curves(long, curve([1.0], start=9), common=True)


def test_a_history_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text("epoch,train_loss,val_iou\n1,0.5,70\n2,0.25,80\n")
    found = read_curve(path, "train_loss")
    assert (found.positions, found.values, found.key) == ((1, 2), (0.5, 0.25), "epoch")
    assert read_curve(path, "val_iou").values == (70, 80)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch,loss\n1,2\n", r"columns \['epoch', 'loss'\]; expected 'train_loss'"),
        ("time,train_loss\n1,2\n", "one of step, epoch"),
        ("epoch,train_loss\n", "no rows"),
        ("epoch,train_loss\n1,\n", r"history.csv:2: epoch is '1' and train_loss ''"),
        ("epoch,train_loss\n1\n", r"history.csv:2: .* train_loss None"),
        ("epoch,train_loss\n1,0.5\n2,nan\n", "nan at epoch 2; the training diverged"),
        ("epoch,train_loss\n2,0.5\n2,0.4\n", "does not rise"),
        ("", "has columns"),
    ],
)
def test_a_history_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_curve(path, "train_loss")


def test_a_plot_shows_both_curves_where_matplotlib_is_installed(tmp_path: Path) -> None:
    found: CurveAlignment = align_curves(curve([1.0, 0.5]), curve([1.1, 0.4], source="b"))
    if importlib.util.find_spec("matplotlib") is None:
        with pytest.raises(InputError, match="pip install matplotlib"):
            write_plot(found, tmp_path / "curves.png")
        return
    for name in ("curves.png", "again.png", "curves.svg"):
        write_plot(found, tmp_path / name)
    assert (tmp_path / "curves.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_without_matplotlib_a_plot_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = align_curves(curve([1.0]), curve([1.0]))
    with pytest.raises(InputError, match="pip install matplotlib"):
        write_plot(found, tmp_path / "curves.png")
    with pytest.raises(UsageError, match=r"ends in '\.txt'; expected \.png or \.svg"):
        write_plot(found, tmp_path / "curves.txt")
