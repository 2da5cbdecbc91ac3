"""LOST as loops over patches, written from Section 3 of the paper, and its repetition for several objects."""

import numpy as np
from numpy import ndarray


def lost_box(patches: ndarray, height: int, width: int, num_expansion: int) -> list[int]:
    """Return the box of the object around the seed, in patches."""
    return lost_boxes(patches, height, width, num_expansion, [0.0], 1)[0]


def lost_boxes(
    patches: ndarray, height: int, width: int, num_expansion: int, thresholds: list[float], max_objects: int
) -> list[list[int]]:
    """Return the boxes of one object after the other, each of the patches that the ones before have left."""
    number = height * width
    similarity = [[float(patches[i] @ patches[j]) for j in range(number)] for i in range(number)]
    boxes = []
    for threshold in thresholds:
        degree = [sum(similarity[i][j] > threshold for j in range(number) if j != i) for i in range(number)]
        left = sorted(range(number), key=lambda i: degree[i])
        for _ in range(max_objects):
            if not left:
                break
            seed = left[0]
            joined = [i for i in left[:num_expansion] if similarity[seed][i] > threshold]
            mask = np.zeros((height, width), dtype=bool)
            for j in left:
                mean = sum(similarity[i][j] for i in joined) / len(joined) if joined else -np.inf
                mask[divmod(j, width)] = mean > threshold
            reached = _component(mask, divmod(seed, width))
            left = [i for i in left if divmod(i, width) not in reached]
            rows, columns = [row for row, _ in reached], [column for _, column in reached]
            boxes.append([min(columns), min(rows), max(columns) + 1, max(rows) + 1])
    return boxes


def _component(mask: ndarray, seed: tuple[int, int]) -> set[tuple[int, int]]:
    reached, waiting = set(), [seed]
    while waiting:
        row, column = waiting.pop()
        if (row, column) in reached:
            continue
        reached.add((row, column))
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1] and mask[near]:
                waiting.append(near)
    return reached
