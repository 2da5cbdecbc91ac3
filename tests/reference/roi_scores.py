"""Scores of labelled boxes as loops over boxes, written from the definitions."""

import math

import numpy as np
from numpy import ndarray


def knn_classes(train: ndarray, labels: ndarray, test: ndarray, k: int, temperature: float) -> list[int]:
    """Predict the class of each test box by the weighted vote of its k most similar training boxes."""
    found = []
    for query in test:
        cosines = [float(query @ row / np.linalg.norm(query) / np.linalg.norm(row)) for row in train]
        nearest = sorted(range(len(train)), key=lambda index: -cosines[index])[:k]
        votes: dict[int, float] = {}
        for index in nearest:
            votes[int(labels[index])] = votes.get(int(labels[index]), 0.0) + math.exp(cosines[index] / temperature)
        found.append(max(sorted(votes), key=lambda label: votes[label]))
    return found


def class_mean_accuracy(predicted: list[int], labels: ndarray) -> float:
    """Return the mean over classes of the fraction of correct boxes."""
    per_class = []
    for label in sorted(set(labels.tolist())):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        per_class.append(sum(predicted[row] == label for row in rows) / len(rows))
    return sum(per_class) / len(per_class)


def retrieval_map(features: ndarray, labels: ndarray, images: ndarray) -> float:
    """Return the class mean of the average precision of each box among the boxes of other images."""
    by_class: dict[int, list[float]] = {}
    for query in range(len(features)):
        others = [row for row in range(len(features)) if images[row] != images[query]]
        cosines = {
            row: float(
                features[query] @ features[row] / np.linalg.norm(features[query]) / np.linalg.norm(features[row])
            )
            for row in others
        }
        ranked = sorted(others, key=lambda row: -cosines[row])
        relevant = [labels[row] == labels[query] for row in ranked]
        if not any(relevant):
            continue
        precisions = [sum(relevant[: place + 1]) / (place + 1) for place in range(len(ranked)) if relevant[place]]
        by_class.setdefault(int(labels[query]), []).append(sum(precisions) / len(precisions))
    return sum(sum(values) / len(values) for values in by_class.values()) / len(by_class)
