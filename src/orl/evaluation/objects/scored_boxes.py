"""The labelled boxes that classifiers train on and are scored on: rows of the features of all boxes, with classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from orl.evaluation.objects.image_sums import ImageSums
from orl.evaluation.objects.object_dataset import BoxSplits, ObjectBoxes

MIN_CLASS_BOXES = 2
"""Boxes of a class in the training split from which it is scored."""


@dataclass(frozen=True, kw_only=True)
class SplitBoxes:
    """The boxes of one split that count."""

    rows: Int64[ndarray, "b"]
    """Row of each among all boxes of the split."""
    labels: Int64[ndarray, "b"]
    """Index into the classes of `ScoredBoxes`."""
    image_rows: Int64[ndarray, "b"]
    """Row of its image in the split."""


@dataclass(frozen=True, kw_only=True)
class ScoredBoxes:
    """Boxes of both splits, of the classes that can be scored."""

    classes: tuple[str, ...]
    train: SplitBoxes
    test: SplitBoxes
    test_images: tuple[str, ...]
    left_out: Mapping[str, str]
    """Classes that cannot be scored, with the reason."""


def scored_boxes(boxes: BoxSplits) -> ScoredBoxes:
    """Choose the boxes that count: neither difficult nor small, of a class with enough boxes in both splits.

    Raises:
        ValueError: if fewer than two classes are left.
    """
    counts = [_class_counts(each) for each in boxes]
    left_out = {}
    for index, name in enumerate(boxes.train.classes):
        num_train, num_test = int(counts[0][index]), int(counts[1][index])
        if num_train < MIN_CLASS_BOXES or num_test == 0:
            left_out[name] = f"{num_train} boxes to train on and {num_test} to score"
    kept = [index for index, name in enumerate(boxes.train.classes) if name not in left_out]
    if len(kept) < 2:
        raise ValueError(
            f"{len(kept)} classes have {MIN_CLASS_BOXES} boxes to train on and one to score, and a score needs 2 "
            f"classes (left out: {'; '.join(f'{name}: {why}' for name, why in list(left_out.items())[:3])}); give more "
            "images or a smaller --min-box-px"
        )
    return ScoredBoxes(
        classes=tuple(boxes.train.classes[index] for index in kept),
        train=_split_boxes(boxes.train, kept),
        test=_split_boxes(boxes.test, kept),
        test_images=boxes.test.names,
        left_out=left_out,
    )


def class_sums(
    boxes: ScoredBoxes, values: Float[ndarray, "b"], weights: Float[ndarray, "b"] | None = None
) -> ImageSums:
    """Sum a value of each test box by image and class; their ratio to the number of boxes is the class mean.

    Args:
        boxes: the boxes.
        values: such as 1 for a correct prediction and 0 for a wrong one.
        weights: 0 for boxes that do not count; all count if not given.
    """
    shape = (1, len(boxes.test_images), len(boxes.classes))
    numerators, denominators = np.zeros(shape), np.zeros(shape)
    weights = np.ones(len(values)) if weights is None else weights
    index = (boxes.test.image_rows, boxes.test.labels)
    np.add.at(numerators[0], index, values * weights)
    np.add.at(denominators[0], index, weights)
    return ImageSums(images=boxes.test_images, numerators=numerators, denominators=denominators)


def _class_counts(boxes: ObjectBoxes) -> Int64[ndarray, "c"]:
    classes = [own[scored] for own, scored in zip(boxes.box_classes, boxes.scored)]
    return np.bincount(np.concatenate(classes), minlength=len(boxes.classes))


def _split_boxes(boxes: ObjectBoxes, kept: list[int]) -> SplitBoxes:
    columns = np.full(len(boxes.classes), -1, dtype=np.int64)
    columns[kept] = np.arange(len(kept))
    labels = columns[np.concatenate(boxes.box_classes)]
    image_rows = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes.boxes])
    rows = np.flatnonzero(np.concatenate(boxes.scored) & (labels >= 0))
    return SplitBoxes(rows=rows, labels=labels[rows], image_rows=image_rows[rows])
