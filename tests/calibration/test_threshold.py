import numpy as np
import pytest

from segdeploy.calibration.errors import CalibrationError
from segdeploy.calibration.histogram import TensorHistogram
from segdeploy.calibration.threshold import candidate_lengths, levels_of, lowest


def test_levels_follow_the_sign():
    assert levels_of(TensorHistogram.of(np.array([0, 1], np.float32))) == 256
    assert levels_of(TensorHistogram.of(np.array([-1, 1], np.float32))) == 128
    assert levels_of(TensorHistogram.of(np.array([-1, 0], np.float32))) == 256


def test_lengths_run_from_levels_to_bins():
    assert candidate_lengths(6, 4).tolist() == [4, 5, 6]
    with pytest.raises(CalibrationError, match="3 bins cannot be searched for 4 levels"):
        candidate_lengths(3, 4)


def test_ties_go_to_the_largest_threshold():
    assert lowest(np.array([1.0, 0.5, 0.5 + 1e-13, 0.6]), tolerance=1e-12) == 2
    assert lowest(np.array([np.inf, 0.5, 0.7]), tolerance=1e-12) == 1
