"""Classes of labelled boxes by a linear classifier: multinomial logistic regression on frozen features."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from orl.evaluation.classification.logistic import (
    MAX_LBFGS_ITERATIONS,
    LogisticFit,
    Moments,
    Shards,
    find_moments,
    fit_logistic,
)
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import open_object_features
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables, row_of
from orl.evaluation.objects.roi_features import RoiConfig, RoiFeatures, roi_features
from orl.evaluation.objects.roi_knn import about_boxes, box_inputs
from orl.evaluation.objects.scored_boxes import ScoredBoxes, class_sums, scored_boxes
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result
from orl.processes import Processes
from orl.progress import progress_bar

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""L2 penalties to choose from, the largest first: each fit starts from the one before."""


@dataclass(frozen=True, kw_only=True)
class RoiLinearConfig(RoiConfig):
    """Multinomial logistic regression."""

    folds: int = 5
    """Folds of the cross-validation that chooses the strength of the penalty; boxes of an image share a fold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; cross-validation needs 2 or more")


def check(data: ObjectDataset, config: RoiLinearConfig) -> None:
    """Read the labels and check that two classes or more can be scored, and that each fold has an image."""
    num_images = len(np.unique(scored_boxes(data.boxes).train.image_rows))
    if num_images < config.folds:
        raise ValueError(
            f"{num_images} images with boxes to train on cannot be divided into {config.folds} folds; give more images "
            "or fewer --folds"
        )


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: RoiLinearConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Score a backbone by a linear classifier of boxes, and write the result."""
    check(data, config)
    inputs = box_inputs(backbone, data, config, output)
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    boxes = scored_boxes(data.boxes)
    rows: list[Row] = []
    fits: dict[str, Any] = {}
    for each in roi_features(open_object_features(backbone, data, output), data, config):
        predicted, fits[each.name] = _fit_and_predict(each, boxes, config, output)
        correct = class_sums(boxes, (predicted == boxes.test.labels).astype(np.float64))
        rows.append(row_of(f"{each.name}, top-1", correct, seed=output.seed, chance=1 / len(boxes.classes)))
    result = object_result(
        "roi-linear",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=backbone.training_deviations,
        elapsed_s=time.perf_counter() - started,
        about={**about_boxes(data, boxes, config), "fits": fits},
    )
    return write_result(output, result, inputs)


def _fit_and_predict(
    features: RoiFeatures, boxes: ScoredBoxes, config: RoiLinearConfig, output: EvaluationOutput
) -> tuple[Int[ndarray, "m"], dict[str, Any]]:
    return predict_linear(
        features.train[boxes.train.rows],
        boxes.train.labels,
        boxes.train.image_rows,
        features.test[boxes.test.rows],
        folds=config.folds,
        seed=output.seed,
        title=f"linear classifier, {features.name}",
        quiet=output.quiet,
    )


def predict_linear(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n"],
    groups: Int[ndarray, "n"],
    test_features: Float[ndarray, "m d"],
    *,
    folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    title: str = "linear classifier",
    quiet: bool = True,
) -> tuple[Int[ndarray, "m"], dict[str, Any]]:
    """Fit a logistic regression to standardised features and predict the class of each test box.

    Args:
        train_features: one row per box.
        train_labels: class of each box, from 0.
        groups: image of each box; its boxes are in one fold.
        test_features: one row per box.
        folds: folds of the cross-validation.
        strengths: L2 penalties, the largest first; of equally accurate ones the largest is chosen.
        seed: seed of the folds.
        title: title of the progress bar.
        quiet: show no progress bar.

    Returns:
        The classes, and JSON values: the chosen penalty, the accuracy of each, and whether the fits converged.
    """
    X, y = torch.from_numpy(np.array(train_features, dtype=np.float32)), torch.from_numpy(train_labels)
    num_classes = int(y.max()) + 1
    in_fold = _fold_of_groups(groups, folds, seed)
    correct = np.zeros(len(strengths))
    num_unconverged = 0
    with progress_bar(total=(folds + 1) * len(strengths), title=title, unit="fits", quiet=quiet) as bar:
        for fold in range(folds):
            fitted, others = torch.from_numpy(in_fold != fold), torch.from_numpy(in_fold == fold)
            moments = find_moments(_shards(X[fitted], y[fitted]))
            fits = _path(X[fitted], y[fitted], num_classes, strengths, moments, bar.update)
            for column, fit in enumerate(fits):
                correct[column] += int((_predict(fit, moments, X[others]) == y[others]).sum())
                num_unconverged += not fit.converged
        chosen = int(correct.argmax())
        moments = find_moments(_shards(X, y))
        *_, last = _path(X, y, num_classes, strengths[: chosen + 1], moments, bar.update)
        bar.update(len(strengths) - chosen - 1)
    predicted = _predict(last, moments, torch.from_numpy(np.array(test_features, dtype=np.float32)))
    return predicted.numpy(), {
        "l2": strengths[chosen],
        "validation_top1": {f"{l2:g}": count / len(y) for l2, count in zip(strengths, correct.tolist())},
        "num_unconverged": num_unconverged + (not last.converged),
        "max_iterations": MAX_LBFGS_ITERATIONS,
    }


def _fold_of_groups(groups: Int[ndarray, "n"], folds: int, seed: int) -> Int[ndarray, "n"]:
    """Divide the groups at random into folds of equal size; return the fold of each row."""
    names, index = np.unique(groups, return_inverse=True)
    return (np.random.default_rng(seed).permutation(len(names)) % folds)[index]


def _path(
    X: torch.Tensor, y: torch.Tensor, num_classes: int, strengths: Sequence[float], moments: Moments, report: Any
) -> list[LogisticFit]:
    """Fit each strength from the fit before."""
    fits: list[LogisticFit] = []
    standardised = moments.standardise(X)
    for l2 in strengths:
        fits.append(fit_logistic(_shards(standardised, y), num_classes, l2, start=fits[-1] if fits else None))
        report(1)
    return fits


def _predict(fit: LogisticFit, moments: Moments, X: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(moments.standardise(X), fit.weight, fit.bias).argmax(dim=1)


def _shards(X: torch.Tensor, y: torch.Tensor) -> Shards:
    return lambda: [(X, y)]


ROI_LINEAR = Evaluation(
    name="roi-linear",
    label="RoI linear",
    help="Classes of labelled boxes by multinomial logistic regression on frozen features.",
    data=ObjectDataset,
    config=RoiLinearConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "roi-linear", check),
)
