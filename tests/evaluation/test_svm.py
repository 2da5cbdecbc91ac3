import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from tests.reference.linear_svms import folds_by_counting, svms_by_loops

from orl.evaluation.svm import COSTS, assign_folds, score_svm

CLASSES = ("cat", "dog")
FEW_COSTS = (1.0, 0.5**4, 10.0, 0.5**10)


def noisy_problem(num_images=60, seed=0):
    """Two classes that features tell apart only in part; some labels are ignored."""
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
    monkeypatch.setattr("orl.evaluation.liblinear.MAX_ITERATIONS", 1)
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


@pytest.mark.parametrize(
    ("solver", "limit"), [("batched", "squared_hinge.MAX_NEWTON_STEPS"), ("liblinear", "liblinear.MAX_ITERATIONS")]
)
def test_fits_that_stop_at_the_limit_are_counted_not_printed(recwarn, monkeypatch, solver, limit):
    monkeypatch.setattr(f"orl.evaluation.{limit}", 1)
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


def test_images_that_all_look_alike_have_the_share_of_positives():
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
