import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segdeploy.calibration.collect import Accumulator, Batch, collect
from segdeploy.calibration.collection import merge_collections
from segdeploy.calibration.errors import CalibrationError

RNG = np.random.default_rng(0)
NAMES = tuple(f"image{i:02}" for i in range(11))
TENSORS = {
    "input": RNG.normal(size=(11, 3, 4, 4)).astype(np.float32),
    "relu": np.maximum(RNG.normal(size=(11, 2, 5)), 0).astype(np.float32),
}


def batches(order, sizes):
    """The images in ``order``, cut into batches of ``sizes`` and a ragged last one."""
    for rows in np.split(np.array(order), np.cumsum(sizes)):
        if rows.size:
            yield Batch(
                names=tuple(NAMES[row] for row in rows),
                tensors={name: values[rows] for name, values in TENSORS.items()},
            )


WHOLE = collect(batches(range(11), []))


@settings(max_examples=30)
@given(st.permutations(range(11)), st.lists(st.integers(1, 4), max_size=6))
def test_batch_size_and_order_do_not_matter(order, sizes):
    assert collect(batches(order, sizes)) == WHOLE


@settings(max_examples=30)
@given(st.permutations(range(11)), st.integers(1, 10))
def test_processes_and_resuming_do_not_matter(order, cut):
    first, second = collect(batches(order[:cut], [2])), collect(batches(order[cut:], [3]))
    assert merge_collections([first, second]) == merge_collections([second, first]) == WHOLE
    assert collect(batches(order[cut:], [1]), resume=first) == WHOLE


def test_collection_keeps_no_reference_to_the_batch():
    values = np.ones((1, 4), np.float32)
    accumulator = Accumulator()
    accumulator.add(Batch(names=("a",), tensors={"t": values}))
    before = accumulator.collection()
    values[:] = 7
    assert accumulator.collection() == before


def test_progress_is_reported_after_each_batch():
    seen = []
    collect(batches(range(11), [4, 4]), on_batch=lambda a: seen.append(a.num_images))
    assert seen == [4, 8, 11]


def test_everything_counted_before_needs_no_more_batches():
    assert collect([], resume=WHOLE) == WHOLE


def test_empty_set_is_refused():
    with pytest.raises(CalibrationError, match="calibration set is empty"):
        collect([])


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf")])
def test_nan_and_inf_name_tensor_and_image_and_count_nothing(value, kind):
    bad = np.zeros((2, 3), np.float32)
    bad[1, 2] = value
    accumulator = Accumulator()
    accumulator.add(Batch(names=("a",), tensors={"ok": bad[:1], "conv7": bad[:1]}))
    before = accumulator.collection()
    with pytest.raises(CalibrationError, match=f"'conv7' of image 'c'.*{kind}"):
        accumulator.add(Batch(names=("b", "c"), tensors={"ok": np.ones_like(bad), "conv7": bad}))
    assert accumulator.collection() == before


def test_wrong_type_names_the_tensor():
    with pytest.raises(CalibrationError, match="tensor 'half': values are float16"):
        collect([Batch(names=("a",), tensors={"half": np.ones((1, 2), np.float16)})])


def test_tensor_without_values_is_refused():
    with pytest.raises(CalibrationError, match=r"tensor 'none'.*nothing to count"):
        collect([Batch(names=("a",), tensors={"none": np.ones((1, 0), np.float32)})])


def test_missing_and_new_tensors_are_named():
    one = np.ones((1, 2), np.float32)
    stream = [
        Batch(names=("a",), tensors={"x": one, "y": one}),
        Batch(names=("b",), tensors={"x": one, "z": one}),
    ]
    with pytest.raises(CalibrationError, match=r"image 'b' lacks tensors \['y'\] and adds \['z'\]"):
        collect(stream)


@pytest.mark.parametrize("names", [("a", "a"), ("b", "a")])
def test_an_image_counts_once(names):
    stream = [
        Batch(names=("a",), tensors={"x": np.ones((1, 2), np.float32)}),
        Batch(names=names, tensors={"x": np.ones((2, 2), np.float32)}),
    ]
    with pytest.raises(CalibrationError, match="image 'a' was counted before"):
        collect(stream)


@pytest.mark.parametrize(
    ("names", "tensors"),
    [
        ((), {"x": np.ones((0, 1), np.float32)}),
        (("a",), {}),
        (("a",), {"x": np.ones((2, 1), np.float32)}),
        (("a",), {"x": np.float32(1).reshape(())}),
    ],
)
def test_batch_that_cannot_be_is_refused(names, tensors):
    with pytest.raises(CalibrationError):
        Batch(names=names, tensors=tensors)
