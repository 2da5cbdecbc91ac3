"""BYOL's and ORL's equations as loops over images and dimensions."""

import math


def regression_loss_by_loops(predictions: list[list[float]], targets: list[list[float]]) -> float:
    """Compute the mean over images of |p / |p| - z / |z||^2."""
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        length_p = math.sqrt(sum(value * value for value in prediction))
        length_z = math.sqrt(sum(value * value for value in target))
        total += sum((p / length_p - z / length_z) ** 2 for p, z in zip(prediction, target, strict=True))
    return total / len(predictions)
