import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from orl.evaluation.arrays import label_columns, unit_rows


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


def test_zero_is_negative_where_no_minus_one_occurs_in_any_array():
    (train, test), names = label_columns(np.array([[0, 1], [1, 1]]), torch.tensor([[0, 0]]))
    assert train.tolist() == [[-1, 1], [1, 1]]
    assert test.tolist() == [[-1, -1]]
    assert names == ("0", "1")


def test_zero_is_ignored_where_minus_one_occurs_in_some_array():
    (train, test), _ = label_columns(np.array([[0, 1], [1, 1]]), np.array([[0, -1]]))
    assert train.tolist() == [[0, 1], [1, 1]]
    assert test.tolist() == [[0, -1]]


def test_class_ids_become_one_column_per_id_of_all_arrays():
    (train, test), names = label_columns(torch.tensor([0, 4, 4]), torch.tensor([2]))
    assert names == ("0", "2", "4")
    assert train.tolist() == [[1, -1, -1], [-1, -1, 1], [-1, -1, 1]]
    assert test.tolist() == [[-1, 1, -1]]


def test_one_dimension_of_signs_is_one_class():
    (labels,), names = label_columns(np.array([1, 0, -1]))
    assert labels.tolist() == [[1], [0], [-1]]
    assert names == ("0",)


def test_arrays_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"the same in all; got \(2, 2\), \(2,\)"):
        label_columns(np.ones((2, 2)), np.ones(2))
