"""Clusters and classes as loops: counts, and the best assignment by trying every permutation."""

from itertools import permutations

import numpy as np
from numpy import ndarray


def count_pixels(cluster_maps: list[ndarray], labels: ndarray, clusters: int, classes: int, void: int) -> ndarray:
    """Count the known pixels of each cluster and class."""
    counts = np.zeros((clusters, classes), dtype=np.int64)
    for cluster_map, mask in zip(cluster_maps, labels):
        for cluster, label in zip(cluster_map.ravel(), mask.ravel()):
            if label != void:
                counts[cluster, label] += 1
    return counts


def best_assignment_iou(counts: ndarray) -> float:
    """Return the largest sum of IoUs over all assignments of clusters to classes."""
    number = len(counts)

    def iou(cluster: int, label: int) -> float:
        union = counts[cluster].sum() + counts[:, label].sum() - counts[cluster, label]
        return float(counts[cluster, label] / max(union, 1))

    return max(sum(iou(cluster, order[cluster]) for cluster in range(number)) for order in permutations(range(number)))
