"""Average precision: the quality of a ranking of images by a score, for one class."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray


def average_precision(scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Compute the area under the interpolated precision-recall curve, as VOC 2010 and later do.

    The precision at a recall is the highest precision at that recall or above. All points count, not eleven.
    Images of equal score enter the ranking together, as one point of the curve. The published code leaves their
    order to the sort, so that the score of a collapsed backbone would depend on file names.

    Args:
        scores: higher where the class is more likely.
        labels: 1 present, -1 absent, 0 ignored.

    Returns:
        In (0, 1]; with all scores equal, the fraction of positives.

    Raises:
        ValueError: if a label is none of the three, a score is not finite or no image is positive.

    Source:
        `get_precision_recall` of the fair self-supervision benchmark (arXiv 1905.01235), for scores without ties.
    """
    precision, recall_steps = _precision_recall(scores, labels)
    return float((recall_steps * np.maximum.accumulate(precision[::-1])[::-1]).sum())


def step_average_precision(scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]) -> float:
    """Compute the mean precision at the positive images without interpolation, as scikit-learn does.

    Arguments and errors are those of `average_precision`.
    """
    precision, recall_steps = _precision_recall(scores, labels)
    return float((recall_steps * precision).sum())


def _precision_recall(
    scores: Shaped[ndarray, "n"], labels: Int[ndarray, "n"]
) -> tuple[Float[ndarray, "t"], Float[ndarray, "t"]]:
    """Return the precision at every threshold, from high to low, and the recall that the threshold adds."""
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
    num_positive = np.cumsum(positive[order])[ends]
    return num_positive / (ends + 1), np.diff(num_positive, prepend=0) / positive.sum()


def classes_without_positives(test_labels: Int[ndarray, "m c"], classes: tuple[str, ...]) -> dict[str, str]:
    """Return the classes that cannot be scored, with the reason.

    Raises:
        ValueError: if no class can be scored.
    """
    reasons = {
        name: "no positive test image" for name, column in zip(classes, test_labels.T) if not (column == 1).any()
    }
    if len(reasons) == len(classes):
        raise ValueError(f"none of {len(classes)} classes has a positive test image; check the splits")
    return reasons


def mean_average_precision(per_class_ap: Mapping[str, float]) -> float:
    """Compute the mean over the classes that have a score.

    Raises:
        ValueError: if there is none.
    """
    if not per_class_ap:
        raise ValueError("mean average precision needs at least 1 class with a score, got 0; check the splits")
    return float(np.mean(list(per_class_ap.values())))
