import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose
from sklearn.metrics import average_precision_score
from tests.reference.average_precision import average_precision_by_thresholds

from orl.evaluation.average_precision import (
    average_precision,
    classes_without_positives,
    mean_average_precision,
    step_average_precision,
)

DESCENDING = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
RANKINGS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from((1, -1, 0))), min_size=1, max_size=25).filter(
    lambda images: any(label == 1 for _, label in images)
)


def as_arrays(images):
    scores, labels = zip(*images)
    return np.array(scores, dtype=np.float64), np.array(labels)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 1, -1, -1, -1], 1.0),
        ([1, -1, 1, -1, -1], 1 / 2 + 2 / 3 / 2),
        ([-1, 1, -1, 1, -1], 1 / 2),
        # Precision rises from 1/2 to 2/3 further down, which interpolation counts twice; without it, 0.589.
        ([-1, 1, 1, -1, 1], (2 / 3 + 2 / 3 + 3 / 5) / 3),
        ([-1, -1, -1, -1, 1], 1 / 5),
        ([0, 1, 0, -1, 1], 1 / 2 + 2 / 3 / 2),
    ],
)
def test_hand_made_rankings_have_their_average_precision(labels, expected):
    assert_allclose(average_precision(DESCENDING, np.array(labels)), expected)


def test_order_of_the_images_does_not_matter():
    generator = np.random.default_rng(0)
    order = generator.permutation(5)
    labels = np.array([1, -1, 1, -1, -1])
    assert_allclose(average_precision(DESCENDING[order], labels[order]), 1 / 2 + 2 / 3 / 2)


@pytest.mark.parametrize("labels", [[1, 1, -1, -1, -1], [-1, -1, -1, 1, 1]])
def test_equal_scores_give_the_fraction_of_positives(labels):
    assert_allclose(average_precision(np.zeros(5), np.array(labels)), 2 / 5)


def test_images_that_tie_enter_the_ranking_together():
    scores = np.array([3.0, 2.0, 2.0, 1.0])
    assert_allclose(average_precision(scores, np.array([1, 1, -1, 1])), (1 + 3 / 4 + 3 / 4) / 3)


@given(RANKINGS)
def test_average_precision_equals_the_count_at_every_threshold(images):
    scores, labels = as_arrays(images)
    assert_allclose(average_precision(scores, labels), average_precision_by_thresholds(scores, labels))


@given(RANKINGS)
def test_a_monotone_transform_of_the_scores_changes_nothing(images):
    scores, labels = as_arrays(images)
    assert average_precision(np.exp(scores) - 100, labels) == average_precision(scores, labels)


@given(RANKINGS, st.integers(0, 2**32 - 1))
def test_ignored_images_may_have_any_score(images, seed):
    scores, labels = as_arrays(images)
    others = np.where(labels == 0, np.random.default_rng(seed).normal(size=len(scores)) * 5, scores)
    assert average_precision(others, labels) == average_precision(scores, labels)


@given(RANKINGS)
def test_average_precision_lies_between_the_worst_ranking_and_one(images):
    scores, labels = as_arrays(images)
    worst = average_precision(-labels.astype(np.float64), labels)
    assert worst - 1e-12 <= average_precision(scores, labels) <= 1 + 1e-12


@given(arrays(np.int64, st.integers(2, 20), elements=st.sampled_from((1, -1))))
def test_a_perfect_ranking_has_one(labels):
    assume((labels == 1).any())
    scores = labels + np.linspace(0, 0.5, len(labels))
    assert_allclose(average_precision(scores, labels), 1)


@given(RANKINGS, st.integers(0, 24))
def test_a_higher_score_of_a_positive_never_harms(images, index):
    scores, labels = as_arrays(images)
    positives = np.flatnonzero(labels == 1)
    raised = scores.copy()
    raised[positives[index % len(positives)]] = 10
    # Joining a tie or leaving one cannot lower it either: points of the curve only move up and left.
    assert average_precision(raised, labels) >= average_precision(scores, labels) - 1e-12


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        average_precision(np.array([np.nan, 1.0]), np.array([1, -1]))


def test_a_class_without_positives_is_refused():
    with pytest.raises(ValueError, match="got 0 among 2"):
        average_precision(np.array([1.0, 2.0, 3.0]), np.array([-1, -1, 0]))


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match=r"got \[2\]"):
        average_precision(np.array([1.0, 2.0]), np.array([1, 2]))


def test_classes_without_positives_have_a_reason():
    labels = np.array([[-1, -1], [1, 0], [-1, -1]])
    assert classes_without_positives(labels, ("cat", "dog")) == {"dog": "no positive test image"}


def test_mean_weighs_all_classes_alike():
    assert_allclose(mean_average_precision({"cat": 0.2, "dog": 0.6}), 0.4)


def test_mean_over_no_class_is_refused():
    with pytest.raises(ValueError, match="needs at least 1 class with a score, got 0"):
        mean_average_precision({})


@given(RANKINGS)
def test_the_steps_equal_those_of_scikit_learn(images):
    scores, labels = as_arrays(images)
    known = labels != 0
    assert_allclose(step_average_precision(scores, labels), average_precision_score(labels[known] == 1, scores[known]))


def test_steps_are_not_interpolated():
    labels = np.array([-1, 1, 1, -1, 1])
    assert_allclose(step_average_precision(DESCENDING, labels), (1 / 2 + 2 / 3 + 3 / 5) / 3)
