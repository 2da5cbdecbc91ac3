"""The VOC07 protocol: one linear SVM a class on frozen features, its cost chosen by cross-validation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from orl.evaluation.average_precision import average_precision, mean_average_precision, step_average_precision
from orl.evaluation.features import unit_rows
from orl.evaluation.liblinear import liblinear_fold_aps, liblinear_scores
from orl.evaluation.newton_svm import Rows, find_rotation, fit_squared_hinge
from orl.progress import progress_bar

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
NUM_FOLDS = 3
EPSILON = 1e-5
POSITIVE_WEIGHT = 2.0
"""What an image of the class counts for, and one without the class 1."""

Solver = Literal["batched", "liblinear"]


@dataclass(frozen=True, kw_only=True)
class SvmResult:
    """How well linear SVMs tell the classes apart."""

    per_class_ap: dict[str, float]
    """Average precision on the test images."""
    costs: dict[str, float]
    """The cost chosen for each class."""
    cross_validated_ap: dict[str, float]
    """Mean over the folds of the training images at the chosen cost (scikit-learn's AP)."""
    skipped: dict[str, str]
    """Classes that could not be scored, with the reason."""
    solver: Solver
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


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """What either solver leaves."""

    fold_ap: Float[ndarray, "c k"]
    scores: Float[ndarray, "m c"]
    num_unconverged: int


def score_svm(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n c"],
    test_features: Float[ndarray, "m d"],
    test_labels: Int[ndarray, "m c"],
    classes: tuple[str, ...],
    *,
    solver: Solver = "batched",
    workers: int = 1,
    seed: int = 0,
    quiet: bool = False,
    costs: Sequence[float] = COSTS,
) -> SvmResult:
    """Fit a linear SVM for every class and score it on the test images.

    The cost of a class is the first with the highest AP in 3-fold cross-validation (folds stratified, in the
    images' order) on the training images. There AP is scikit-learn's, which does not interpolate, as in the
    published code; on the test images it is `average_precision`. Images with label 0 are left out of the class,
    in training too, where the published code takes them for negatives.

    Args:
        train_features: one row an image, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored.
        test_features: as `train_features`.
        test_labels: as `train_labels`.
        classes: names of the columns of the labels.
        solver: 'batched' fits all classes and folds at once, with torch's threads; 'liblinear' one by one, as
            published, and is what 'batched' is checked against.
        workers: processes of LIBLINEAR; the result does not depend on it.
        seed: of LIBLINEAR's order of coordinates; 'batched' draws nothing.
        quiet: show no progress bar.
        costs: what to choose from.

    Raises:
        ValueError: if a feature is not finite or no class can be scored.

    Source:
        Fair self-supervision benchmark (arXiv 1905.01235), `train_svm_kfold.py` and `test_svm.py`.
    """
    started = time.perf_counter()
    train_features, test_features = unit_rows(train_features, EPSILON), unit_rows(test_features, EPSILON)
    skipped = unusable_classes(train_labels, test_labels, classes)
    kept = [index for index, name in enumerate(classes) if name not in skipped]
    num_fits = len(kept) * (len(costs) * NUM_FOLDS + 1)
    labels = train_labels[:, kept]
    with progress_bar(total=num_fits, title="linear SVMs", unit="fits", quiet=quiet) as bar:
        if solver == "batched":
            fitted = _fit_batched(train_features, labels, test_features, costs, bar.update)
        else:
            fitted = _fit_liblinear(train_features, labels, test_features, costs, seed, workers, bar.update)
    names = [classes[index] for index in kept]
    return SvmResult(
        per_class_ap={
            name: average_precision(scores, test_labels[:, index])
            for name, index, scores in zip(names, kept, fitted.scores.T)
        },
        costs={name: float(costs[choice]) for name, choice in zip(names, _best(fitted.fold_ap))},
        cross_validated_ap=dict(zip(names, fitted.fold_ap.max(axis=1).tolist())),
        skipped=skipped,
        solver=solver,
        num_train=len(train_labels),
        num_test=len(test_labels),
        num_fits=num_fits,
        num_unconverged=fitted.num_unconverged,
        seed=seed,
        elapsed_s=time.perf_counter() - started,
    )


def unusable_classes(
    train_labels: Int[ndarray, "n c"], test_labels: Int[ndarray, "m c"], classes: tuple[str, ...]
) -> dict[str, str]:
    """Classes that have no SVM, with the reason: too few images for every fold, or none to be found.

    Raises:
        ValueError: if that is so of all classes.
    """
    reasons = {}
    for index, name in enumerate(classes):
        num_positive, num_negative = ((train_labels[:, index] == sign).sum() for sign in (1, -1))
        if min(num_positive, num_negative) < NUM_FOLDS:
            reasons[name] = f"{num_positive} positive, {num_negative} negative training images, fewer than {NUM_FOLDS}"
        elif not (test_labels[:, index] == 1).any():
            reasons[name] = "no positive test image"
    if len(reasons) == len(classes):
        raise ValueError(f"none of {len(classes)} classes can be scored: {dict(list(reasons.items())[:3])}")
    return reasons


def assign_folds(labels: Int[ndarray, "n c"]) -> Int[ndarray, "n c"]:
    """In which fold an image is held out, for every class; -1 where its label is 0."""
    from sklearn.model_selection import StratifiedKFold

    folds = np.full(labels.shape, -1)
    for index in range(labels.shape[1]):
        known = np.flatnonzero(labels[:, index])
        for fold, (_, held_out) in enumerate(StratifiedKFold(NUM_FOLDS).split(known, labels[known, index])):
            folds[known[held_out], index] = fold
    return folds


def _best(fold_ap: Float[ndarray, "c k"]) -> Int[ndarray, "c"]:
    return fold_ap.argmax(axis=1)


def _fit_liblinear(
    train: Float[ndarray, "n d"],
    labels: Int[ndarray, "n c"],
    test: Float[ndarray, "m d"],
    costs: Sequence[float],
    seed: int,
    workers: int,
    advance: Callable[[int], object],
) -> _Fitted:
    folds = assign_folds(labels)
    fold_ap, unconverged = liblinear_fold_aps(train, labels, folds, costs, seed=seed, workers=workers, advance=advance)
    chosen = [costs[choice] for choice in _best(fold_ap)]
    scores, more = liblinear_scores(train, labels, chosen, test, seed=seed, workers=workers, advance=advance)
    return _Fitted(fold_ap=fold_ap, scores=scores, num_unconverged=unconverged + more)


def _fit_batched(
    train: Float[ndarray, "n d"],
    labels: Int[ndarray, "n c"],
    test: Float[ndarray, "m d"],
    costs: Sequence[float],
    advance: Callable[[int], object],
) -> _Fitted:
    known = (labels != 0).any(axis=1)
    train, labels = train[known], labels[known]
    rotation = find_rotation(train)
    rows = rotation.rows(train)
    fold_ap, unconverged = _batched_fold_aps(rows, labels, costs, advance)
    chosen = torch.tensor([costs[choice] for choice in _best(fold_ap)], dtype=torch.float64)
    signs = torch.from_numpy(labels).to(rows.exact)
    fits = fit_squared_hinge(rows, signs, unit_penalties(signs) * chosen)
    advance(len(chosen))
    scores = (rotation.rows(test).exact @ fits.weights).cpu().numpy()
    return _Fitted(fold_ap=fold_ap, scores=scores, num_unconverged=unconverged + int((~fits.converged).sum()))


def _batched_fold_aps(
    rows: Rows, labels: Int[ndarray, "n c"], costs: Sequence[float], advance: Callable[[int], object]
) -> tuple[Float[ndarray, "c k"], int]:
    folds = assign_folds(labels)
    signs = torch.from_numpy(labels).to(rows.exact).repeat(1, NUM_FOLDS)
    trained = torch.from_numpy(np.concatenate([folds != fold for fold in range(NUM_FOLDS)], axis=1)).to(rows.exact)
    fits, num_unconverged = None, 0
    aps = np.empty((NUM_FOLDS, labels.shape[1], len(costs)))
    # From small to large costs, each fit starts where the one before ended.
    for cost_id in np.argsort(costs, kind="stable"):
        fits = fit_squared_hinge(rows, signs, unit_penalties(signs) * trained * costs[cost_id], fits)
        num_unconverged += int((~fits.converged).sum())
        scores = fits.scores.cpu().numpy().reshape(len(labels), NUM_FOLDS, -1)
        for fold, index in np.ndindex(aps.shape[:2]):
            held_out = folds[:, index] == fold
            aps[fold, index, cost_id] = step_average_precision(scores[held_out, fold, index], labels[held_out, index])
        advance(aps.shape[0] * aps.shape[1])
    return aps.mean(axis=0), num_unconverged


def unit_penalties(signs: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """What squared loss costs at C = 1: LIBLINEAR counts loss fully, `fit_squared_hinge` by half."""
    return 2 * torch.where(signs > 0, POSITIVE_WEIGHT, torch.where(signs < 0, 1.0, 0.0)).to(signs)
