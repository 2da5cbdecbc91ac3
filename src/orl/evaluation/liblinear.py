"""Linear SVMs fitted by LIBLINEAR as in the published scripts: one fit per class, cost and fold."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl.evaluation.average_precision import step_average_precision

MAX_ITER = 2000


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
    """Compute the mean AP over the folds, for every class and cost.

    Args:
        features: of the training images, scaled as the SVM uses them.
        labels: 1, -1, or 0 for an image that is left out.
        folds: number of the fold that validates an image, for every class.
        costs: values of C to try.
        seed: seed of LIBLINEAR's order of coordinates.
        workers: processes.
        advance: callback that gets the number of new fits.

    Returns:
        The mean APs, and the number of fits that were stopped by the limit on iterations.
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
    """Compute the scores of the test images by SVMs fitted on all training images, with one cost per class.

    The other arguments are those of `liblinear_fold_aps`.
    """
    calls = [(features, labels[:, c], costs[c], seed, test_features) for c in range(labels.shape[1])]
    found = _in_processes(_fit_and_score, calls, workers, lambda: advance(1))
    return np.stack([scores for scores, _ in found], axis=1), sum(unconverged for _, unconverged in found)


def _in_processes(task: Any, calls: Iterable[tuple], workers: int, advance: Callable[[], object]) -> list[Any]:
    """Return results in the order of the calls; joblib memory-maps large arrays once."""
    from joblib import Parallel, delayed

    results = []
    for result in Parallel(n_jobs=max(1, workers), backend="loky", return_as="generator")(
        delayed(task)(*call) for call in calls
    ):
        results.append(result)
        advance()
    return results


def _cross_validate(features: ndarray, labels: ndarray, folds: ndarray, cost: float, seed: int) -> tuple[float, int]:
    """Return the mean AP over the folds, and the number of fits that did not converge."""
    aps, num_unconverged = [], 0
    for fold in range(folds.max() + 1):
        is_validation = folds == fold
        train_labels = np.where(is_validation, 0, labels)
        scores, unconverged = _fit_and_score(features, train_labels, cost, seed, features[is_validation])
        aps.append(step_average_precision(scores, labels[is_validation]))
        num_unconverged += unconverged
    return float(np.mean(aps)), num_unconverged


def _fit_and_score(
    features: ndarray, labels: ndarray, cost: float, seed: int, test_features: ndarray
) -> tuple[ndarray, int]:
    """Return scores of the test images, and 1 if the fit did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC
    from threadpoolctl import threadpool_limits

    svm = LinearSVC(
        C=cost,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=MAX_ITER,
        class_weight={1: 2, -1: 1},
        random_state=seed,
    )
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm.fit(features[labels != 0], labels[labels != 0])
        return svm.decision_function(test_features), int(svm.n_iter_ >= MAX_ITER)
