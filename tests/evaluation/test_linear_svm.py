import doctest

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.svm import LinearSVC

from orl.evaluation import linear_svm, newton_svm
from orl.evaluation.linear_svm import LinearSVM


def as_torch(array):
    return torch.from_numpy(array)


ARRAYS = {
    "numpy": np.asarray,
    "torch": as_torch,
    "float32": lambda array: as_torch(array).float(),
    "requires_grad": lambda array: as_torch(array).requires_grad_(),
}


def separable(num_images=40):
    generator = np.random.default_rng(0)
    y = np.arange(num_images) % 3
    return generator.normal(size=(num_images, 5)) + 3 * np.eye(3, 5)[y], y


@pytest.mark.parametrize("kind", ARRAYS)
def test_the_estimator_equals_liblinear_for_numpy_and_torch(kind, monkeypatch):
    monkeypatch.setattr(newton_svm, "CG_TOL", 1e-3)
    X, y = separable()
    svm = LinearSVM(C=0.1, tol=1e-9).fit(ARRAYS[kind](X), torch.from_numpy(y))
    assert svm.classes_ == ("0", "1", "2")
    for index in range(3):
        signs = np.where(y == index, 1, -1)
        reference = LinearSVC(C=0.1, class_weight={1: 2, -1: 1}, tol=1e-10, max_iter=100_000, dual=True, random_state=0)
        reference.fit(X, signs)
        expected = reference.decision_function(X)
        assert_allclose(svm.decision_function(ARRAYS[kind](X))[:, index], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_accepted(dtype):
    X, y = separable()
    scores = LinearSVM().fit(torch.from_numpy(X).to(dtype), y).decision_function(torch.from_numpy(X).to(dtype))
    assert (scores.argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize(
    "labels",
    [lambda y: y == 0, lambda y: (y == 0).astype(int), lambda y: np.where(y == 0, 1, -1), lambda y: (y == 0)[:, None]],
)
def test_labels_of_one_class_may_be_bool_zero_one_or_signs(labels):
    X, y = separable()
    expected = LinearSVM().fit(X, np.where(y == 0, 1, -1)).decision_function(X)
    assert expected.shape == (40,)
    assert_allclose(LinearSVM().fit(X, labels(y)).decision_function(X), expected)


def test_an_ignored_image_has_no_part_in_its_class():
    X, y = separable()
    signs = np.where(y == 0, 1, -1)
    signs[[2, 5]] = 0
    kept = signs != 0
    assert_allclose(LinearSVM().fit(X, signs).coef_, LinearSVM().fit(X[kept], signs[kept]).coef_, rtol=1e-3, atol=1e-5)


def test_a_larger_positive_weight_raises_the_scores_of_positive_images():
    X, _ = separable()
    noisy = np.where(np.random.default_rng(1).random(40) < 0.3, 1, -1)
    light, heavy = (
        LinearSVM(positive_weight=weight).fit(X, noisy).decision_function(X)[noisy == 1].mean() for weight in (1, 5)
    )
    assert heavy > light + 0.1


def test_a_fit_that_reaches_its_limit_is_not_converged():
    X, y = separable()
    assert not LinearSVM(C=100.0, max_iter=1).fit(X, y).converged_.any()
    assert LinearSVM().fit(X, y).converged_.all()


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.ones((4, 2)), np.array([0, 1, 0]), "X has 4 images and y has 3"),
        (np.ones(4), np.array([0, 1, 0, 1]), r"X must have the shape \(images, features\), got \(4,\)"),
        (np.full((4, 2), np.nan), np.array([0, 1, 0, 1]), "8 of 8 values of X are not finite"),
        (np.ones((4, 2)), np.array([1, 1, 1, 1]), "class 0 has 4 positive and 0 negative images"),
        (np.ones((4, 2)), np.array([0.5, 1, 0, 1]), "labels must be integers, got float64 values such as"),
        (np.ones((4, 2)), np.array([[0, 2], [1, 0], [0, 1], [1, 1]]), "labels must be -1, 0 and 1, or class ids"),
        (np.ones((4, 2)), np.array([-2, 1, 0, 1]), "labels must be -1, 0 and 1, or class ids from 0"),
        (np.ones((4, 2)), np.zeros((4, 1, 1), dtype=int), r"labels must have the shape .* got \(4, 1, 1\)"),
        (np.ones((4, 2)), np.array(["cat", "dog", "cat", "dog"]), "labels must be numbers, got <U3"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        LinearSVM().fit(X, y)


def test_an_svm_that_is_not_fitted_or_gets_other_features_is_refused():
    X, y = separable()
    with pytest.raises(RuntimeError, match="has not been fitted"):
        LinearSVM().decision_function(X)
    with pytest.raises(ValueError, match="X has 3 features, but the SVM was fitted on 5"):
        LinearSVM().fit(X, y).decision_function(X[:, :3])
    with pytest.raises(ValueError, match="C, positive_weight and tol must be above 0"):
        LinearSVM(C=0.0)


def test_the_example_of_the_estimator_runs():
    assert doctest.testmod(linear_svm) == (0, 4)
