import numpy as np
import pytest
from numpy.testing import assert_allclose
from orl.evaluation.features import unit_rows


def test_rows_are_divided_by_their_length_plus_epsilon():
    features = np.array([[3.0, 4.0], [0.0, 2e-5]])
    assert_allclose(unit_rows(features, 1e-5), [[3 / 5.00001, 4 / 5.00001], [0, 2 / 3]])


def test_a_row_of_zeros_stays_zero():
    assert unit_rows(np.zeros((1, 3), dtype=np.float32), 0.0).tolist() == [[0, 0, 0]]


def test_features_that_are_not_finite_are_refused():
    features = np.ones((3, 2), dtype=np.float32)
    features[1, 0] = np.inf
    with pytest.raises(ValueError, match="features of 1 of 3 images are not finite"):
        unit_rows(features, 0.0)
