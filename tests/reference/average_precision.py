"""Average precision as a count at every threshold, independent of the package."""

from collections.abc import Sequence


def average_precision_by_thresholds(scores: Sequence[float], labels: Sequence[int]) -> float:
    """Average, over the positive images, the best precision of any threshold that finds the image."""
    known = [(score, label) for score, label in zip(scores, labels) if label != 0]
    best_precisions = []
    for score, label in known:
        if label != 1:
            continue
        best = 0.0
        for threshold, _ in known:
            if threshold > score:
                continue
            found = [other for value, other in known if value >= threshold]
            best = max(best, found.count(1) / len(found))
        best_precisions.append(best)
    return sum(best_precisions) / len(best_precisions)
