"""The VOC07 protocol with few images of each class: linear SVMs on small random samples of the training images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl.evaluation.average_precision import average_precision, step_average_precision, unseen_classes
from orl.evaluation.configs import SHOTS
from orl.evaluation.features import unit_rows
from orl.evaluation.newton_svm import Rows, find_rotation, fit_squared_hinge
from orl.evaluation.svm import COSTS, EPSILON, NUM_FOLDS, assign_folds, unit_penalties
from orl.progress import progress_bar

FIXED_COST = 1.0
"""Where a sample has too few images of a class for cross-validation."""


@dataclass(frozen=True, kw_only=True)
class LowShotResult:
    """How well linear SVMs tell the classes apart that saw few images of each; by the number of shots."""

    mean_ap: dict[str, float]
    """Mean over samples and classes; a sample's cost is chosen on itself, without test labels."""
    std: dict[str, float]
    """Standard deviation over the samples of the mean over classes."""
    costs: dict[str, list[float]]
    """The cost chosen for each sample, one for all classes: by cross-validation, or else the fixed one."""
    mean_ap_best_cost_on_test: dict[str, float]
    """As published: at the cost that turns out to be the best on the test images."""
    std_best_cost_on_test: dict[str, float]
    best_cost_on_test: dict[str, float]
    """One for all classes and samples."""
    per_class_ap: dict[str, dict[str, float]]
    """Mean over the samples, at the costs chosen without test labels."""
    per_class_ap_best_cost_on_test: dict[str, dict[str, float]]
    skipped: dict[str, str]
    """Classes that could not be scored, with the reason; their images may be negatives of the others."""
    shots: list[int]
    num_samples: int
    seed: int
    fixed_cost: float
    num_train: int
    num_test: int
    num_fits: int
    num_unconverged: int
    """Of the fits, stopped by the limit on iterations."""
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return {"task": "low-shot", **asdict(self)}


def score_low_shot(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n c"],
    test_features: Float[ndarray, "m d"],
    test_labels: Int[ndarray, "m c"],
    classes: tuple[str, ...],
    *,
    shots: Sequence[int] = SHOTS,
    num_samples: int = 5,
    seed: int = 0,
    costs: Sequence[float] = COSTS,
    quiet: bool = False,
) -> LowShotResult:
    """Fit SVMs on samples of k images with each class and (classes - 1) * k without, and score all test images.

    The published code reports the cost that is best on the test images. That is kept, under a name that says so;
    beside it stands the score at a cost that test labels had no part in: of each sample the first cost with the
    highest AP, mean over classes and 3 folds of the sample, and C = 1 where k is less than 3.

    Args:
        train_features: one row an image, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored: such an image is never drawn for that class.
        test_features: as `train_features`.
        test_labels: as `train_labels`.
        classes: names of the columns of the labels.
        shots: values of k.
        num_samples: independent samples for every k.
        seed: of the samples.
        costs: what to choose from.
        quiet: show no progress bar.

    Raises:
        ValueError: as `check_shots`, and if a feature is not finite or no class has a positive test image.

    Source:
        Fair self-supervision benchmark (arXiv 1905.01235): `train_svm_low_shot.py`, `test_svm_low_shot.py` and
        `aggregate_low_shot_svm_stats.py`.
    """
    started = time.perf_counter()
    check_shots(train_labels, classes, shots, num_samples)
    skipped = unseen_classes(test_labels, classes)
    kept = [index for index, name in enumerate(classes) if name not in skipped]
    train_features, test_features = unit_rows(train_features, EPSILON), unit_rows(test_features, EPSILON)
    rotation = find_rotation(train_features)
    rows, test_rows = rotation.rows(train_features), rotation.rows(test_features)
    num_fits = sum(num_samples * len(kept) * len(costs) * (NUM_FOLDS if k >= NUM_FOLDS else 0) for k in shots)
    num_fits += len(shots) * num_samples * len(kept) * len(costs)
    found = []
    with progress_bar(total=num_fits, title="low-shot SVMs", unit="fits", quiet=quiet) as bar:
        for k in shots:
            samples = draw_samples(train_labels, k, num_samples, seed)[:, :, kept]
            found.append(_score_samples(rows, samples, test_rows, test_labels[:, kept], costs, k, bar.update))
    summary = _summary(found, shots, [classes[index] for index in kept], costs)
    return LowShotResult(
        **summary,
        skipped=skipped,
        shots=list(shots),
        num_samples=num_samples,
        seed=seed,
        fixed_cost=fixed_cost(costs),
        num_train=len(train_labels),
        num_test=len(test_labels),
        num_fits=num_fits,
        num_unconverged=sum(each.num_unconverged for each in found),
        elapsed_s=time.perf_counter() - started,
    )


def check_shots(
    labels: Int[ndarray, "n c"], classes: tuple[str, ...], shots: Sequence[int], num_samples: int = 1
) -> None:
    """Refuse samples that the training images do not allow, before anything long is done.

    Raises:
        ValueError: if there is one class only; there are no samples or shots, one of which is below 1 or given twice;
            or a class has too few images with or without it.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; give 1 or more")
    if len(classes) < 2:
        raise ValueError(
            f"the only class is {', '.join(classes) or 'none'}: k images of each class are drawn, and as many of all "
            "others as negatives; give a set of two classes or more"
        )
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise ValueError(f"shots are {list(shots)}; give whole numbers from 1, each once")
    for index, name in enumerate(classes):
        for sign, needed, kind in ((1, max(shots), "with"), (-1, (len(classes) - 1) * max(shots), "without")):
            found = int((labels[:, index] == sign).sum())
            if found < needed:
                most = found if sign == 1 else found // (len(classes) - 1)
                raise ValueError(
                    f"{max(shots)} shots need {needed} training images {kind} {name!r}, but there are {found}; "
                    f"give --shots of at most {most}"
                )


def draw_samples(labels: Int[ndarray, "n c"], k: int, num_samples: int, seed: int) -> Int[ndarray, "n s c"]:
    """Labels with all but k positives and (classes - 1) * k negatives of each class set to 0, independently.

    Samples for a larger k do not contain those for a smaller one, nor do two classes share images on purpose, as in
    the published `create_voc_low_shot_samples.py`. What is drawn depends on (seed, k, sample, class) alone.
    """
    num_classes = labels.shape[1]
    samples = np.zeros((len(labels), num_samples, num_classes), dtype=labels.dtype)
    for sample, index in np.ndindex(samples.shape[1:]):
        generator = np.random.default_rng([seed, k, sample, index])
        for sign, number in ((1, k), (-1, (num_classes - 1) * k)):
            images = np.flatnonzero(labels[:, index] == sign)
            samples[generator.choice(images, number, replace=False), sample, index] = sign
    return samples


def fixed_cost(costs: Sequence[float]) -> float:
    """The cost where nothing can be held out: 1, or of others the nearest in ratio."""
    return float(min(costs, key=lambda cost: abs(np.log(cost / FIXED_COST))))


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What is known of the samples of one k."""

    test_ap: Float[ndarray, "k s c"]
    """At every cost."""
    choices: Int[ndarray, "s"]
    """Costs chosen without test labels."""
    num_unconverged: int


def _score_samples(
    rows: Rows,
    samples: Int[ndarray, "n s c"],
    test_rows: Rows,
    test_labels: Int[ndarray, "m c"],
    costs: Sequence[float],
    k: int,
    advance: Callable[[int], object],
) -> _Scored:
    """Fit all samples, classes and folds at once, from small to large costs."""
    drawn = np.flatnonzero(samples.any(axis=(1, 2)))
    rows, labels = rows[torch.from_numpy(drawn).to(rows.exact.device)], samples[drawn].reshape(len(drawn), -1)
    validated = k >= NUM_FOLDS
    folds = assign_folds(labels) if validated else np.full(labels.shape, -1)
    # First the SVMs of whole samples, then those of each with one fold held out.
    parts = [labels, *(np.where(folds == fold, 0, labels) for fold in range(NUM_FOLDS if validated else 0))]
    signs = torch.from_numpy(np.concatenate(parts, axis=1)).to(rows.exact)
    num_problems = labels.shape[1]
    test_ap = np.empty((len(costs), num_problems))
    fold_ap = np.zeros((len(costs), num_problems))
    fits, num_unconverged = None, 0
    for cost_id in np.argsort(costs, kind="stable"):
        fits = fit_squared_hinge(rows, signs, unit_penalties(signs) * costs[cost_id], fits)
        num_unconverged += int((~fits.converged).sum())
        scores = (test_rows.exact @ fits.weights[:, :num_problems]).cpu().numpy()
        test_ap[cost_id] = [
            average_precision(column, test_labels[:, index % test_labels.shape[1]])
            for index, column in enumerate(scores.T)
        ]
        if validated:
            fold_ap[cost_id] = _mean_fold_aps(fits.scores[:, num_problems:].cpu().numpy(), labels, folds)
        advance(signs.shape[1])
    shape = (len(costs), *samples.shape[1:])
    choices = fold_ap.reshape(shape).mean(axis=2).argmax(axis=0)
    if not validated:
        choices = np.full(shape[1], list(costs).index(fixed_cost(costs)))
    return _Scored(test_ap=test_ap.reshape(shape), choices=choices, num_unconverged=num_unconverged)


def _mean_fold_aps(
    scores: Float[ndarray, "n fp"], labels: Int[ndarray, "n p"], folds: Int[ndarray, "n p"]
) -> Float[ndarray, "p"]:
    aps = np.empty((NUM_FOLDS, labels.shape[1]))
    for fold, index in np.ndindex(aps.shape):
        held_out = folds[:, index] == fold
        column = scores[held_out, fold * labels.shape[1] + index]
        aps[fold, index] = step_average_precision(column, labels[held_out, index])
    return aps.mean(axis=0)


def _summary(
    found: Sequence[_Scored], shots: Sequence[int], names: Sequence[str], costs: Sequence[float]
) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        name: {}
        for name in (
            *("mean_ap", "std", "costs", "per_class_ap", "best_cost_on_test"),
            *("mean_ap_best_cost_on_test", "std_best_cost_on_test", "per_class_ap_best_cost_on_test"),
        )
    }
    for k, scored in zip(map(str, shots), found):
        best = int(scored.test_ap.mean(axis=(1, 2)).argmax())
        chosen = scored.test_ap[scored.choices, np.arange(len(scored.choices))]
        fields["costs"][k] = [float(costs[choice]) for choice in scored.choices]
        fields["best_cost_on_test"][k] = float(costs[best])
        for suffix, ap in (("", chosen), ("_best_cost_on_test", scored.test_ap[best])):
            fields["mean_ap" + suffix][k] = float(ap.mean())
            fields["std" + suffix][k] = float(ap.mean(axis=1).std())
            fields["per_class_ap" + suffix][k] = dict(zip(names, ap.mean(axis=0).tolist()))
    return fields
