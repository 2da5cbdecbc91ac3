import dataclasses
import doctest
import json
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tests.reference.linear_svms import folds_by_counting, svms_by_loops

from orl.evaluation import svm
from orl.evaluation.average_precision import average_precision
from orl.evaluation.newton_svm import fit_svms
from orl.evaluation.svm import COSTS, assign_folds, mean_fold_ap, score_svm

CLASSES = ("cat", "dog")
FEW_COSTS = (1.0, 0.5**4, 10.0, 0.5**10)


def noisy_problem(num_images=60, seed=0):
    """Return two classes that overlap in the features; some labels are ignored."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(num_images, 12)).astype(np.float32)
    margins = features[:, :2] + generator.normal(size=(num_images, 2))
    labels = np.where(margins > 0.6, 1, -1)
    labels[generator.random(labels.shape) < 0.1] = 0
    return features, labels


def halves(features, labels):
    middle = len(features) // 2
    return features[:middle], labels[:middle], features[middle:], labels[middle:]


def without_time(result):
    return dataclasses.replace(result, elapsed_s=0.0)


def test_costs_are_those_of_the_protocol():
    assert COSTS[:4] == (1, 10, 100, 1 / 16)
    assert len(COSTS) == 19
    assert COSTS[-1] == 1 / 524288


def test_separable_classes_score_one():
    generator = np.random.default_rng(0)
    labels = np.where(np.arange(40)[:, None] % 4 < [1, 2], 1, -1)
    features = np.concatenate([4 * labels, generator.normal(size=(40, 2))], axis=1)
    result = score_svm(*halves(features, labels), CLASSES, quiet=True, costs=(1.0,))
    assert result.per_class_ap == {"cat": 1, "dog": 1}
    assert result.mean_ap == 1
    assert result.num_unconverged == 0


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_costs_and_scores_equal_a_plain_loop_of_fits(solver):
    parts = halves(*noisy_problem(120))
    result = score_svm(*parts, CLASSES, solver=solver, quiet=True, seed=3, costs=FEW_COSTS)
    assert result.solver == solver
    expected = svms_by_loops(*parts, FEW_COSTS, seed=3)
    assert list(result.costs.values()) == [cost for cost, _ in expected]
    assert_allclose(list(result.per_class_ap.values()), [ap for _, ap in expected])
    assert 0.3 < result.mean_ap < 1
    assert result.num_fits == 2 * (4 * 3 + 1)


def test_the_result_does_not_depend_on_the_number_of_processes():
    parts = halves(*noisy_problem())
    one = score_svm(*parts, CLASSES, solver="liblinear", quiet=True, costs=FEW_COSTS, workers=1)
    two = score_svm(*parts, CLASSES, solver="liblinear", quiet=True, costs=FEW_COSTS, workers=2)
    assert without_time(one) == without_time(two)


def test_the_result_repeats_with_its_seed_and_only_with_it(monkeypatch):
    # Stopped after one pass, LIBLINEAR still shows the order in which it took the images.
    monkeypatch.setattr("orl.evaluation.liblinear.MAX_ITER", 1)
    parts = halves(*noisy_problem(120))
    first, again, other = (
        score_svm(*parts, CLASSES, solver="liblinear", quiet=True, costs=(100.0,), seed=seed) for seed in (5, 5, 6)
    )
    assert without_time(first) == without_time(again)
    assert first.cross_validated_ap != other.cross_validated_ap


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_ignored_images_are_left_out_of_training_and_testing(solver):
    features, labels = noisy_problem()
    ignored_in_both = np.zeros(len(features), dtype=bool)
    ignored_in_both[[3, 17, 40, 55]] = True
    labels[ignored_in_both] = 0
    others = np.where(ignored_in_both[:, None], 50, features).astype(np.float32)
    before = score_svm(*halves(features, labels), CLASSES, solver=solver, quiet=True, costs=FEW_COSTS)
    after = score_svm(*halves(others, labels), CLASSES, solver=solver, quiet=True, costs=FEW_COSTS)
    assert without_time(before) == without_time(after)


def test_the_length_of_the_features_does_not_matter_much():
    features, labels = noisy_problem()
    lengths = np.random.default_rng(1).uniform(1, 100, size=(len(features), 1)).astype(np.float32)
    before = score_svm(*halves(features, labels), CLASSES, quiet=True, costs=(1.0,))
    after = score_svm(*halves(features * lengths, labels), CLASSES, quiet=True, costs=(1.0,))
    assert before.per_class_ap == after.per_class_ap


def test_the_first_of_equally_good_costs_is_taken():
    parts = halves(*noisy_problem())
    result = score_svm(*parts, CLASSES, quiet=True, costs=(0.5**18, 0.5**19))
    assert set(result.costs.values()) == {0.5**18}


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_fits_that_stop_at_the_limit_are_counted_not_printed(recwarn, monkeypatch, solver):
    monkeypatch.setattr("orl.evaluation.svm.fit_svms", partial(fit_svms, max_iter=1))
    monkeypatch.setattr("orl.evaluation.liblinear.MAX_ITER", 1)
    result = score_svm(*halves(*noisy_problem()), CLASSES, solver=solver, quiet=True, costs=(100.0,))
    assert result.num_unconverged == result.num_fits == 8
    assert len(recwarn) == 0


def test_classes_with_too_few_images_are_skipped_with_the_reason():
    features, labels = noisy_problem()
    labels = np.concatenate([labels[:, :1], np.full((60, 2), -1)], axis=1)
    labels[[1, 4, 40], 1] = 1
    labels[[1, 4, 7], 2] = 1
    result = score_svm(*halves(features, labels), ("cat", "dog", "bird"), quiet=True, costs=(1.0,))
    assert list(result.per_class_ap) == list(result.costs) == ["cat"]
    assert result.skipped == {
        "dog": "2 positive, 28 negative training images, fewer than 3",
        "bird": "no positive test image",
    }
    assert result.mean_ap == result.per_class_ap["cat"]


def test_folds_equal_those_dealt_by_counting():
    _, labels = noisy_problem(101)
    folds = assign_folds(labels)
    for column, found in zip(labels.T, folds.T):
        known = column != 0
        assert (found[~known] == -1).all()
        assert found[known].tolist() == folds_by_counting(column[known].tolist(), 3)


def test_equal_features_score_the_fraction_of_positives():
    _, labels = noisy_problem()
    result = score_svm(*halves(np.ones((60, 5), dtype=np.float32), labels), CLASSES, quiet=True, costs=FEW_COSTS)
    test_labels = halves(labels, labels)[3]
    assert result.num_unconverged == 0
    assert_allclose(list(result.per_class_ap.values()), (test_labels == 1).sum(0) / (test_labels != 0).sum(0))


def test_no_class_left_is_refused():
    features, labels = noisy_problem()
    with pytest.raises(ValueError, match="none of 2 classes can be scored"):
        score_svm(*halves(features, np.full_like(labels, -1)), CLASSES, quiet=True)


def test_the_result_is_json():
    result = score_svm(*halves(*noisy_problem()), CLASSES, quiet=True, costs=(1.0,))
    fields = json.loads(json.dumps(result.to_json()))
    assert fields["task"] == "svm"
    assert fields["mean_ap"] == pytest.approx(np.mean(list(fields["per_class_ap"].values())))
    assert fields["costs"] == {"cat": 1.0, "dog": 1.0}
    assert fields["num_train"] == fields["num_test"] == 30


def test_the_fold_score_is_the_plain_average_precision():
    """By hand: the positives are at ranks 2, 3 and 5 of the images that each fold validates."""
    ranking = np.array([-1, 1, 1, -1, 1])
    labels = np.tile(ranking, 3)[:, None]
    folds = np.repeat([0, 1, 2], 5)[:, None]
    scores = np.tile(np.arange(5, 0, -1.0), 3)[:, None].repeat(3, axis=1)
    # With interpolation it would be (2 / 3 + 2 / 3 + 3 / 5) / 3.
    assert_allclose(mean_fold_ap(scores, labels, folds), [(1 / 2 + 2 / 3 + 3 / 5) / 3])


def test_each_class_and_fold_has_its_own_column_of_scores():
    labels = np.array([[1, -1], [-1, 1], [1, -1], [-1, 1], [1, -1], [-1, 1]])
    folds = np.repeat([0, 1, 2], 2)[:, None].repeat(2, axis=1)
    # Columns: fold 0 of both classes, then fold 1, then fold 2; only the second class of fold 1 ranks wrongly.
    right, wrong = labels.astype(np.float64), -labels.astype(np.float64)
    scores = np.concatenate([right, right[:, :1], wrong[:, 1:], right], axis=1)
    assert_allclose(mean_fold_ap(scores, labels, folds), [1, (1 + 1 / 2 + 1) / 3])


@pytest.mark.parametrize("solver", ["batched", "liblinear"])
def test_the_cost_is_chosen_by_plain_average_precision(solver, monkeypatch):
    """Plain and interpolated AP choose different costs on these numbers, as the reference shows too."""
    generator = np.random.default_rng(46)
    features = generator.normal(size=(48, 4)).astype(np.float32)
    labels = np.where(features[:, :1] + generator.normal(size=(48, 1)) > 0.6, 1, -1)
    parts, costs = halves(features, labels), (1.0, 0.5**6, 0.5**12)
    result = score_svm(*parts, ("cat",), solver=solver, costs=costs)
    assert result.costs == {"cat": 0.5**12}
    assert [cost for cost, _ in svms_by_loops(*parts, costs, seed=0)] == [0.5**12]
    assert_allclose(result.cross_validated_ap["cat"], 0.7573412698412699)
    # The test images are scored by interpolated AP, which differs from the plain one.
    assert_allclose(result.mean_ap, svms_by_loops(*parts, costs, seed=0)[0][1])
    if solver == "batched":
        monkeypatch.setattr(svm, "step_average_precision", average_precision)
        assert score_svm(*parts, ("cat",), costs=costs).costs == {"cat": 0.5**6}


def test_numpy_and_torch_and_all_forms_of_labels_have_the_same_score():
    X_train, y_train, X_test, y_test = halves(*noisy_problem())
    y_train, y_test = np.where(y_train > 0, 1, -1), np.where(y_test > 0, 1, -1)
    expected = score_svm(X_train, y_train, X_test, y_test, CLASSES, costs=FEW_COSTS)
    tensors = [torch.from_numpy(each) for each in (X_train, y_train, X_test, y_test)]
    zero_one = [(each > 0).astype(np.uint8) for each in (y_train, y_test)]
    for given in (tensors, (X_train, zero_one[0], X_test, zero_one[1])):
        result = score_svm(*given, CLASSES, costs=FEW_COSTS)
        assert without_time(result) == without_time(expected)
    one = score_svm(X_train, zero_one[0][:, 0], X_test, zero_one[1][:, 0], costs=FEW_COSTS)
    assert one.per_class_ap == {"0": expected.per_class_ap["cat"]}


def test_class_ids_are_scored_as_one_class_against_the_rest():
    generator = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = generator.normal(size=(60, 4)) + 2 * np.eye(3, 4)[y]
    signs = np.where(y[:, None] == np.arange(3), 1, -1)
    by_ids = score_svm(X[:30], y[:30], X[30:], y[30:], costs=FEW_COSTS)
    assert by_ids.per_class_ap == score_svm(X[:30], signs[:30], X[30:], signs[30:], costs=FEW_COSTS).per_class_ap


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: np.ones((30, 12, 1))}, r"X_train must have the shape \(images, features\), got \(30, 12, 1\)"),
        ({3: np.ones((29, 2), dtype=int)}, "X_test has 30 images and y_test has 29"),
        ({2: np.ones((30, 11))}, "X_train has 12 features and X_test has 11"),
        ({4: ("cat",)}, "1 names of classes do not fit labels of 2 classes"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    given = [*halves(*noisy_problem()), CLASSES]
    for index, value in change.items():
        given[index] = value
    with pytest.raises(ValueError, match=message):
        score_svm(*given, costs=FEW_COSTS)


def test_the_example_of_the_score_runs():
    assert doctest.testmod(svm) == (0, 5)
