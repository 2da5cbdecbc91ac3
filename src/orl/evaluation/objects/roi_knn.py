"""Classes of labelled boxes by a weighted kNN, and retrieval of boxes of the same class: nothing is trained."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from orl.config import EvaluationConfig
from orl.evaluation.arrays import unit_rows
from orl.evaluation.evaluated_backbone import EvaluatedBackbone
from orl.evaluation.knn import check_neighbours, weighted_votes
from orl.evaluation.objects.object_dataset import ObjectDataset
from orl.evaluation.objects.object_features import feature_inputs, open_object_features
from orl.evaluation.objects.object_result import Row, object_entries, object_result, object_tables, row_of
from orl.evaluation.objects.roi_features import RoiConfig, roi_features, run_sizes, statistics_text
from orl.evaluation.objects.scored_boxes import ScoredBoxes, class_sums, scored_boxes
from orl.evaluation.output import EvaluationOutput, finished, write_result
from orl.evaluation.protocol import Evaluation, Result
from orl.processes import Processes

BLOCK_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class RoiKnnConfig(RoiConfig):
    """Weighted vote of the nearest training boxes."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Temperature of a vote's weight, exp(cosine / temperature)."""


def check(data: ObjectDataset, config: RoiKnnConfig) -> None:
    """Read the labels and check that two classes or more can be scored by k neighbours."""
    check_neighbours(config.k, config.temperature, len(scored_boxes(data.boxes).train.rows))


def run(
    backbone: EvaluatedBackbone, data: ObjectDataset, config: RoiKnnConfig, output: EvaluationOutput, _: Processes
) -> Result:
    """Score a backbone by the votes of the nearest training boxes, and write the result."""
    check(data, config)
    inputs = box_inputs(backbone, data, config, output)
    if (result := finished(output, inputs)) is not None:
        return result
    started = time.perf_counter()
    boxes = scored_boxes(data.boxes)
    rows: list[Row] = []
    for each in roi_features(open_object_features(backbone, data, output), data, config):
        train, test = each.train[boxes.train.rows], each.test[boxes.test.rows]
        rows += knn_rows(each.name, train, test, boxes, config, output)
    result = object_result(
        "roi-knn",
        rows,
        backbone=backbone.label,
        data=str(data.data),
        protocol_deviations=backbone.training_deviations,
        elapsed_s=time.perf_counter() - started,
        about=about_boxes(data, boxes, config),
    )
    return write_result(output, result, inputs)


def knn_rows(
    name: str,
    train_features: Float[ndarray, "n d"],
    test_features: Float[ndarray, "m d"],
    boxes: ScoredBoxes,
    config: RoiKnnConfig,
    output: EvaluationOutput,
) -> list[Row]:
    """Return top-1 and retrieval mAP of the features of the boxes that count."""
    predicted = predict_classes(
        train_features, boxes.train.labels, test_features, k=config.k, temperature=config.temperature
    )
    correct = (predicted == boxes.test.labels).astype(np.float64)
    precision, is_query = retrieval_precision(test_features, boxes.test.labels, boxes.test.image_rows)
    num_classes = len(boxes.classes)
    retrieval = class_sums(boxes, precision, is_query.astype(np.float64))
    return [
        row_of(f"{name}, top-1", class_sums(boxes, correct), seed=output.seed, chance=1 / num_classes),
        row_of(f"{name}, retrieval mAP", retrieval, seed=output.seed, chance=_relevant_fraction(boxes)),
    ]


def predict_classes(
    train_features: Float[ndarray, "n d"],
    train_labels: Int[ndarray, "n"],
    test_features: Float[ndarray, "m d"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> Int[ndarray, "m"]:
    """Predict the class with the largest vote of the k nearest training boxes; of equal votes the first class.

    Args:
        train_features: one row per box.
        train_labels: class of each box, from 0.
        test_features: one row per box.
        k: neighbours that vote.
        temperature: the smaller, the more the nearest ones count.
    """
    columns = np.where(train_labels[:, None] == np.arange(train_labels.max() + 1), 1, -1)
    return weighted_votes(train_features, columns, test_features, k=k, temperature=temperature).argmax(axis=1)


def retrieval_precision(
    features: Float[ndarray, "n d"], labels: Int[ndarray, "n"], image_rows: Int[ndarray, "n"]
) -> tuple[Float[ndarray, "n"], Bool[ndarray, "n"]]:
    """Compute the average precision of each box as a query among the boxes of all other images.

    Boxes of its class are relevant. Other boxes are sorted by cosine; equal ones keep their order.

    Args:
        features: one row per box.
        labels: class of each box.
        image_rows: image of each box; boxes of the query's own image are left out.

    Returns:
        Average precision, and whether a box is a query: one with a relevant box in another image.
    """
    units = unit_rows(features, 0.0)
    precision, is_query = np.zeros(len(units)), np.zeros(len(units), dtype=bool)
    for start in range(0, len(units), BLOCK_SIZE):
        block = slice(start, start + BLOCK_SIZE)
        cosines = units[block] @ units.T
        elsewhere = image_rows[block, None] != image_rows[None]
        order = np.argsort(np.where(elsewhere, -cosines, np.inf), axis=1, kind="stable")
        relevant = np.take_along_axis(elsewhere & (labels[block, None] == labels[None]), order, axis=1)
        found = relevant.cumsum(axis=1)
        at_relevant = (relevant * found / np.arange(1, len(units) + 1)).sum(axis=1)
        is_query[block] = found[:, -1] > 0
        precision[block] = at_relevant / np.maximum(found[:, -1], 1)
    return precision, is_query


def _relevant_fraction(boxes: ScoredBoxes) -> float:
    """Return the mean over classes of the fraction of test boxes of the class: about the mAP of a random order."""
    counts = np.bincount(boxes.test.labels, minlength=len(boxes.classes))
    return float((counts / counts.sum()).mean())


def box_inputs(backbone: EvaluatedBackbone, data: ObjectDataset, config: Any, output: EvaluationOutput) -> Result:
    """Return all inputs that determine a result on boxes and its interval."""
    return {
        **feature_inputs(backbone, output),
        "boxes": [each.fingerprint for each in data.boxes],
        **asdict(config),
        "seed": output.seed,
    }


def about_boxes(data: ObjectDataset, boxes: ScoredBoxes, config: RoiConfig) -> Result:
    """Describe the boxes and the features of a result."""
    splits = data.boxes
    return {
        "train_split": splits.train.split,
        "test_split": splits.test.split,
        "num_train": len(splits.train),
        "num_test": len(splits.test),
        "num_train_boxes": len(boxes.train.rows),
        "num_test_boxes": len(boxes.test.rows),
        "min_box_px": data.min_box_px,
        "classes": list(boxes.classes),
        "left_out_classes": dict(boxes.left_out),
        "statistics": statistics_text(config),
        **asdict(config),
    }


def _run_config(config: EvaluationConfig) -> RoiKnnConfig | None:
    crop_px, map_px = run_sizes(config)
    return RoiKnnConfig(crop_px=crop_px, map_px=map_px) if config.objects else None


ROI_KNN = Evaluation(
    name="roi-knn",
    label="RoI kNN",
    help="Classes of labelled boxes by the weighted vote of the nearest training boxes, and retrieval mAP.",
    data=ObjectDataset,
    config=RoiKnnConfig,
    check=check,
    run=run,
    tables=object_tables,
    one_process=True,
    suite_entries=partial(object_entries, "roi-knn", check),
    run_config=_run_config,
)
