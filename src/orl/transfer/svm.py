"""The VOC07 protocol: one linear SVM a class on frozen features, its cost chosen by cross-validation."""

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from orl.progress import progress_bar
from orl.transfer.features import unit_rows
from orl.transfer.scores import average_precision, mean_average_precision

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
NUM_FOLDS = 3
MAX_ITERATIONS = 2000
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class SvmResult:
    """How well linear SVMs tell the classes apart."""

    per_class_ap: dict[str, float]
    """Average precision on the test photos."""
    costs: dict[str, float]
    """The cost chosen for each class."""
    cross_validated_ap: dict[str, float]
    """Mean over the folds of the training photos at the chosen cost (scikit-learn's AP)."""
    skipped: dict[str, str]
    """Classes that could not be scored, with the reason."""
    num_train: int
    num_test: int
    num_fits: int
    """SVMs fitted in all."""
    num_unconverged: int
    """Of those, stopped by the limit on iterations."""
    seed: int
    elapsed_s: float

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that could be scored."""
        return mean_average_precision(self.per_class_ap)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"task": "svm", "mean_ap": self.mean_ap, **asdict(self)}


def score_svm(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n c"],
    test_features: Float[ndarray, "m d"],
    test_labels: Int[ndarray, "m c"],
    classes: tuple[str, ...],
    *,
    workers: int = 1,
    seed: int = 0,
    quiet: bool = False,
    costs: Sequence[float] = COSTS,
) -> SvmResult:
    """Fit a linear SVM for every class and score it on the test photos.

    The cost of a class is the first with the highest AP in 3-fold cross-validation (folds stratified, in the
    photos' order) on the training photos. There AP is scikit-learn's, which does not interpolate, as in the
    published code; on the test photos it is `average_precision`. Photos with label 0 are left out of the class,
    in training too, where the published code takes them for negatives.

    Args:
        train_features: one row a photo, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored.
        test_features: as `train_features`.
        test_labels: as `train_labels`.
        classes: names of the columns of the labels.
        workers: processes; the result does not depend on it.
        seed: of LIBLINEAR's order of coordinates.
        quiet: show no progress bar.
        costs: what to choose from.

    Raises:
        ValueError: if a feature is not finite or no class can be scored.

    Source:
        Fair self-supervision benchmark (arXiv 1905.01235), `train_svm_kfold.py` and `test_svm.py`.
    """
    started = time.perf_counter()
    train_features, test_features = unit_rows(train_features, EPSILON), unit_rows(test_features, EPSILON)
    skipped = _unusable_classes(train_labels, test_labels, classes)
    kept = [index for index, name in enumerate(classes) if name not in skipped]
    if not kept:
        raise ValueError(f"none of {len(classes)} classes can be scored: {dict(list(skipped.items())[:3])}")
    num_fits = len(kept) * (len(costs) * NUM_FOLDS + 1)
    with progress_bar(total=num_fits, title="linear SVMs", unit="fits", quiet=quiet) as bar:
        choices = [(train_features, train_labels[:, index], cost, seed) for index in kept for cost in costs]
        validated = np.array(_in_processes(_cross_validate, choices, workers, bar, NUM_FOLDS))
        fold_ap = validated[:, 0].reshape(len(kept), len(costs))
        best = fold_ap.argmax(axis=1)
        finals = [
            (
                train_features,
                train_labels[:, index],
                test_features,
                test_labels[:, index],
                costs[choice],
                seed,
            )
            for index, choice in zip(kept, best)
        ]
        final = np.array(_in_processes(_fit_and_test, finals, workers, bar, 1))
    names = [classes[index] for index in kept]
    return SvmResult(
        per_class_ap=dict(zip(names, final[:, 0].tolist())),
        costs={name: float(costs[choice]) for name, choice in zip(names, best)},
        cross_validated_ap=dict(zip(names, fold_ap.max(axis=1).tolist())),
        skipped=skipped,
        num_train=len(train_labels),
        num_test=len(test_labels),
        num_fits=num_fits,
        num_unconverged=int(validated[:, 1].sum() + final[:, 1].sum()),
        seed=seed,
        elapsed_s=time.perf_counter() - started,
    )


def _unusable_classes(
    train_labels: Int[ndarray, "n c"], test_labels: Int[ndarray, "m c"], classes: tuple[str, ...]
) -> dict[str, str]:
    reasons = {}
    for index, name in enumerate(classes):
        num_positive, num_negative = ((train_labels[:, index] == sign).sum() for sign in (1, -1))
        if min(num_positive, num_negative) < NUM_FOLDS:
            reasons[name] = f"{num_positive} positive, {num_negative} negative training photos, fewer than {NUM_FOLDS}"
        elif not (test_labels[:, index] == 1).any():
            reasons[name] = "no positive test photo"
    return reasons


def _in_processes(task: Any, arguments: Iterable[tuple], workers: int, bar: Any, fits_each: int) -> list[Any]:
    """Results in the order of the arguments; large arrays are memory-mapped by joblib, once."""
    from joblib import Parallel, delayed

    results = []
    calls = (delayed(task)(*each) for each in arguments)
    for result in Parallel(n_jobs=max(1, workers), backend="loky", return_as="generator")(calls):
        results.append(result)
        bar.update(fits_each)
    return results


def _linear_svm(cost: float, seed: int) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(
        C=cost,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=MAX_ITERATIONS,
        class_weight={1: 2, -1: 1},
        random_state=seed,
    )


def _cross_validate(features: ndarray, labels: ndarray, cost: float, seed: int) -> tuple[float, int]:
    """Mean AP over the folds, and how many of the fits did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_validate
    from threadpoolctl import threadpool_limits

    known = labels != 0
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        folds = cross_validate(
            _linear_svm(cost, seed),
            features[known],
            labels[known],
            cv=StratifiedKFold(NUM_FOLDS),
            scoring="average_precision",
            return_estimator=True,
            error_score="raise",
        )
    return float(folds["test_score"].mean()), sum(svm.n_iter_ >= MAX_ITERATIONS for svm in folds["estimator"])


def _fit_and_test(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    cost: float,
    seed: int,
) -> tuple[float, int]:
    """AP on the test photos, and 1 if the fit did not converge."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    known = train_labels != 0
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        svm = _linear_svm(cost, seed).fit(train_features[known], train_labels[known])
        scores = svm.decision_function(test_features)
    return average_precision(scores, test_labels), int(svm.n_iter_ >= MAX_ITERATIONS)
