"""VOC07 by linear SVMs: one per class on frozen features, its cost chosen by cross-validation."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl.config import EvaluationConfig, FeatureKind
from orl.evaluation.arrays import Array, check_same_length, feature_matrix, label_columns, unit_rows
from orl.evaluation.average_precision import average_precision, mean_average_precision, step_average_precision
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.liblinear import liblinear_fold_aps, liblinear_scores
from orl.evaluation.newton_svm import class_weights, fit_eigenbasis, fit_svms
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.pooling import feature_deviations, feature_kind, file_stem
from orl.evaluation.protocol import Evaluation, Result, Tables
from orl.evaluation.voc07 import describe_result, embed_voc07, result_inputs, voc07_entries
from orl.evaluation.voc_dataset import LabelledImages, VocDataset
from orl.processes import Processes
from orl.progress import progress_bar

COSTS = (1.0, 10.0, 100.0, *(0.5**power for power in range(4, 20)))
"""Values of C to choose from, in the order of the published code; the first of equally good values is taken."""
NUM_FOLDS = 3
EPSILON = 1e-5
"""Number added to the length of the features before they are divided by it."""

Solver = Literal["batched", "liblinear"]


@dataclass(frozen=True, kw_only=True)
class SvmConfig:
    """One linear SVM per class, its cost chosen by cross-validation."""

    solver: Solver = "batched"
    """Solver: our Newton method, which fits all classes, folds and costs at once, or LIBLINEAR, the reference."""
    features: FeatureKind = "feat5"
    """Features: feat5, 2 x 2 averages of the last feature map of ResNet-50 as published, or pooled, its mean."""


@dataclass(frozen=True, kw_only=True)
class SvmResult:
    """Average precision of linear SVMs on the test images."""

    per_class_ap: dict[str, float]
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
    """Total number of fitted SVMs."""
    num_unconverged: int
    """Fits that were stopped by the limit on iterations."""
    seed: int
    elapsed_s: float

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that could be scored."""
        return mean_average_precision(self.per_class_ap)

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {"task": "svm", "mean_ap": self.mean_ap, **asdict(self)}


def check(data: VocDataset, config: SvmConfig) -> None:
    """Read the labels and check that some class has enough images for every fold."""
    _unscored_classes(*data.listed)


def run(
    backbone: EvaluatedBackbone, data: VocDataset, config: SvmConfig, output: EvaluationOutput, processes: Processes
) -> Result:
    """Score a backbone by linear SVMs on its features, and write the result."""
    check(data, config)
    # Only LIBLINEAR samples: the order in which it visits the images.
    inputs = result_inputs(backbone, data, config, seed=output.seed if config.solver == "liblinear" else None)
    if (result := finished(output, inputs)) is not None:
        return result
    features = embed_voc07(backbone, data, output, config.features, _unscored_classes)
    score = score_svm(
        *features.arrays,
        features.train.classes,
        solver=config.solver,
        workers=output.workers,
        seed=output.seed,
        quiet=output.quiet,
    )
    deviations = feature_deviations(config.features)
    return write_result(output, describe_result(score.to_json(), backbone, features, deviations), inputs)


def _unscored_classes(train: LabelledImages, test: LabelledImages) -> dict[str, str]:
    return unusable_classes(train.labels, test.labels, train.classes)


def score_svm(
    X_train: Array,
    y_train: Array,
    X_test: Array,
    y_test: Array,
    classes: Sequence[str] | None = None,
    *,
    solver: Solver = "batched",
    workers: int = 1,
    seed: int = 0,
    quiet: bool = True,
    costs: Sequence[float] = COSTS,
) -> SvmResult:
    """Score features by the VOC07 protocol: fit a linear SVM per class, and rank the test images by it.

    The cost of a class is the first with the highest AP in 3-fold cross-validation on the training images. Folds are
    stratified, in the images' order. Cross-validation uses scikit-learn's AP, which does not interpolate, as in the
    published code. The test images are scored by `average_precision`. Images with label 0 are left out of the class. In
    training the published code takes them for negatives.

    Args:
        X_train: features of the training images, `(images, features)`; they are scaled to unit length here.
        y_train: labels, `(images, classes)` of 1 present, -1 absent and 0 ignored, or of 1 present and 0 absent; or
            `(images,)` of one class or of class ids (`orl.evaluation.arrays.label_columns`).
        X_test: features of the test images.
        y_test: labels of the test images, in the same form.
        classes: name of each class; its column or id if not given.
        solver: 'batched' fits all classes and folds at once, with torch's threads; 'liblinear' one by one, as
            published; it is the reference for 'batched'.
        workers: processes of LIBLINEAR; the result does not depend on it.
        seed: seed of LIBLINEAR's order of coordinates; 'batched' samples nothing.
        quiet: show no progress bar.
        costs: values of C to choose from.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> y = np.arange(60) % 2
        >>> X = generator.normal(size=(60, 4)) + 3 * y[:, None]
        >>> score_svm(X[:30], y[:30], X[30:], y[30:]).mean_ap
        1.0

    Raises:
        ValueError: if shapes or values of features and labels do not fit, or no class can be scored.

    Source:
        Fair self-supervision benchmark (arXiv 1905.01235), `train_svm_kfold.py` and `test_svm.py`.
    """
    started = time.perf_counter()
    train, test = feature_matrix(X_train, "X_train"), feature_matrix(X_test, "X_test")
    (train_labels, test_labels), names = label_columns(y_train, y_test)
    check_same_length(train, train_labels, "_train")
    check_same_length(test, test_labels, "_test")
    if train.shape[1] != test.shape[1]:
        raise ValueError(f"X_train has {train.shape[1]} features and X_test has {test.shape[1]}; give the same ones")
    if classes is not None and len(classes) != len(names):
        raise ValueError(f"{len(classes)} names of classes do not fit labels of {len(names)} classes")
    names = names if classes is None else tuple(classes)
    train, test = unit_rows(train, EPSILON), unit_rows(test, EPSILON)
    skipped = unusable_classes(train_labels, test_labels, names)
    scored = [index for index, name in enumerate(names) if name not in skipped]
    num_fits = len(scored) * (len(costs) * NUM_FOLDS + 1)
    labels = train_labels[:, scored]
    with progress_bar(total=num_fits, title="linear SVMs", unit="fits", quiet=quiet) as bar:
        if solver == "batched":
            fitted = _fit_batched(train, labels, test, costs, bar.update)
        else:
            fitted = _fit_liblinear(train, labels, test, costs, seed, workers, bar.update)
    scored_names = [names[index] for index in scored]
    return SvmResult(
        per_class_ap={
            name: average_precision(scores, test_labels[:, index])
            for name, index, scores in zip(scored_names, scored, fitted.test_scores.T)
        },
        costs={name: float(costs[choice]) for name, choice in zip(scored_names, _choose_costs(fitted.fold_ap))},
        cross_validated_ap=dict(zip(scored_names, fitted.fold_ap.max(axis=1).tolist())),
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
    """Return the classes that cannot be scored, with the reason: too few images for every fold, or no positive one.

    Raises:
        ValueError: if no class can be scored.
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
    """Return the fold that validates each image, for every class; -1 where the label is 0."""
    from sklearn.model_selection import StratifiedKFold

    folds = np.full(labels.shape, -1)
    for index in range(labels.shape[1]):
        known = np.flatnonzero(labels[:, index])
        for fold, (_, validation) in enumerate(StratifiedKFold(NUM_FOLDS).split(known, labels[known, index])):
            folds[known[validation], index] = fold
    return folds


def mean_fold_ap(
    scores: Float[ndarray, "n fc"], labels: Int[ndarray, "n c"], folds: Int[ndarray, "n c"]
) -> Float[ndarray, "c"]:
    """Compute the mean over the folds of scikit-learn's AP, on the images that each fold validates.

    Args:
        scores: of SVMs that were trained without one fold each: all classes of fold 0, then of fold 1, and so on.
        labels: 1 positive, -1 negative, 0 ignored.
        folds: the fold that validates each image, from `assign_folds`.
    """
    aps = np.empty((NUM_FOLDS, labels.shape[1]))
    for fold, index in np.ndindex(aps.shape):
        is_validation = folds[:, index] == fold
        column = scores[is_validation, fold * labels.shape[1] + index]
        aps[fold, index] = step_average_precision(column, labels[is_validation, index])
    return aps.mean(axis=0)


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """Outcome of either solver."""

    fold_ap: Float[ndarray, "c k"]
    """Mean AP over the folds, by class and cost."""
    test_scores: Float[ndarray, "m c"]
    num_unconverged: int


def _choose_costs(fold_ap: Float[ndarray, "c k"]) -> Int[ndarray, "c"]:
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
    chosen = [costs[choice] for choice in _choose_costs(fold_ap)]
    scores, more = liblinear_scores(train, labels, chosen, test, seed=seed, workers=workers, advance=advance)
    return _Fitted(fold_ap=fold_ap, test_scores=scores, num_unconverged=unconverged + more)


def _fit_batched(
    train: Float[ndarray, "n d"],
    labels: Int[ndarray, "n c"],
    test: Float[ndarray, "m d"],
    costs: Sequence[float],
    advance: Callable[[int], object],
) -> _Fitted:
    known = (labels != 0).any(axis=1)
    train, labels = train[known], labels[known]
    eigenbasis = fit_eigenbasis(train)
    y = torch.from_numpy(labels).double()
    folds = assign_folds(labels)
    is_trained = torch.from_numpy(np.concatenate([folds != fold for fold in range(NUM_FOLDS)], axis=1)).double()
    fold_y = y.repeat(1, NUM_FOLDS)
    fold_weights = class_weights(fold_y) * is_trained
    fold_ap = np.empty((labels.shape[1], len(costs)))
    fits, num_unconverged = None, 0
    # From small to large costs, each fit starts where the one before ended.
    for cost_id in np.argsort(costs, kind="stable"):
        fits = fit_svms(eigenbasis.train, fold_y, fold_weights * costs[cost_id], fits)
        num_unconverged += int((~fits.converged).sum())
        fold_ap[:, cost_id] = mean_fold_ap(fits.scores.numpy(), labels, folds)
        advance(fold_y.shape[1])
    chosen = torch.tensor([costs[choice] for choice in _choose_costs(fold_ap)], dtype=torch.float64)
    fits = fit_svms(eigenbasis.train, y, class_weights(y) * chosen)
    advance(len(chosen))
    return _Fitted(
        fold_ap=fold_ap,
        test_scores=eigenbasis.scores(test, fits.coef).numpy(),
        num_unconverged=num_unconverged + int((~fits.converged).sum()),
    )


def _tables(result: Result) -> Tables:
    return {f"VOC07 SVM, {feature_kind(result)}": {"mAP": result["mean_ap"]}}


def _run_config(config: EvaluationConfig) -> SvmConfig:
    return SvmConfig(features=config.features)


SVM = Evaluation(
    name="svm",
    label="Linear SVM",
    help="VOC07: one linear SVM per class on frozen features, its cost by 3-fold cross-validation; mean AP on test.",
    data=VocDataset,
    config=SvmConfig,
    check=check,
    run=run,
    tables=_tables,
    one_process=True,
    file_stem=lambda config: file_stem("svm", config.features),
    suite_entries=partial(voc07_entries, "svm"),
    run_config=_run_config,
)
