"""Dense retrieval, pixel by pixel, patch by patch and neighbour by neighbour."""

import math
from collections.abc import Sequence

VOID = 255
Mask = Sequence[Sequence[int]]
Vector = Sequence[float]


def frequencies_by_loops(mask: Mask, map_hw: tuple[int, int], num_classes: int) -> list[list[float]]:
    """Return the fraction of each patch's labelled pixels that show each class."""
    height, width = len(mask), len(mask[0])
    counts = [[0] * num_classes for _ in range(map_hw[0] * map_hw[1])]
    for y in range(height):
        for x in range(width):
            row, column = math.floor((y + 0.5) / height * map_hw[0]), math.floor((x + 0.5) / width * map_hw[1])
            if mask[y][x] != VOID:
                counts[row * map_hw[1] + column][mask[y][x]] += 1
    return [[count / sum(own) if sum(own) else 0.0 for count in own] for own in counts]


def sample_by_loops(frequencies: Sequence[Vector], num_patches: int, uniform: Vector) -> list[int]:
    """Return the patches with the smallest (sum over their classes of the patches with that class) x U(0, 1)."""
    num_classes = len(frequencies[0])
    with_class = [sum(1 for patch in frequencies if patch[index] > 0) for index in range(num_classes)]
    scored = []
    for patch, own in enumerate(frequencies):
        classes = [index for index in range(num_classes) if own[index] > 0]
        if classes:
            scored.append((sum(with_class[index] for index in classes) * uniform[patch], patch))
    return [patch for _, patch in sorted(scored)[:num_patches]]


def cosine(first: Vector, second: Vector) -> float:
    """Compute the cosine of two vectors."""
    lengths = math.sqrt(sum(value**2 for value in first)) * math.sqrt(sum(value**2 for value in second))
    return sum(one * other for one, other in zip(first, second)) / lengths


def predict_by_loops(
    bank: Sequence[Vector], frequencies: Sequence[Vector], query: Vector, k: int, temperature: float
) -> list[float]:
    """Return the mean of the neighbours' class frequencies, weighted by the softmax of cosine / temperature."""
    cosines = [cosine(query, patch) for patch in bank]
    nearest = sorted(range(len(bank)), key=lambda row: (-cosines[row], row))[:k]
    weights = [math.exp(cosines[row] / temperature) for row in nearest]
    return [
        sum(weight * frequencies[row][index] for weight, row in zip(weights, nearest)) / sum(weights)
        for index in range(len(frequencies[0]))
    ]


def interpolate_by_loops(values: Sequence[Vector], size_hw: tuple[int, int]) -> list[list[float]]:
    """Enlarge a map bilinearly: the centre of each pixel lies between the centres of at most four patches."""
    height, width = len(values), len(values[0])

    def corners(pixel: int, size: int, count: int) -> tuple[int, int, float]:
        position = min(max((pixel + 0.5) * count / size - 0.5, 0.0), count - 1.0)
        low = math.floor(position)
        return low, min(low + 1, count - 1), position - low

    result = []
    for y in range(size_hw[0]):
        top, bottom, down = corners(y, size_hw[0], height)
        row = []
        for x in range(size_hw[1]):
            left, right, across = corners(x, size_hw[1], width)
            upper = (1 - across) * values[top][left] + across * values[top][right]
            lower = (1 - across) * values[bottom][left] + across * values[bottom][right]
            row.append((1 - down) * upper + down * lower)
        result.append(row)
    return result


def miou_by_loops(predictions: Sequence[Mask], masks: Sequence[Mask], num_classes: int) -> float:
    """Compute the mean over classes, in labels or predictions, of the intersection over the union of all images."""
    ratios = []
    for index in range(num_classes):
        intersection = union = 0
        for prediction, mask in zip(predictions, masks):
            for predicted_row, label_row in zip(prediction, mask):
                for predicted, label in zip(predicted_row, label_row):
                    if label == VOID:
                        continue
                    intersection += predicted == index and label == index
                    union += predicted == index or label == index
        if union:
            ratios.append(intersection / union)
    return sum(ratios) / len(ratios)
