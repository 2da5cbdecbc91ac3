"""Linear SVMs as the published scripts fit them: by LIBLINEAR, one for a class, a cost and a fold."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl.evaluation.average_precision import step_average_precision

MAX_ITERATIONS = 2000


def liblinear_fold_aps(
    features: Float[ndarray, "n d"],
    labels: Int[ndarray, "n c"],
    folds: Int[ndarray, "n c"],
    costs: Sequence[float],
    *,
    seed: int,
    workers: int,
    advance: Callable[[int], object],
) -> tuple[Float[ndarray, "c k"], int]:
    """Mean AP over the folds, for every class and cost.

    Args:
        features: of the training images, as the SVM shall see them.
        labels: 1, -1, or 0 for an image that is left out.
        folds: in which fold an image is held out, for every class.
        costs: what to try.
        seed: of LIBLINEAR's order of coordinates.
        workers: processes.
        advance: told how many fits are done.

    Returns:
        The mean APs, and how many of the fits were stopped by the limit on iterations.
    """
    num_classes, num_folds = labels.shape[1], int(folds.max()) + 1
    calls = [(features, labels[:, c], folds[:, c], cost, seed) for c in range(num_classes) for cost in costs]
    found = np.array(_in_processes(_cross_validate, calls, workers, lambda: advance(num_folds)))
    return found[:, 0].reshape(num_classes, len(costs)), int(found[:, 1].sum())


def liblinear_scores(
    features: Float[ndarray, "n d"],
    labels: Int[ndarray, "n c"],
    costs: Sequence[float],
    test_features: Float[ndarray, "m d"],
    *,
    seed: int,
    workers: int,
    advance: Callable[[int], object],
) -> tuple[Float[ndarray, "m c"], int]:
    """Scores of the test images by SVMs of all training images, one cost a class; otherwise as above."""
    calls = [(features, labels[:, c], costs[c], seed, test_features) for c in range(labels.shape[1])]
    found = _in_processes(_fit_and_score, calls, workers, lambda: advance(1))
    return np.stack([scores for scores, _ in found], axis=1), sum(unconverged for _, unconverged in found)


def _in_processes(task: Any, calls: Iterable[tuple], workers: int, advance: Callable[[], object]) -> list[Any]:
    """Results in the order of the calls; large arrays are memory-mapped by joblib, once."""
    from joblib import Parallel, delayed

    results = []
    for result in Parallel(n_jobs=max(1, workers), backend="loky", return_as="generator")(
        delayed(task)(*call) for call in calls
    ):
        results.append(result)
        advance()
    return results


def _cross_validate(features: ndarray, labels: ndarray, folds: ndarray, cost: float, seed: int) -> tuple[float, int]:
    """Mean AP over the folds, and how many of the fits did not converge."""
    aps, num_unconverged = [], 0
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        kept_labels = np.where(held_out, 0, labels)
        scores, unconverged = _fit_and_score(features, kept_labels, cost, seed, features[held_out])
        aps.append(step_average_precision(scores, labels[held_out]))
        num_unconverged += unconverged
    return float(np.mean(aps)), num_unconverged


def _fit_and_score(
    features: ndarray, labels: ndarray, cost: float, seed: int, test_features: ndarray
) -> tuple[ndarray, int]:
    """Scores of the test images, and 1 if the fit did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC
    from threadpoolctl import threadpool_limits

    svm = LinearSVC(
        C=cost,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=MAX_ITERATIONS,
        class_weight={1: 2, -1: 1},
        random_state=seed,
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm.fit(features[labels != 0], labels[labels != 0])
        return svm.decision_function(test_features), int(svm.n_iter_ >= MAX_ITERATIONS)
