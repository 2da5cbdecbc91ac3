"""Classes of boxes by logistic regression: against scikit-learn, and known answers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.evaluation.objects.made_boxes import one_hot

from orl.evaluation.objects.roi_linear import RoiLinearConfig, predict_linear


def blobs(seed: int, rows: int, classes: int = 4, dims: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dims))
    labels = np.arange(rows) % classes
    return (centres[labels] + generator.normal(size=(rows, dims))).astype(np.float32), labels


@pytest.mark.parametrize("l2", [0.1, 0.001])
def test_predictions_equal_those_of_scikit_learn(l2: float) -> None:
    (X, y), (X_test, _) = blobs(0, 120), blobs(1, 80)
    predicted, about = predict_linear(X, y, np.arange(len(X)), X_test, folds=3, strengths=(l2,))
    scaler = StandardScaler().fit(X)
    reference = LogisticRegression(C=1 / (len(X) * l2), max_iter=1000).fit(scaler.transform(X), y)
    assert (predicted == reference.predict(scaler.transform(X_test))).mean() >= 0.98
    assert about["l2"] == l2
    assert about["num_unconverged"] == 0


def test_perfect_features_are_all_right() -> None:
    labels = np.arange(60) % 3
    predicted, _ = predict_linear(one_hot(labels), labels, np.arange(60) // 2, one_hot(labels), folds=5)
    assert predicted.tolist() == labels.tolist()


def test_the_boxes_of_an_image_are_in_one_fold() -> None:
    # Each image has its own direction: only with boxes of one image in two folds could it be learned.
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 2)
    labels = generator.integers(0, 2, 40)[groups]
    features = np.eye(40, dtype=np.float32)[groups]
    _, about = predict_linear(features, labels, groups, features, folds=4)
    assert max(about["validation_top1"].values()) < 0.75


def test_the_strongest_of_equal_penalties_is_chosen() -> None:
    labels = np.arange(40) % 2
    _, about = predict_linear(one_hot(labels, 2), labels, np.arange(40), one_hot(labels, 2), folds=2)
    assert about["l2"] == 1.0


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="folds is 1; cross-validation needs 2"):
        RoiLinearConfig(folds=1)
