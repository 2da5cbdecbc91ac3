"""Average precision: how well a score ranks the images that show a class before those that do not."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray


def average_precision(scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Area under the interpolated precision-recall curve.

    Precision at a recall is the best precision at that recall or a higher one; all points count (VOC 2010 and
    later), not eleven. Images of equal score enter the ranking together, as one point of the curve: the
    published code leaves their order to the sort, which would let the score of a collapsed backbone depend on
    file names.

    Args:
        scores: higher where the class is more likely.
        labels: 1 present, -1 absent, 0 ignored.

    Returns:
        In (0, 1]; with all scores equal, the share of positives.

    Raises:
        ValueError: if a label is none of the three, a score is not finite or no image is positive.

    Source:
        `get_precision_recall` of the fair self-supervision benchmark (arXiv 1905.01235), for scores without ties.
    """
    precision, recall_steps = _precision_recall(scores, labels)
    return float((recall_steps * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def step_average_precision(scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Mean precision at the positive images, as scikit-learn computes it: nothing is interpolated.

    Args:
        scores: as in `average_precision`; the rest, too, is as there.
        labels: 1 present, -1 absent, 0 ignored.
    """
    precision, recall_steps = _precision_recall(scores, labels)
    return float((recall_steps * precision).sum())


def _precision_recall(
    scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]
) -> tuple[Float[ndarray, "t"], Float[ndarray, "t"]]:
    """At every threshold, from high to low, the precision and how much recall it adds."""
    known = labels != 0
    if not (np.abs(labels) <= 1).all():
        raise ValueError(f"labels must be 1, -1 or 0, got {sorted(set(labels.tolist()) - {-1, 0, 1})[:3]}")
    scores, positive = scores[known], labels[known] == 1
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite; check the features")
    if not positive.any():
        raise ValueError(f"average precision needs a positive image, got 0 among {len(scores)}; leave the class out")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    num_found = np.cumsum(positive[order])[ends]
    return num_found / (ends + 1), np.diff(num_found, prepend=0) / positive.sum()


def unseen_classes(test_labels: Int[ndarray, "m c"], classes: tuple[str, ...]) -> dict[str, str]:
    """Classes that cannot be scored, with the reason.

    Raises:
        ValueError: if that is so of all classes.
    """
    reasons = {
        name: "no positive test image" for name, column in zip(classes, test_labels.T) if not (column == 1).any()
    }
    if len(reasons) == len(classes):
        raise ValueError(f"none of {len(classes)} classes has a positive test image; check the splits")
    return reasons


def class_average_precisions(
    scores: Shaped[ndarray, "n c"], labels: Int[ndarray, "n c"], classes: tuple[str, ...]
) -> tuple[dict[str, float], dict[str, str]]:
    """Average precision of every class that has one.

    Returns:
        The average precision of each class with a positive image, and the reason for each class without.

    Raises:
        ValueError: as `unseen_classes`.
    """
    skipped = unseen_classes(labels, classes)
    per_class_ap = {
        name: average_precision(scores[:, index], labels[:, index])
        for index, name in enumerate(classes)
        if name not in skipped
    }
    return per_class_ap, skipped


def mean_average_precision(per_class_ap: Mapping[str, float]) -> float:
    """Mean over the classes that could be scored.

    Raises:
        ValueError: if there is none.
    """
    if not per_class_ap:
        raise ValueError("0 classes could be scored: no class has labelled images enough; check the splits")
    return float(np.mean(list(per_class_ap.values())))
