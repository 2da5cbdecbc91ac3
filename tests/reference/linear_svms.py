"""The VOC07 protocol as plain loops over classes, costs and folds."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC
from tests.reference.average_precision import average_precision_by_thresholds


def folds_by_counting(labels: Sequence[int], num_folds: int) -> list[int]:
    """Return the fold of every image: each class is split over the folds in blocks, in the images' order.

    Sizes as scikit-learn's StratifiedKFold: the sorted labels are dealt round robin, and each fold gets of each
    class as many as it was dealt; classes are numbered by first appearance.
    """
    appearance = list(dict.fromkeys(labels))
    dealt = sorted(appearance.index(label) for label in labels)
    folds = [0] * len(labels)
    for number, label in enumerate(appearance):
        sizes = [dealt[fold::num_folds].count(number) for fold in range(num_folds)]
        places = [fold for fold, size in enumerate(sizes) for _ in range(size)]
        rows = [row for row, value in enumerate(labels) if value == label]
        for row, fold in zip(rows, places, strict=True):
            folds[row] = fold
    return folds


def _fit(features: ndarray, labels: ndarray, cost: float, seed: int) -> LinearSVC:
    svm = LinearSVC(
        penalty="l2", loss="squared_hinge", dual=True, tol=0.0001, C=cost, max_iter=2000, random_state=seed
    ).set_params(class_weight={1: 2, -1: 1})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return svm.fit(features, labels)


def svms_by_loops(
    train: ndarray,
    train_labels: ndarray,
    test: ndarray,
    test_labels: ndarray,
    costs: Sequence[float],
    seed: int,
) -> list[tuple[float, float]]:
    """Return the chosen cost and the test AP of every class."""
    train = np.array([row / (np.sqrt((row**2).sum()) + 1e-5) for row in train.astype(np.float64)])
    test = np.array([row / (np.sqrt((row**2).sum()) + 1e-5) for row in test.astype(np.float64)])
    results = []
    for labels, truth in zip(train_labels.T, test_labels.T):
        rows = [row for row, label in enumerate(labels) if label != 0]
        known, known_labels = train[rows], labels[rows]
        folds = np.array(folds_by_counting(known_labels.tolist(), 3))
        best_cost, best_ap = costs[0], -1.0
        for cost in costs:
            fold_aps = []
            for fold in range(3):
                svm = _fit(known[folds != fold], known_labels[folds != fold], cost, seed)
                scores = svm.decision_function(known[folds == fold])
                fold_aps.append(average_precision_score(known_labels[folds == fold], scores))
            if sum(fold_aps) / 3 > best_ap:
                best_cost, best_ap = cost, sum(fold_aps) / 3
        scores = _fit(known, known_labels, best_cost, seed).decision_function(test)
        results.append((best_cost, average_precision_by_thresholds(scores.tolist(), truth.tolist())))
    return results
