"""The VOC07 protocol with few images of each class: linear SVMs on small random samples of the training images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl.config import EvaluationConfig, FeatureKind, check_numbers
from orl.evaluation.arrays import unit_rows
from orl.evaluation.average_precision import average_precision, classes_without_positives
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.newton_svm import Projected, class_weights, fit_eigenbasis, fit_svms
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.pooling import feature_deviations, feature_kind, file_stem
from orl.evaluation.protocol import Evaluation, Result, Tables, config_deviations
from orl.evaluation.svm import COSTS, EPSILON, NUM_FOLDS, assign_folds, mean_fold_ap
from orl.evaluation.voc07 import describe_result, embed_voc07, result_inputs, voc07_entries
from orl.evaluation.voc_dataset import LabelledImages, VocDataset
from orl.processes import Processes
from orl.progress import progress_bar

SHOTS = (1, 2, 4, 8, 16, 32, 64, 96)
FIXED_COST = 1.0
"""Cost where a sample has too few images of a class for cross-validation."""


@dataclass(frozen=True, kw_only=True)
class LowShotConfig:
    """Linear SVMs from few images."""

    shots: tuple[int, ...] = SHOTS
    """Images of each class to train on."""
    num_samples: int = 5
    """Independent random samples of those images; scores are means over them."""
    features: FeatureKind = "feat5"
    """Features: feat5, 2 x 2 averages of the last feature map of ResNet-50 as published, or pooled, its mean."""

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass(frozen=True, kw_only=True)
class LowShotResult:
    """Average precision of linear SVMs trained on few images of each class, by the number of shots."""

    mean_ap: dict[str, float]
    """Mean over samples and classes; a sample's cost is chosen on itself, without test labels."""
    std: dict[str, float]
    """Standard deviation over the samples of the mean over classes."""
    costs: dict[str, list[float]]
    """The cost chosen for each sample, one for all classes: by cross-validation, or the fixed one."""
    mean_ap_best_cost_on_test: dict[str, float]
    """Mean at the cost that is best on the test images, as published."""
    std_best_cost_on_test: dict[str, float]
    best_cost_on_test: dict[str, float]
    """One cost for all classes and samples."""
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
    """Fits that were stopped by the limit on iterations."""
    elapsed_s: float

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {"task": "low-shot", **asdict(self)}


def check(data: VocDataset, config: LowShotConfig) -> None:
    """Read the labels and check that every class has enough images for the largest sample."""
    _unscored_classes(*data.listed, config)


def run(
    backbone: EvaluatedBackbone, data: VocDataset, config: LowShotConfig, output: EvaluationOutput, processes: Processes
) -> Result:
    """Score a backbone by linear SVMs trained on few images of each class, and write the result."""
    check(data, config)
    inputs = result_inputs(backbone, data, config, seed=output.seed)
    if (result := finished(output, inputs)) is not None:
        return result
    features = embed_voc07(backbone, data, output, config.features, partial(_unscored_classes, config=config))
    score = score_low_shot(
        *features.arrays,
        features.train.classes,
        shots=config.shots,
        num_samples=config.num_samples,
        seed=output.seed,
        quiet=output.quiet,
    )
    # Other shots are other columns.
    deviations = [
        *config_deviations(config, ignored=("shots", "features")),
        *feature_deviations(config.features),
    ]
    return write_result(output, describe_result(score.to_json(), backbone, features, deviations), inputs)


def _unscored_classes(train: LabelledImages, test: LabelledImages, config: LowShotConfig) -> dict[str, str]:
    check_shots(train.labels, train.classes, config.shots, config.num_samples)
    return classes_without_positives(test.labels, train.classes)


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

    The published code reports the score at the cost that is best on the test images: `mean_ap_best_cost_on_test`.
    `mean_ap` is the score at a cost chosen without test labels. That cost is the first with the highest AP, a mean over
    the classes and 3 folds of each sample. Where k is less than 3, it is C = 1.

    Args:
        train_features: one row per image, as embedded.
        train_labels: 1 present, -1 absent, 0 ignored: such an image is never sampled for that class.
        test_features: one row per image, as embedded.
        test_labels: 1 present, -1 absent, 0 ignored.
        classes: names of the columns of the labels.
        shots: values of k.
        num_samples: independent samples for every k.
        seed: seed of the samples.
        costs: values of C to choose from.
        quiet: show no progress bar.

    Raises:
        ValueError: if `check_shots` refuses the labels, a feature is not finite or no class has a positive test image.

    Source:
        Fair self-supervision benchmark (arXiv 1905.01235): `train_svm_low_shot.py`, `test_svm_low_shot.py` and
        `aggregate_low_shot_svm_stats.py`.
    """
    started = time.perf_counter()
    check_shots(train_labels, classes, shots, num_samples)
    skipped = classes_without_positives(test_labels, classes)
    scored = [index for index, name in enumerate(classes) if name not in skipped]
    train_features, test_features = unit_rows(train_features, EPSILON), unit_rows(test_features, EPSILON)
    eigenbasis = fit_eigenbasis(train_features)
    train, test = eigenbasis.train, eigenbasis.project(test_features)
    num_fits = sum(num_samples * len(scored) * len(costs) * (NUM_FOLDS if k >= NUM_FOLDS else 0) for k in shots)
    num_fits += len(shots) * num_samples * len(scored) * len(costs)
    scores = []
    with progress_bar(total=num_fits, title="low-shot SVMs", unit="fits", quiet=quiet) as bar:
        for k in shots:
            samples = sample_labels(train_labels, k, num_samples, seed)[:, :, scored]
            scores.append(_score_samples(train, samples, test, test_labels[:, scored], costs, k, bar.update))
    summary = _summarise(scores, shots, [classes[index] for index in scored], costs)
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
        num_unconverged=sum(each.num_unconverged for each in scores),
        elapsed_s=time.perf_counter() - started,
    )


def check_shots(
    labels: Int[ndarray, "n c"], classes: tuple[str, ...], shots: Sequence[int], num_samples: int = 1
) -> None:
    """Check that the training images allow the samples, before any long computation.

    Raises:
        ValueError: if there is only one class, no sample or no shot, a shot below 1 or given twice, or too few images
            with or without a class.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; give 1 or more")
    if len(classes) < 2:
        raise ValueError(
            f"low-shot needs at least 2 classes, got {len(classes)} ({', '.join(classes)}): the images of the other "
            "classes are the negatives"
        )
    if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
        raise ValueError(f"shots are {list(shots)}; give whole numbers from 1, each once")
    for index, name in enumerate(classes):
        for sign, needed, kind in ((1, max(shots), "with"), (-1, (len(classes) - 1) * max(shots), "without")):
            num_images = int((labels[:, index] == sign).sum())
            if num_images < needed:
                most = num_images if sign == 1 else num_images // (len(classes) - 1)
                raise ValueError(
                    f"{max(shots)} shots need {needed} training images {kind} {name!r}, but there are {num_images}; "
                    f"give --shots of at most {most}"
                )


def sample_labels(labels: Int[ndarray, "n c"], k: int, num_samples: int, seed: int) -> Int[ndarray, "n s c"]:
    """Set all labels but k positives and (classes - 1) * k negatives of each class to 0, for each sample.

    A sample depends on (seed, k, sample, class) alone. The samples of different k and of different classes are
    independent, as in the published `create_voc_low_shot_samples.py`.
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
    """Return the cost for samples too small for cross-validation: 1, or the nearest to it in ratio."""
    return float(min(costs, key=lambda cost: abs(np.log(cost / FIXED_COST))))


@dataclass(frozen=True, kw_only=True)
class _SampleScores:
    """Scores of the samples of one k."""

    test_ap: Float[ndarray, "k s c"]
    """AP on the test images by cost, sample and class."""
    choices: Int[ndarray, "s"]
    """Index of the cost that is chosen for each sample without test labels."""
    num_unconverged: int


def _score_samples(
    train: Projected,
    samples: Int[ndarray, "n s c"],
    test: Projected,
    test_labels: Int[ndarray, "m c"],
    costs: Sequence[float],
    k: int,
    advance: Callable[[int], object],
) -> _SampleScores:
    """Fit all samples, classes and folds at once, from small to large costs."""
    sampled = np.flatnonzero(samples.any(axis=(1, 2)))
    train, labels = train[torch.from_numpy(sampled)], samples[sampled].reshape(len(sampled), -1)
    is_validated = k >= NUM_FOLDS
    folds = assign_folds(labels) if is_validated else np.full(labels.shape, -1)
    # First the SVMs of complete samples, then those of each sample without one fold.
    parts = [labels, *(np.where(folds == fold, 0, labels) for fold in range(NUM_FOLDS if is_validated else 0))]
    y = torch.from_numpy(np.concatenate(parts, axis=1)).double()
    weights = class_weights(y)
    num_problems = labels.shape[1]
    test_ap = np.empty((len(costs), num_problems))
    fold_ap = np.zeros((len(costs), num_problems))
    fits, num_unconverged = None, 0
    for cost_id in np.argsort(costs, kind="stable"):
        fits = fit_svms(train, y, weights * costs[cost_id], fits)
        num_unconverged += int((~fits.converged).sum())
        scores = (test.X @ fits.coef[:, :num_problems]).numpy()
        test_ap[cost_id] = [
            average_precision(column, test_labels[:, index % test_labels.shape[1]])
            for index, column in enumerate(scores.T)
        ]
        if is_validated:
            fold_ap[cost_id] = mean_fold_ap(fits.scores[:, num_problems:].numpy(), labels, folds)
        advance(y.shape[1])
    shape = (len(costs), *samples.shape[1:])
    choices = fold_ap.reshape(shape).mean(axis=2).argmax(axis=0)
    if not is_validated:
        choices = np.full(shape[1], list(costs).index(fixed_cost(costs)))
    return _SampleScores(test_ap=test_ap.reshape(shape), choices=choices, num_unconverged=num_unconverged)


def _summarise(
    scores: Sequence[_SampleScores], shots: Sequence[int], names: Sequence[str], costs: Sequence[float]
) -> dict[str, Any]:
    fields: dict[str, dict[str, Any]] = {
        name: {}
        for name in (
            *("mean_ap", "std", "costs", "per_class_ap", "best_cost_on_test"),
            *("mean_ap_best_cost_on_test", "std_best_cost_on_test", "per_class_ap_best_cost_on_test"),
        )
    }
    for k, own in zip(map(str, shots), scores):
        best = int(own.test_ap.mean(axis=(1, 2)).argmax())
        chosen = own.test_ap[own.choices, np.arange(len(own.choices))]
        fields["costs"][k] = [float(costs[choice]) for choice in own.choices]
        fields["best_cost_on_test"][k] = float(costs[best])
        for suffix, ap in (("", chosen), ("_best_cost_on_test", own.test_ap[best])):
            fields["mean_ap" + suffix][k] = float(ap.mean())
            fields["std" + suffix][k] = float(ap.mean(axis=1).std())
            fields["per_class_ap" + suffix][k] = dict(zip(names, ap.mean(axis=0).tolist()))
    return fields


def _tables(result: Result) -> Tables:
    title = f"VOC07 low-shot, {feature_kind(result)}"
    return {
        f"{title}, cost by test labels": _by_shots(result["mean_ap_best_cost_on_test"]),
        f"{title}, cost without test labels": _by_shots(result["mean_ap"]),
    }


def _by_shots(scores: dict[str, float]) -> dict[str, float | None]:
    return {f"k={shots}": score for shots, score in scores.items()}


def _run_config(config: EvaluationConfig) -> LowShotConfig | None:
    return LowShotConfig(shots=config.shots, features=config.features) if config.shots else None


LOW_SHOT = Evaluation(
    name="low-shot",
    label="Low-shot SVM",
    help="VOC07 with 1 to 96 images of each class: linear SVMs, mean and std over five random samples of the images.",
    data=VocDataset,
    config=LowShotConfig,
    check=check,
    run=run,
    tables=_tables,
    one_process=True,
    file_stem=lambda config: file_stem("low-shot", config.features),
    suite_entries=partial(voc07_entries, "low-shot"),
    run_config=_run_config,
)
