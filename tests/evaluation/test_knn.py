import json
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tests.reference.weighted_knn import votes_by_loops

from orl.evaluation.average_precision import average_precision
from orl.evaluation.knn import score_knn, weighted_votes

CLASSES = ("cat", "dog", "bird")


def problem(seed=0):
    generator = np.random.default_rng(seed)
    train, test = generator.normal(size=(40, 6)), generator.normal(size=(15, 6))
    train_labels, test_labels = (
        generator.integers(-1, 2, size=(40, 3)),
        generator.integers(-1, 2, size=(15, 3)),
    )
    return train.astype(np.float32), train_labels, test.astype(np.float32), test_labels


def test_votes_of_two_neighbours_are_weighed_by_their_cosines():
    train = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    labels = np.array([[1, 1], [-1, 0], [1, 1]])
    votes = weighted_votes(train, labels, np.array([[2.0, 0.0]]), k=2, temperature=0.5)
    assert_allclose(votes, [[math.exp(1 / 0.5) / (math.exp(1 / 0.5) + math.exp(0.6 / 0.5)), 1]])


def test_a_class_that_no_neighbour_knows_gets_zero():
    votes = weighted_votes(np.ones((2, 2)), np.array([[0], [0]]), np.ones((1, 2)), k=2)
    assert votes.tolist() == [[0.0]]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (7, 0.07), (40, 1.0)])
def test_votes_equal_a_loop_over_images_and_classes(k, temperature):
    train, train_labels, test, _ = problem()
    expected = votes_by_loops(train.tolist(), train_labels.tolist(), test.tolist(), k, temperature)
    assert_allclose(weighted_votes(train, train_labels, test, k=k, temperature=temperature), expected)


def test_of_equally_near_images_the_first_votes():
    train = np.ones((3, 2), dtype=np.float32)
    assert weighted_votes(train, np.array([[1], [-1], [-1]]), train[:1], k=1).tolist() == [[1.0]]


def test_the_block_size_does_not_matter():
    train, train_labels, test, _ = problem()
    one_block = weighted_votes(train, train_labels, test, k=5)
    assert_allclose(weighted_votes(train, train_labels, test, k=5, block_size=4), one_block)


def test_a_small_temperature_does_not_overflow():
    train, train_labels, test, _ = problem()
    nearest_only = weighted_votes(train, np.where(train_labels > 0, 1, -1), test, k=1)
    votes = weighted_votes(train, np.where(train_labels > 0, 1, -1), test, k=5, temperature=1e-5)
    assert_allclose(votes, nearest_only)


def test_the_score_is_the_average_precision_of_the_votes():
    train, train_labels, test, test_labels = problem()
    result = score_knn(train, train_labels, test, test_labels, CLASSES, k=5, quiet=True)
    votes = weighted_votes(train, train_labels, test, k=5)
    expected = [average_precision(votes[:, index], test_labels[:, index]) for index in range(3)]
    assert_allclose(list(result.per_class_ap.values()), expected)
    assert_allclose(result.mean_ap, np.mean(expected))


def test_copies_of_the_training_images_score_one():
    train, train_labels, _, _ = problem()
    assert score_knn(train, train_labels, train * 3, train_labels, CLASSES, k=1, quiet=True).mean_ap == 1


def test_a_class_without_positives_is_skipped_with_the_reason():
    train, train_labels, test, test_labels = problem()
    test_labels[:, 1] = -1
    result = score_knn(train, train_labels, test, test_labels, CLASSES, k=5, quiet=True)
    assert list(result.per_class_ap) == ["cat", "bird"]
    assert result.skipped == {"dog": "no positive test image"}


@pytest.mark.parametrize("k", [0, 41])
def test_more_neighbours_than_images_are_refused(k):
    train, train_labels, test, _ = problem()
    with pytest.raises(ValueError, match=f"k is {k}, but there are 40 training images"):
        weighted_votes(train, train_labels, test, k=k)


def test_a_temperature_of_zero_is_refused():
    train, train_labels, test, _ = problem()
    with pytest.raises(ValueError, match="temperature is 0"):
        weighted_votes(train, train_labels, test, temperature=0.0)


def test_no_positive_at_all_is_refused():
    train, train_labels, test, test_labels = problem()
    with pytest.raises(ValueError, match="none of 3 classes has a positive test image"):
        score_knn(train, train_labels, test, np.full_like(test_labels, -1), CLASSES, k=5, quiet=True)


def test_the_result_is_json():
    train, train_labels, test, test_labels = problem()
    result = score_knn(train, train_labels, test, test_labels, CLASSES, k=5, quiet=True)
    fields = json.loads(json.dumps(result.to_json()))
    assert (fields["task"], fields["k"], fields["temperature"]) == ("knn", 5, 0.07)
    assert fields["mean_ap"] == pytest.approx(np.mean(list(fields["per_class_ap"].values())))


def test_one_class_an_image_is_predicted_as_by_lightly():
    knn_predict = pytest.importorskip("lightly.utils.benchmarking.knn").knn_predict
    generator = np.random.default_rng(0)
    classes = generator.integers(0, 4, size=60)
    centres = generator.normal(size=(4, 8))
    train = centres[classes] + generator.normal(size=(60, 8))
    test = centres[generator.integers(0, 4, size=25)] + generator.normal(size=(25, 8))
    one_hot = np.where(classes[:, None] == np.arange(4), 1, -1)
    ours = weighted_votes(train, one_hot, test, k=7, temperature=0.1).argmax(axis=1)
    units = [torch.nn.functional.normalize(torch.from_numpy(rows), dim=1) for rows in (test, train)]
    theirs = knn_predict(units[0], units[1].T, torch.from_numpy(classes), 4, knn_k=7, knn_t=0.1)[:, 0]
    assert ours.tolist() == theirs.tolist()
    assert len(set(ours.tolist())) == 4
