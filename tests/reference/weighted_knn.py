"""Weighted nearest neighbours for several labels an image, one image and one class at a time."""

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Compute the cosine of two vectors; 0 for a vector of zeros."""
    lengths = math.sqrt(sum(value * value for value in first)) * math.sqrt(sum(value * value for value in second))
    return sum(a * b for a, b in zip(first, second)) / lengths if lengths else 0.0


def votes_by_loops(
    train: Rows, labels: Sequence[Sequence[int]], test: Rows, k: int, temperature: float
) -> list[list[float]]:
    """Compute the weighted fraction of positives among the labelled neighbours of each test image."""
    result = []
    for image in test:
        cosines = [cosine(image, other) for other in train]
        nearest = sorted(range(len(train)), key=lambda index: (-cosines[index], index))[:k]
        row = []
        for class_index in range(len(labels[0])):
            voters = [index for index in nearest if labels[index][class_index] != 0]
            weights = [math.exp(cosines[index] / temperature) for index in voters]
            positive = [w for w, index in zip(weights, voters) if labels[index][class_index] == 1]
            row.append(sum(positive) / sum(weights) if weights else 0.0)
        result.append(row)
    return result
