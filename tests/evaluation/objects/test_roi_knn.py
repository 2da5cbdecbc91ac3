"""Classes of boxes by kNN, and retrieval: against loops, known answers and laws."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.objects.made_boxes import made_boxes, one_hot, random_splits
from tests.reference import roi_scores

from orl.evaluation.objects.object_dataset import BoxSplits
from orl.evaluation.objects.roi_knn import RoiKnnConfig, knn_rows, predict_classes, retrieval_precision
from orl.evaluation.objects.scored_boxes import class_sums, scored_boxes
from orl.evaluation.output import EvaluationOutput

OUTPUT = EvaluationOutput(result=Path("x.json"))


def random_features(seed: int, rows: int, dims: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dims)).astype(np.float32)


@pytest.mark.parametrize("seed", [0, 1])
def test_top_1_equals_loops(seed: int) -> None:
    boxes = scored_boxes(random_splits(seed))
    train, test = random_features(1, len(boxes.train.rows)), random_features(2, len(boxes.test.rows))
    predicted = predict_classes(train, boxes.train.labels, test, k=7, temperature=0.1)
    expected = roi_scores.knn_classes(train, boxes.train.labels, test, 7, 0.1)
    assert predicted.tolist() == expected
    correct = (predicted == boxes.test.labels).astype(float)
    accuracy = roi_scores.class_mean_accuracy(expected, boxes.test.labels)
    assert class_sums(boxes, correct).value == pytest.approx(accuracy)


@pytest.mark.parametrize("seed", [0, 1])
def test_retrieval_equals_loops(seed: int) -> None:
    boxes = scored_boxes(random_splits(seed, images=25))
    features = random_features(seed, len(boxes.test.rows))
    precision, is_query = retrieval_precision(features, boxes.test.labels, boxes.test.image_rows)
    expected = roi_scores.retrieval_map(features, boxes.test.labels, boxes.test.image_rows)
    assert class_sums(boxes, precision, is_query.astype(float)).value == pytest.approx(expected)


def test_perfect_features_give_100_and_random_labels_chance() -> None:
    boxes = scored_boxes(random_splits(3, images=300))
    perfect = knn_rows("crop", one_hot(boxes.train.labels), one_hot(boxes.test.labels), boxes, RoiKnnConfig(), OUTPUT)
    assert [row.estimate.value for row in perfect] == [1.0, 1.0]
    train, test = random_features(1, len(boxes.train.rows)), random_features(2, len(boxes.test.rows))
    top_1, retrieval = knn_rows("crop", train, test, boxes, RoiKnnConfig(), OUTPUT)
    for row in (top_1, retrieval):
        assert row.chance == pytest.approx(1 / 3, abs=0.02)
        assert row.estimate.value == pytest.approx(row.chance, abs=0.06)
        assert row.estimate.low < row.estimate.value < row.estimate.high


def test_the_order_of_boxes_changes_nothing() -> None:
    boxes = scored_boxes(random_splits(4))
    train, test = random_features(1, len(boxes.train.rows)), random_features(2, len(boxes.test.rows))
    order = np.random.default_rng(0).permutation(len(train))
    predicted = predict_classes(train, boxes.train.labels, test, k=5)
    assert predict_classes(train[order], boxes.train.labels[order], test, k=5).tolist() == predicted.tolist()


def test_retrieval_by_hand_leaves_the_own_image_out() -> None:
    # Query 0 finds the wrong box 2 first, then the right box 3: precision 1/2. Its neighbour in the image is no answer.
    features = np.array([[1, 0], [1, 0.01], [1, 0.1], [1, 0.2]], dtype=np.float32)
    labels, images = np.array([0, 0, 1, 0]), np.array([0, 0, 1, 2])
    precision, is_query = retrieval_precision(features, labels, images)
    assert precision[0] == pytest.approx(0.5)
    assert is_query.tolist() == [True, True, False, True]


def test_classes_with_one_training_box_are_left_out_and_named() -> None:
    splits = BoxSplits(train=made_boxes([[0, 1], [0, 1], [2]], "train"), test=made_boxes([[0, 1, 2]]))
    found = scored_boxes(splits)
    assert found.classes == ("a", "b")
    assert found.left_out == {"c": "1 boxes to train on and 1 to score"}
    assert found.test.labels.tolist() == [0, 1]


def test_too_few_classes_are_refused() -> None:
    splits = BoxSplits(train=made_boxes([[0, 0], [1]], "train"), test=made_boxes([[0, 1]]))
    with pytest.raises(ValueError, match="1 classes have 2 boxes to train on"):
        scored_boxes(splits)


def test_boxes_that_do_not_count_are_neither_trained_on_nor_scored() -> None:
    splits = random_splits(5)
    train = splits.train
    difficult = replace(train, scored=(np.zeros(len(train.boxes[0]), dtype=bool), *train.scored[1:]))
    found = scored_boxes(BoxSplits(train=difficult, test=splits.test))
    assert found.train.rows.min() == len(train.boxes[0])
