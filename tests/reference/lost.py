"""LOST as loops over patches, written from Section 3 of the paper."""

import numpy as np
from numpy import ndarray


def lost_box(patches: ndarray, height: int, width: int, num_expansion: int) -> list[int]:
    """Return the box of the object around the seed, in patches."""
    number = height * width
    similarity = [[float(patches[i] @ patches[j]) for j in range(number)] for i in range(number)]
    degree = [sum(similarity[i][j] > 0 for j in range(number) if j != i) for i in range(number)]
    ranked = sorted(range(number), key=lambda i: degree[i])
    seed = ranked[0]
    joined = [i for i in ranked[:num_expansion] if similarity[seed][i] > 0]
    mask = np.array([sum(similarity[i][j] for i in joined) > 0 for j in range(number)]).reshape(height, width)
    reached, waiting = set(), [divmod(seed, width)]
    while waiting:
        row, column = waiting.pop()
        if (row, column) in reached:
            continue
        reached.add((row, column))
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= near[0] < height and 0 <= near[1] < width and mask[near]:
                waiting.append(near)
    rows, columns = [row for row, _ in reached], [column for _, column in reached]
    return [min(columns), min(rows), max(columns) + 1, max(rows) + 1]
